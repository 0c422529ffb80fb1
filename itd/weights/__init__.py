"""Which numbers: weights from a file, from torchvision, or trained once on the embedded digits."""
