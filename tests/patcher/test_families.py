"""Every registered network of torchvision, by shapes alone: its sites are there, and its layers are what is said."""

import pytest
from torch import nn
from torchvision import models

from itd.layers.models import is_learned
from itd.patcher import MODELS, build_model, patch, takes
from itd.patcher.families import ALL, KERNEL, STRIDE
from itd.patcher.storage import WithoutStorage

TORCHVISION = [name for name in MODELS if not is_learned(name)]
NEW = [name for name in TORCHVISION if not name.startswith(("resn", "wide", "dense"))]


def test_whole_families_are_registered():
    prefixes = {"resnet": 5, "resnext": 2, "wide_resnet": 2, "mobilenet_v2": 1, "mobilenet_v3": 2, "densenet": 4}
    prefixes |= {"convnext": 4, "efficientnet_b": 8, "efficientnet_v2": 3, "regnet_x": 7, "regnet_y": 8, "vgg": 4}
    found = {prefix: sum(name.startswith(prefix) for name in TORCHVISION) for prefix in prefixes}
    assert found == prefixes and len(TORCHVISION) == sum(prefixes.values())
    known = models.list_models(module=models)
    regular = [
        n for n in known if n.startswith(("convnext", "efficientnet", "regnet", "mobilenet")) or n.endswith("_bn")
    ]
    assert set(regular) <= set(TORCHVISION)


@pytest.mark.parametrize("name", TORCHVISION)
def test_the_published_accuracy_is_torchvisions(name):
    weights = models.get_model_weights(name)
    own = weights["IMAGENET1K_V1"] if "IMAGENET1K_V1" in weights.__members__ else None
    published = None if own is None else own.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert MODELS[name].v1_top1 == published


@pytest.mark.parametrize("name", NEW)
def test_each_site_lowers_the_resolution_and_has_an_odd_square_convolution(name):
    with WithoutStorage():
        network = build_model(name)
        model = patch(network, name)
    assert all(p.is_meta for p in network.parameters())
    order = [path for path, _ in network.named_modules()]
    last, total = -1, MODELS[name].stem_stride
    for site, modules in model.sites.items():
        strides = {site_stride(network.get_submodule(m.path)) for m in modules if "stride" in m.attributes}
        assert strides == (set() if (name[:8], site) == ("convnext", "A") else {2})  # its stem is left as it is
        total *= 2 if strides else 1
        (spatial,) = (m for m in modules if m.attributes >= KERNEL)
        layer = network.get_submodule(spatial.path)
        assert takes(layer) == ALL and layer.kernel_size[0] in (3, 5, 7) and layer.dilation == (1, 1)
        for module in modules:
            layer = network.get_submodule(module.path)
            assert module.attributes in (ALL, KERNEL, STRIDE) and module.attributes <= takes(layer)
        assert last < order.index(spatial.path)
        last = max(order.index(module.path) for module in modules)
    assert total == 32


def site_stride(layer: nn.Module) -> int:
    return layer.stride if isinstance(layer.stride, int) else layer.stride[0]


@pytest.mark.parametrize("name", [name for name in NEW if name.startswith("regnet")])
def test_the_shortcut_beside_a_site_takes_its_stride(name):
    for modules in MODELS[name].sites.values():
        main, shortcut = modules
        assert main.attributes == ALL and shortcut.attributes == STRIDE
        assert shortcut.path == main.path.replace(".f.b.0", ".proj.0")
