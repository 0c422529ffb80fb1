"""The figures that the ITD paper publishes in its Tables 1 to 3, in percent, to set beside one's own.

Source: The Untapped Potential of Off-the-Shelf Convolutional Neural Networks, section 4. Measured by its authors on the
50,000 images of the ImageNet validation split, with torchvision's weights.
"""

from __future__ import annotations

from typing import NamedTuple


class Bounds(NamedTuple):
    """Worst, median and best accuracy in percent."""

    worst: float
    median: float
    best: float


STATIC = {"resnet50": 76.5, "resnext50_32x4d": 77.0, "mobilenet_v2": 71.9, "densenet121": 74.5}
"""Table 1: accuracy of the pretrained networks, in percent."""

TABLE_1 = {
    "resnet50": {
        "stride": Bounds(0.1, 11.2, 93.7),
        "dilation": Bounds(21.6, 58.0, 88.9),
        "size": Bounds(0, 32.6, 90.7),
    },
    "resnext50_32x4d": {
        "stride": Bounds(0, 1.8, 94.0),
        "dilation": Bounds(0.2, 4.8, 90.8),
        "size": Bounds(0, 6.2, 92.4),
    },
    "mobilenet_v2": {
        "stride": Bounds(0, 0.4, 92.1),
        "dilation": Bounds(0.0, 0.5, 83.7),
        "size": Bounds(0, 0.1, 82.3),
    },
    "densenet121": {
        "stride": Bounds(0, 14.1, 93.2),
        "dilation": Bounds(18.9, 55.8, 87.5),
        "size": Bounds(0, 27.7, 88.5),
    },
}
"""Table 1: model -> attribute -> bounds of all configurations."""

TABLE_2 = {
    "stride": (Bounds(0.1, 11.2, 93.7), Bounds(1.5, 57.6, 92.2)),
    "dilation": (Bounds(21.6, 58.0, 88.9), Bounds(64.6, 76.0, 84.6)),
    "size": (Bounds(0, 32.6, 90.7), Bounds(49.6, 75.3, 88.1)),
}
"""Table 2: attribute -> ResNet-50 before and after random-option fine-tuning."""

TABLE_3 = {
    ("stride", "dilation"): (25, Bounds(0.4, 47.9, 95.0)),
    ("stride", "size"): (25, Bounds(0, 35.3, 95.8)),
    ("dilation", "size"): (25, Bounds(0.2, 43.0, 92.7)),
    ("stride", "dilation", "size"): (8, Bounds(0.1, 32.9, 94.7)),
}
"""Table 3: attributes -> configurations of each, and the bounds of their combination in ResNet-50.

The table's text has lost which columns its check marks stand in. The second row is stride and size, which section 4.4
names with 95.8; the other two are read in the order in which the pairs of columns come."""
