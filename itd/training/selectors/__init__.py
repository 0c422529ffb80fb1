"""Selectors that look at the image: learnt on a sweep's rows, cross-validated, saved, and used by `itd predict`."""
