"""Networks that were not written for torch.fx: the tree gives their own logits, in chunks of any size."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from itd.engine.plain import PlainExecutor
from itd.engine.rows import META_ROWS, Rows, Scalar, counted, mapped, scalar_key, symbolic
from itd.engine.tracing import trace
from itd.errors import TraceError
from itd.patcher import model_space, patch
from support import engine

SHAPE = (3, 16, 12)


def conv(channels=6):
    return nn.Conv2d(channels, channels, 3, padding=1)


class Base(nn.Module):
    """Two sites with `between` from the first to the second."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b, self.head = nn.Conv2d(3, 6, 3, padding=1), conv(), conv(), nn.Linear(6, 5)

    def between(self, x):
        return x

    def forward(self, x):
        x = F.relu(self.a(self.stem(x)))
        return self.head(self.b(self.between(x)).relu().mean((2, 3)))


class Deciding(nn.Module):
    """Decides by a shape, and changes what it is given in place."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x):
        x += 1
        return self.norm(F.pad(x, (0, 1)) if x.shape[-1] % 2 else x)


class WithOpaqueModule(Base):
    def __init__(self):
        super().__init__()
        self.inner = Deciding()

    def between(self, x):
        return self.inner(x * 1)


class WithToken(Base):
    """A class token for each image, tokens of a part of the image beside it, sizes used across a site."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 6))

    def forward(self, x):
        x = F.relu(self.a(self.stem(x)))
        rows, channels, height, width = x.shape
        y = self.b(x)
        tokens = torch.cat([self.token.expand(rows, -1, -1), y.flatten(2).transpose(1, 2)], 1)
        grid = tokens[:, 1:].transpose(1, 2).reshape(rows, channels, height, width)
        return self.head((grid * tokens[:, 0, :, None, None]).mean((2, 3)))


