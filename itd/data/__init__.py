"""Which pixels: image sets and where they come from, preprocessing, batches."""
