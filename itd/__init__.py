"""itd: an oracle evaluation engine for inference-time-dynamic CNNs."""

__version__ = "0.1.0"
