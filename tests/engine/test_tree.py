"""The tree against one forward for each configuration: every family, every attribute, any traceable network."""

import numpy as np
import pytest
import torch
from torch import nn

from itd.engine.plain import PlainExecutor
from itd.engine.precision import Precision
from itd.engine.program import compile_program
from itd.engine.tree import TreeExecutor
from itd.errors import ItdError, ModelError, SpaceError
from itd.patcher import MODELS, Conventions, build_model, model_space, parse_sites, patch
from itd.patcher.model import measured_stem_stride
from itd.space import SITES
from support import engine
from support.networks import narrow_head

FAMILIES = ["resnet18", "resnet50", "resnext50_32x4d", "mobilenet_v2", "densenet121"]
THIN = {"stride": (0.5, 1, 2, 3), "dilation": (1, 3), "size": (1, 3, 7)}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def images(count=4, px=64, seed=0):
    return torch.randn(count, 3, px, px, generator=torch.Generator().manual_seed(seed))


def collect(executor, pixels, classes, **kwargs):
    """Logits (C, N, K); every (configuration, image) must come exactly once."""
    shape = (len(executor.space), len(pixels))
    logits, seen = torch.full((*shape, classes), torch.nan), np.zeros(shape, int)

    def sink(configs, rows, values):
        logits[torch.from_numpy(configs), torch.from_numpy(rows)] = values.float().cpu()
        np.add.at(seen, (configs, rows), 1)

    executor.run(pixels, sink, **kwargs)
    return logits, seen


def thin_options(attributes, name):
    fixed = MODELS[name].fixed if name in MODELS else {}
    upsampling = MODELS[name].upsampling if name in MODELS else "CD"
    return {
        (site, a): tuple(v for v in THIN[a] if v >= 1 or (site in upsampling))
        for site in SITES
        for a in attributes
        if (site, a) not in fixed
    }


def agree(tree, plain):
    scale = plain.abs().amax(-1, keepdim=True)
    assert ((tree - plain).abs() <= 1e-4 * scale).all()
    top = plain.topk(2).values
    clear = (top[..., 0] - top[..., 1]) > 1e-3 * scale[..., 0]
    assert clear.float().mean() > 0.5
    assert torch.equal(tree.argmax(-1)[clear], plain.argmax(-1)[clear])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("attribute", ["stride", "dilation", "size"])
@pytest.mark.parametrize("name", FAMILIES)
def test_tree_equals_plain(name, attribute, device, random_network):
    model = patch(random_network(name), name)
    options = thin_options([attribute], name)
    if attribute == "stride":
        options |= {("A", a): (1, 2) for _, a in options if ("A", a) not in MODELS[name].fixed}
        options |= {("B", "stride"): (2, 3), ("C", "stride"): (0.5, 2), ("D", "stride"): (0.5, 1, 4)}
    if attribute == "size":
        options |= {("A", "size"): (1, 7), ("B", "size"): (3, 5), ("C", "size"): (1, 3), ("D", "size"): (3, 7)}
    space = model_space(model, [attribute], entry=MODELS[name], options=options, stride_range=(2, 64))
    sites = [s for i, s in enumerate(SITES) if len({c[i] for c in space.configs}) > 1]
    assert sites == list("BCD" if (name, attribute) == ("resnet18", "stride") else "ABCD")
    tree, seen = collect(engine.tree(model, space, device=device), images(2), 10)
    assert (seen == 1).all()
    plain, _ = collect(PlainExecutor(model, space, device=device), images(2), 10)
    agree(tree, plain)


@pytest.mark.parametrize(
    ("name", "attributes"), [("resnet18", ["stride", "dilation", "size"]), ("densenet121", ["stride", "size"])]
)
def test_tree_equals_plain_with_attributes_crossed(name, attributes, random_network):
    model = patch(random_network(name), name)
    lists = {"stride": (1, 2), "dilation": (1, 2), "size": (3, 5)}
    options = {(s, a): lists[a] for s in "CD" for a in attributes}
    space = model_space(model, attributes, entry=MODELS[name], swept=["C", "D"], options=options, stride_range=(1, 999))
    assert len(space) == 4 ** len(attributes)
    tree, seen = collect(engine.tree(model, space), images(2), 10)
    assert (seen == 1).all()
    agree(tree, collect(PlainExecutor(model, space), images(2), 10)[0])


@pytest.mark.parametrize(
    "conventions",
    [Conventions("side"), Conventions("none"), Conventions(align_corners=True), Conventions(shortcut="nearest")],
)
def test_tree_equals_plain_for_every_open_choice(conventions, random_network):
    model = patch(random_network("resnet18"), "resnet18", conventions)
    attribute = "stride" if conventions.shortcut == "nearest" else "size"
    options = {("D", attribute): (0.5, 2) if attribute == "stride" else (1, 3, 9)}
    space = model_space(model, [attribute], entry=MODELS["resnet18"], swept=["D"], options=options)
    agree(collect(engine.tree(model, space), images(2), 10)[0], collect(PlainExecutor(model, space), images(2), 10)[0])