class WithWindows(Base):
    """Windows of each image as rows of their own, through both sites."""

    def forward(self, x):
        x = self.stem(x)
        rows, channels, height, width = x.size()
        windows = x.view(rows, channels, 2, height // 2, 2, width // 2).permute(0, 2, 4, 1, 3, 5)
        windows = self.b(F.relu(self.a(windows.reshape(rows * 4, channels, height // 2, width // 2))))
        return self.head(windows.view(windows.shape[0] // 4, 4, channels, -1).mean((1, 3)))


class WithPositions(Base):
    """A table made of sizes alone, used before and after a site, and a slice by sizes."""

    def forward(self, x):
        x = self.stem(x)
        size = x.shape[-2:]
        table = torch.arange(size[0] * size[1], device=x.device, dtype=x.dtype).view(1, 1, size[0], size[1]) / 100
        x = self.b(F.relu(self.a(x + table)) * table)[:, :, : size[0] - 1]
        return self.head((x * table[:, :, 1:]).mean((2, 3)))


class Halved(nn.Conv2d):
    """A convolution that computes in its own way."""

    def forward(self, x):
        return super().forward(x) / 2


class WithOwnConvolution(Base):
    def __init__(self):
        super().__init__()
        self.own = Halved(6, 6, 1)

    def between(self, x):
        return self.own(x) if x.shape[0] else x


class Caching(Base):
    """Keeps a tensor of its first forward."""

    def __init__(self):
        super().__init__()
        self.kept = {}

    def between(self, x):
        if "scale" not in self.kept:
            self.kept["scale"] = self.head.weight.mean() * 2
        return x * self.kept["scale"]


class ByShape(Base):
    """Decides by a shape in a module that holds a site."""

    def between(self, x):
        return x.flip(2) if x.shape[2] > x.shape[3] else x


class WithOthers(Base):
    """Takes more than images, each with a default that decides something."""

    def forward(self, x, scale=2.0, features=False, *, mask=None):
        x = super().forward(x * scale if scale != 1 else x)
        return (x, features) if features or mask is not None else x


class WithAnything(Base):
    def forward(self, *images, **others):
        return super().forward(images[0] if not others else -images[0])


class WithSizesAdded(Base):
    """Adds sizes to sizes, sides to sides, and a size to what a convolution gives."""

    def between(self, x):
        y = self.b(x) + x.shape[-1]
        return y.reshape(x.shape[:2] + y.shape[2:]) / (x.shape[2] + x.shape[3])


class ByKeyword(Base):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(6)

    def between(self, x):
        return self.norm(input=self.b(input=x))


ANYWHERE = [WithOthers, WithAnything, WithSizesAdded, ByKeyword]
NETWORKS = [WithOpaqueModule, WithToken, WithWindows, WithPositions, WithOwnConvolution, Caching, ByShape, *ANYWHERE]


def made(kind):
    torch.manual_seed(0)
    return patch(kind().eval(), {"A": "a", "B": "b"})


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("budget", [1, 60_000, None])
def test_the_tree_gives_the_logits_of_the_network_itself(kind, budget):
    model = made(kind)
    space = model_space(model, ["dilation", "size"], options={(s, "size"): (1, 3) for s in "AB"}, input_shape=SHAPE)
    pixels = torch.randn(5, *SHAPE)
    tree = engine.logits(engine.tree(trace(model, SHAPE), space, budget_bytes=budget), pixels, 5)
    plain = engine.logits(PlainExecutor(model, space), pixels, 5)
    assert (tree - plain).abs().max() < 1e-5 * plain.abs().max() and len(space) > 50


@pytest.mark.parametrize("kind", [WithWindows, WithToken])
def test_rows_of_which_only_some_go_on_with_a_setting_keep_what_is_theirs(kind):
    model = made(kind)
    space = model_space(model, ["dilation"], input_shape=SHAPE)
    space = space.without([i for i in range(len(space)) if i % 4 and i != space.default], "thinned")
    pixels = torch.randn(3, *SHAPE)
    tree = engine.logits(engine.tree(trace(model), space), pixels, 5)
    plain = engine.logits(PlainExecutor(model, space), pixels, 5)
    assert (tree - plain).abs().max() < 1e-5 * plain.abs().max() and len(space) == 7


@pytest.mark.parametrize("kind", [WithOpaqueModule, WithToken, *ANYWHERE])
def test_sizes_that_change_with_the_stride_are_followed(kind):
    model = made(kind)
    space = model_space(
        model, ["stride"], options={("A", "stride"): (1, 2, 3)}, swept="A", input_shape=SHAPE, stride_range=(1, 9)
    )
    pixels = torch.randn(4, *SHAPE)
    tree = engine.logits(engine.tree(trace(model), space), pixels, 5)
    plain = engine.logits(PlainExecutor(model, space), pixels, 5)
    assert (tree - plain).abs().max() < 1e-5 * plain.abs().max() and len(space) == 3


def test_a_module_without_a_site_that_cannot_be_traced_is_one_operator():
    traced = trace(made(WithOpaqueModule))
    assert traced.opaque == {"inner"}
    assert "inner" in {node.target for node in traced.graph.nodes if node.op == "call_module"}


def test_tracing_leaves_nothing_in_the_network():
    model = made(Caching)
    trace(model, SHAPE)
    assert model.kept == {}
    assert torch.isfinite(model(torch.randn(1, *SHAPE))).all()


def test_a_network_that_decides_by_shapes_is_traced_at_one_size_alone():
    model = made(ByShape)
    with pytest.raises(TraceError, match=r"torch\.fx cannot trace ByShape: .*control flow"):
        trace(model)
    tall, wide = trace(model, (3, 16, 12)), trace(model, (3, 12, 16))
    flips = ["flip" in {node.target for node in t.graph.nodes} for t in (tall, wide)]
    assert flips == [True, False]


def test_a_number_of_images_worked_out_in_another_way_is_refused():
    class Odd(Base):
        def between(self, x):
            return x.view(x.shape[0] + 0, 6, 16, 12)

    model = made(Odd)
    with pytest.raises(TraceError, match="number of images"):
        engine.costs(model, model_space(model, ["dilation"], input_shape=SHAPE), 16)


def test_rows_are_a_symbol_until_they_are_counted():
    assert 4 * Rows() == Rows(4) == Rows() * 4 and Rows(6) // 3 == Rows(2) and Rows(6) // Rows(2) == 3
    for wrong in (
        lambda: Rows(3) // 2,
        lambda: Rows(3) // Rows(2),
        lambda: Rows() + 1,
        lambda: 7 // Rows(),
        lambda: Rows() * 1.5,
    ):
        with pytest.raises(TypeError):
            wrong()
    assert symbolic((4 * META_ROWS, [12, META_ROWS], 0)) == (Rows(4), [12, Rows()], 0)
    assert counted((Rows(2), [slice(None, Rows()), {"k": 3}]), 5) == (10, [slice(None, 5, None), {"k": 3}])
    assert mapped(torch.Size([2, 3]), lambda v: v + 1) == (3, 4)


def test_a_size_that_counts_images_cannot_cross_a_site():
    assert scalar_key((14, [3, None])) == Scalar((14, (3, None)), None) == scalar_key((14, (3, None)))
    assert scalar_key(2 * META_ROWS) is None and scalar_key([1, META_ROWS]) is None and scalar_key(0) is not None
