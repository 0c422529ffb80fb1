"""Networks that a tree would get wrong: run plainly with their own rows, or where nothing is right refused."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import itd
from itd.engine.check import _some
from itd.errors import ItdWarning, ModelError
from support import engine

SHAPE = (3, 14, 12)


class Base(nn.Module):
    """Two sites, `a` and `b`, with `between` from the one to the other."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 5)

    def between(self, x):
        return x

    def forward(self, x):
        return self.head(F.relu(self.b(self.between(F.relu(self.a(x))))).mean((2, 3)))


class Viewing(Base):
    """Takes maps as rows by `view`, which a map that is laid out pixel after pixel does not bear."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6 * 4 * 4, 5)

    def forward(self, x):
        x = F.adaptive_avg_pool2d(self.b(F.relu(self.a(x))), 4)
        return self.head(x.view(x.size(0), -1))


class Flattening(nn.Module):
    """Cannot be traced, for it decides by a shape."""

    def forward(self, x):
        return x.view(len(x), -1) if x.shape[1] > 2 else x


class ViewingInside(Viewing):
    def __init__(self):
        super().__init__()
        self.flat = Flattening()

    def forward(self, x):
        return self.head(self.flat(F.adaptive_avg_pool2d(self.b(F.relu(self.a(x))), 4)))


class ViewingByValue(Viewing):
    def forward(self, x):
        return super().forward(x if float(x.sum()) < 1e9 else -x)


class Flipping(Base):
    """Both ways round, first all images as they are, then all flipped."""

    def forward(self, x):
        as_it_is, flipped = super().forward(torch.cat([x, x.flip(-1)])).chunk(2)
        return as_it_is + flipped


class FlippingEach(Base):
    """Both ways round, each image beside its own mirror image."""

    def forward(self, x):
        return super().forward(torch.stack([x, x.flip(-1)], 1).flatten(0, 1)).unflatten(0, (-1, 2)).sum(1)


class OneByOne(Base):
    def between(self, x):
        return torch.stack([image * 2 for image in x])


class ByAddress(Base):
    """Counts on how its tensors are laid out, and does not fail where they are not."""

    def between(self, x):
        rows, channels, height, width = x.shape
        return x.as_strided((rows, channels, height, width), (channels * height * width, height * width, width, 1))


def make_job(kind, attribute="dilation", sites=("a", "b")):
    torch.manual_seed(0)
    net = kind().eval()
    model = itd.patch(net, dict(zip("AB", sites, strict=False)))
    lists = {"stride": (1, 2, 3), "dilation": (1, 2, 3), "size": (1, 3, 5)}
    options = {(site, attribute): lists[attribute] for site in model.sites}
    space = itd.model_space(model, [attribute], options=options, stride_range=(1, 64), input_shape=SHAPE)
    images = [(torch.randn(*SHAPE), i % 5) for i in range(5)]
    return net, itd.SweepJob(model, space, images, name="net")


def by_hand(net, setting, image):
    """The logits of one image, the two layers set by hand. setting: (attribute, value of a, value of b)."""
    attribute, *values = setting
    net = copy.deepcopy(net)
    for layer, value in zip((net.a, net.b), values, strict=False):
        if attribute == "stride":
            layer.stride = (value, value)
        elif attribute == "dilation":
            layer.dilation, layer.padding = (value, value), (value, value)
        else:
            layer.weight = nn.Parameter(
                F.interpolate(layer.weight, size=(value, value), mode="bilinear") * 9 / value**2
            )
            layer.kernel_size, layer.padding = (value, value), (value // 2, value // 2)
    with torch.no_grad():
        return net(image[None])[0]


def assert_rows(net, job, attribute, out):
    table = pd.read_parquet(out)
    assert len(table) == len(job.space) * 5
    for row in table.itertuples():
        values = [getattr(row, f"{attribute}_{site}") for site in job.model.sites]
        image, label = job.images.pixels[row.sample], int(job.images.labels[row.sample])
        logits = by_hand(net, (attribute, *(int(v) for v in values)), image)
        np.testing.assert_allclose(row.nll, -torch.log_softmax(logits, 0)[label], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attribute", ["dilation", "size", "stride"])
@pytest.mark.parametrize("kind", [Viewing, ViewingInside, FlippingEach])
def test_a_network_that_counts_on_how_maps_are_laid_out_goes_through_the_tree(kind, attribute, tmp_path):
    net, job = make_job(kind, attribute)
    report = itd.sweep(job, out=tmp_path / "r.parquet", device="cpu", batch_size=3)
    assert report.executor == "tree"
    assert_rows(net, job, attribute, report.out)


@pytest.mark.parametrize("attribute", ["dilation", "size", "stride"])
@pytest.mark.parametrize("kind", [Flipping, OneByOne, ByAddress, ViewingByValue])
def test_a_network_that_a_tree_would_get_wrong_is_run_plainly_with_its_own_rows(kind, attribute, tmp_path):
    net, job = make_job(kind, attribute)
    with pytest.warns(ItdWarning, match="no work is shared"):
        report = itd.sweep(job, out=tmp_path / "r.parquet", device="cpu", batch_size=3)
    assert report.executor == "plain"
    assert_rows(net, job, attribute, report.out)


@pytest.mark.parametrize("sites", [("a",), ("b",)])
def test_rows_that_do_not_stand_side_by_side_are_found_at_any_site(sites):
    _, job = make_job(Flipping, "stride", sites)
    assert itd.plan(job).why_plain.startswith("net as torch.fx traces it does not keep an image's rows side by side")


POOLS = [
    nn.MaxPool2d(3, 2, ceil_mode=True),
    nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    nn.MaxPool2d(2, 1, ceil_mode=True),
    nn.MaxPool2d(2, 2, 1, ceil_mode=True),
    nn.AvgPool2d(3, 2, ceil_mode=True, count_include_pad=False),
    nn.AvgPool2d(5, 3, 1, ceil_mode=True),
]


@pytest.mark.parametrize("pool", POOLS, ids=repr)
def test_a_pool_of_partial_windows_is_run_at_each_stride_by_itself(pool):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), pool, nn.Flatten(2)).eval()
    function = F.max_pool2d if isinstance(pool, nn.MaxPool2d) else F.avg_pool2d
    last = {} if isinstance(pool, nn.MaxPool2d) else {"count_include_pad": pool.count_include_pad}
    model = itd.patch(nn.Sequential(net, Total()), {"A": "0.1"})
    for side in range(6, 13):
        options = {("A", "stride"): (1, 2, 3, 4)}
        space = itd.model_space(model, ["stride"], options=options, stride_range=(1, 9), input_shape=(3, side, side))
        pixels = torch.randn(3, 3, side, side)
        tree = engine.logits(engine.tree(model, space), pixels, 4)
        for config, logits in zip(space.configs, tree, strict=True):
            stride = int(config[0].stride)
            expected = function(net[0](pixels), pool.kernel_size, stride, pool.padding, ceil_mode=True, **last)
            assert torch.allclose(logits, expected.sum((2, 3)), rtol=1e-4, atol=1e-4)


class Total(nn.Module):
    def forward(self, x):
        return x.sum(2)


class Dropping(Base):
    def between(self, x):
        return F.dropout(x, 0.5)


class Alternating(Base):
    calls = 0

    def between(self, x):
        self.calls += 1
        return x * (1 + self.calls % 2)


class Averaging(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def between(self, x):
        self.mean.mul_(0.9).add_(0.1 * x.mean((0, 2, 3)))
        return x - self.mean[:, None, None]


@pytest.mark.parametrize("executor", ["auto", "plain"])
@pytest.mark.parametrize("batch_size", [None, 1])
@pytest.mark.parametrize("kind", [Dropping, Alternating, Averaging])
def test_a_network_that_gives_other_logits_each_time_is_refused(kind, batch_size, executor):
    _, job = make_job(kind)
    with pytest.raises(ModelError, match="net gives other logits each time that it is run on the same image"):
        itd.plan(job, device="cpu", batch_size=batch_size, executor=executor)


class Alone(Base):
    def between(self, x):
        if len(x) > 1:
            raise ValueError("one at a time\nplease")
        return x


def test_a_network_for_one_image_at_a_time_says_what_runs_it(tmp_path):
    net, job = make_job(Alone)
    with pytest.raises(ModelError, match=r"several at once \(one at a time\); give `batch_size=1`"):
        itd.sweep(job, out=tmp_path / "r.parquet", device="cpu")
    with pytest.warns(ItdWarning, match="no work is shared"):
        report = itd.sweep(job, out=tmp_path / "r.parquet", device="cpu", batch_size=1)
    assert_rows(net, job, "dilation", report.out)


class Refusing(Base):
    def forward(self, x):
        if not x.is_meta and float(x.abs().sum()) > 0:
            raise ValueError("not these values\nno")
        return super().forward(x)


class RefusingZeros(Base):
    def forward(self, x):
        if not x.is_meta and float(x.abs().sum()) == 0:
            raise ValueError("not these values\nno")
        return super().forward(x)


class Squeezing(Base):
    def forward(self, x):
        return self.head(F.adaptive_avg_pool2d(self.b(self.between(self.a(x))), 1).squeeze())


@pytest.mark.parametrize("executor", ["auto", "plain"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Refusing, r"net cannot be run on an image of noise \(not these values\)"),
        (RefusingZeros, r"the network cannot be run on an image of zeros of 3 x 14 x 12 \(not these values\)"),
        (Squeezing, r"logits of the shape \(5,\) for 1 images; they must be \(1, K\)"),
    ],
)
def test_a_network_that_fails_by_itself_is_one_line(kind, words, executor):
    with pytest.raises(ModelError, match=words) as caught:
        itd.plan(make_job(kind)[1], device="cpu", executor=executor)
    assert "\n" not in str(caught.value)


def test_what_is_checked_moves_every_site_that_moves():
    _, job = make_job(Base)
    space = job.space
    for kept in (range(9), (0, 1, 3), (4, 5, 7), (8, 2), (0, 6), (3,)):
        few = space.without([i for i in range(9) if i not in kept], "thinned")
        chosen = [few.configs[i] for i in _some(few)]
        for site in range(2):
            moves = len({config[site] for config in few.configs}) > 1
            assert (len({config[site] for config in chosen}) > 1) == moves
        assert few.default is None or few.default in _some(few)
