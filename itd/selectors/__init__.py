"""Choosing a configuration without the label: learners, their cross-validated measure, prediction with one."""