@pytest.mark.parametrize("budget", [1, 1 << 20, 1 << 40])
def test_the_memory_budget_changes_no_row(budget, random_network):
    model = patch(random_network("resnet18"), "resnet18")
    space = model_space(model, ["stride"], entry=MODELS["resnet18"], swept=["C", "D"])
    whole, _ = collect(engine.tree(model, space), images(3), 10)
    other, seen = collect(engine.tree(model, space, budget_bytes=budget), images(3), 10)
    assert (seen == 1).all()
    assert ((whole - other).abs() <= 1e-4 * whole.abs().amax(-1, keepdim=True)).all()


def test_out_of_memory_halves_the_chunk_and_goes_on(random_network, monkeypatch):
    model = patch(random_network("resnet18"), "resnet18")
    space = model_space(model, ["dilation"], entry=MODELS["resnet18"], swept=["C", "D"])
    executor = engine.tree(model, space, budget_bytes=1 << 40)
    run, largest = executor._run_rows, []

    def scarce(number, segment, sink):
        if len(segment) > 3:
            raise torch.OutOfMemoryError("out of memory")
        largest.append(len(segment))
        return run(number, segment, sink)

    monkeypatch.setattr(executor, "_run_rows", scarce)
    logits, seen = collect(executor, images(4), 10)
    assert (seen == 1).all() and max(largest) <= 3
    agree(logits, collect(PlainExecutor(model, space), images(4), 10)[0])
    monkeypatch.setattr(executor, "_run_rows", lambda *a: (_ for _ in ()).throw(torch.OutOfMemoryError("x")))
    with pytest.raises(ItdError, match="out of memory on cpu with a single image"):
        collect(executor, images(1), 10)


