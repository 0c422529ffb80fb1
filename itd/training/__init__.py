"""Training: random-option fine-tuning, from scratch, recalibration, and what comes of it."""
