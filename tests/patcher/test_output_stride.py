"""The output stride of networks that shapes alone, or numbers of another format, do not run."""

import pytest
import torch
from torch import nn

from itd.errors import ModelError
from itd.patcher.output_stride import output_stride


class Net(nn.Module):
    """Lowers the resolution eightfold: 2 by a convolution, 2 by a pool, 2 by a convolution."""

    def __init__(self):
        super().__init__()
        self.a, self.pool, self.b = nn.Conv2d(3, 4, 3, 2, 1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, 2, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.b(self.pool(self.a(x))).mean((2, 3)))


class Reading(Net):
    def forward(self, x):
        return super().forward(x if float(x.sum()) < 1e9 else -x)


class Inferring(Net):
    @torch.inference_mode()
    def forward(self, x):
        return super().forward(x)


class Refusing(Net):
    def forward(self, x):
        raise ValueError("never\nat all")


@pytest.mark.parametrize("make", [Net, Reading, Inferring, lambda: Net().double(), lambda: Net().half()])
def test_the_output_stride_is_measured_on_shapes_or_for_real(make):
    assert output_stride(make(), (3, 40, 40)) == 8


def test_what_cannot_be_measured_says_why_in_one_line():
    with pytest.raises(ModelError, match=r"cannot be measured on an image of \(3, 40, 40\) \(never\); give"):
        output_stride(Refusing(), (3, 40, 40))