class Branching(nn.Module):
    """In-place ReLU whose input is read again, channel concatenation, a gate, a constant added."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.site = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.left = nn.Conv2d(8, 8, 1)
        self.right = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.gate = nn.Linear(16, 16)
        self.deep = nn.Conv2d(16, 12, 3, stride=2, padding=1)
        self.head = nn.Linear(12, 10)

    def forward(self, x):
        x = self.norm(self.stem(x))
        y = self.act(x)
        x = self.site(x + y)
        x = torch.cat([self.left(x), self.right(x)], 1)
        x = x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        x = nn.functional.relu(self.deep(x)) + 1
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


@pytest.mark.parametrize("attribute", ["stride", "dilation", "size"])
def test_tree_equals_plain_for_any_traceable_network(attribute):
    torch.manual_seed(3)
    network = Branching().eval()
    network.norm.running_mean.normal_()
    network.norm.running_var.uniform_(0.5, 2)
    sites, swept = parse_sites("mine", "A=site,B=deep")
    model = patch(network, sites)
    space = model_space(model, [attribute], swept=swept, stride_range=(1, 99))
    tree, seen = collect(engine.tree(model, space), images(3, 32), 10)
    assert (seen == 1).all() and len(space) > 15
    agree(tree, collect(PlainExecutor(model, space), images(3, 32), 10)[0])


@pytest.mark.parametrize("name", ["vgg11_bn", "shufflenet_v2_x0_5", "mnasnet0_5", "squeezenet1_1"])
def test_sites_by_path_work_on_other_torchvision_networks(name, random_network):
    network = narrow_head(random_network(name)) if name == "vgg11_bn" else random_network(name)
    convs = [
        path
        for path, m in network.named_modules()
        if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) and m.padding == (1, 1) and m.in_channels > 3
    ]
    sites, _ = parse_sites(name, f"A={convs[0]},B={convs[-1]}")
    model = patch(network, sites)
    space = model_space(model, ["dilation"], options={(s, "dilation"): (1, 2, 3) for s in "AB"})
    agree(collect(engine.tree(model, space), images(2), 10)[0], collect(PlainExecutor(model, space), images(2), 10)[0])


def test_bf16_stays_near_fp32(random_network):
    model = patch(random_network("resnet18"), "resnet18")
    space = model_space(model, ["dilation"], entry=MODELS["resnet18"], swept=["D"])
    full, _ = collect(engine.tree(model, space), images(2), 10)
    half, _ = collect(engine.tree(model, space, precision=Precision("bf16")), images(2), 10)
    assert ((full - half).abs() <= 0.05 * full.abs().amax(-1, keepdim=True)).all()


def test_a_network_that_cannot_be_traced_is_refused():
    class Looping(Branching):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    sites, _ = parse_sites("mine", "A=site")
    model = patch(Looping().eval(), sites)
    with pytest.raises(ModelError, match=r"torch\.fx cannot trace"):
        engine.tree(model, model_space(model, ["dilation"]))


def test_a_program_that_is_only_counted_is_not_run(random_network):
    model = patch(random_network("resnet18"), "resnet18")
    program = compile_program(model, model_space(model, ["dilation"], swept=["D"]), optimise=False)
    assert program.prefix_costs((3, 64, 64)).macs
    with pytest.raises(ValueError, match="optimise=False has no weights"):
        TreeExecutor(program)


def test_a_network_in_training_mode_is_refused():
    model = patch(build_model("resnet18", 10), "resnet18").train()
    with pytest.raises(ModelError, match=r"model\.eval"):
        engine.tree(model, model_space(model, ["dilation"], entry=MODELS["resnet18"]))


class Awkward(Branching):
    """A parameter that scales rows, sizes read from the input, an alias changed in place on demand."""

    alias = False

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(8, 1, 1))
        self.shortcut = nn.Identity()

    def forward(self, x):
        n = x.size(0)
        x = self.norm(self.stem(x)) * torch.sigmoid(self.scale)
        same = self.shortcut(x)
        if self.alias:
            self.act(x)
        x = self.site(x) + self.site(same)
        x = torch.cat(tensors=[self.left(x), self.right(x)], dim=1)
        x = self.deep(x)
        return self.head(x.mean((2, 3)).view(n, -1)).reshape(x.shape[0], 10)


@pytest.mark.parametrize("budget", [None, 1 << 14, 1 << 17])
@pytest.mark.parametrize("attribute", ["stride", "size"])
def test_constants_batch_sizes_and_a_site_that_runs_twice_are_right_in_any_chunk(attribute, budget):
    torch.manual_seed(4)
    sites, swept = parse_sites("mine", "A=site,B=deep")
    model = patch(Awkward().eval(), sites)
    space = model_space(model, [attribute], swept=swept, stride_range=(1, 99))
    tree, seen = collect(engine.tree(model, space, budget_bytes=budget), images(5, 31), 10)
    assert (seen == 1).all()
    agree(tree, collect(PlainExecutor(model, space), images(5, 31), 10)[0])


def test_a_network_that_mixes_images_is_refused():
    class Mixing(Branching):
        def forward(self, x):
            x = self.site(self.stem(x))
            mean = x.mean(0, keepdim=True)
            return self.head(self.deep(torch.cat([x, x], 1)).mean((2, 3)) * mean.mean((1, 2, 3)))

    sites, _ = parse_sites("mine", "B=deep")
    model = patch(Mixing().eval(), sites)
    with pytest.raises(ModelError, match="as many rows for each image"):
        collect(engine.tree(model, model_space(model, ["size"], options={("B", "size"): (1, 3)})), images(2), 10)


def test_a_stride_that_breaks_a_residual_addition_is_refused_by_configuration(random_network):
    sites, _ = parse_sites("resnet18", "A=layer2.0.conv1")
    model = patch(random_network("resnet18"), sites)
    space = model_space(model, ["stride"], options={("A", "stride"): (2, 3)}, stride_range=(1, 99))
    with pytest.raises(SpaceError, match=r"A\(stride=3\) does not fit the network"):
        engine.costs(model, space, 64)
    with pytest.raises(SpaceError, match="cannot run at this image size"):
        collect(engine.tree(model, space), images(1), 10)


@pytest.mark.parametrize(
    "text", ["A=layer1.0.conv1+layer1.1.conv1,B=layer3.1.conv2", "A=layer4.0.conv2,B=layer1.0.conv1"]
)
def test_sites_of_several_layers_and_in_any_order_are_right(text, random_network):
    sites, _ = parse_sites("resnet18", text)
    model = patch(random_network("resnet18"), sites)
    space = model_space(model, ["size"], options={(s, "size"): (1, 3, 5) for s in "AB"})
    agree(
        collect(engine.tree(model, space), images(1, 63), 10)[0],
        collect(PlainExecutor(model, space), images(1, 63), 10)[0],
    )


@pytest.mark.parametrize("pool_half", ["nearest", "zero"])
def test_pools_at_half_stride_are_right_at_odd_sizes(pool_half, random_network):
    model = patch(random_network("densenet121"), "densenet121", Conventions(pool_half=pool_half))
    space = model_space(model, ["stride"], entry=MODELS["densenet121"], swept=["D"], stride_range=(1, 999))
    agree(
        collect(engine.tree(model, space), images(1, 131), 10)[0],
        collect(PlainExecutor(model, space), images(1, 131), 10)[0],
    )


def test_own_values_that_differ_within_a_site_are_refused(random_network):
    sites, _ = parse_sites("resnet18", "A=layer1.0.conv1+layer2.0.conv1")
    model = patch(random_network("resnet18"), sites)
    with pytest.raises(ModelError, match=r"differ in stride \(layer1.0.conv1 has 1, layer2.0.conv1 has 2\)"):
        model_space(model, ["stride"])


@pytest.mark.parametrize(("name", "text", "expected"), [
    ("resnet18", "A=layer1.0.conv1,B=layer2.0.conv1+layer2.0.downsample.0", 16),
    ("vgg11", "A=features.0", 32),
    ("mobilenet_v2", "A=features.2.conv.1.0", 16),
])  # fmt: skip
def test_the_stem_stride_of_a_network_by_path_counts_every_layer(name, text, expected):
    sites, _ = parse_sites(name, text)
    with torch.device("meta"):
        model = patch(build_model(name, 10), sites)
    assert measured_stem_stride(model) == expected
