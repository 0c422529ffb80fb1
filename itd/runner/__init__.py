"""The sweep: what was asked for, the job made of it, its units, the scores."""
