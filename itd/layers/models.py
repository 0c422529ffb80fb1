"""Networks with learned dynamic convolutions, and the plain ones that they are compared with: names, counts, building.

Not for the oracle's sites, which are the registry's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from itd.errors import ModelError
from itd.layers.replace import replace_convs

CIFAR_RESNET18 = "cifar-resnet18"
OPS = ("conv", "involution", "condconv", "weightnet", "se")
"""What the second convolution of every block of the CIFAR ResNet-18 can be."""
SHUFFLENETS = {
    "shufflenet-v2-x0.5": (48, 96, 192),
    "shufflenet-v2-x1.0": (112, 224, 448),
    "shufflenet-v2-x1.5": (176, 352, 704),
    "shufflenet-v2-x2.0": (248, 496, 992),
}
"""name -> the widths of its stages, as WeightNet uses them (Ma et al. 2020); not torchvision's."""
_NAME = re.compile(r"(?P<model>[a-z0-9.-]+?)(\+(?P<op>[a-z]+)(-(?P<multiplier>[1-9][0-9]*)x)?)?")


@dataclass(frozen=True)
class LearnedEntry:
    """A network of `itd models --learned`.

    multiplier: of WeightNet. side_px, num_classes: of the images that params and macs are for. published: what the
    papers print of it, as text. source: which paper.
    """

    name: str
    model: str
    op: str
    multiplier: int | None
    side_px: int
    num_classes: int
    params: int
    macs: int
    published: Mapping[str, str] = field(default_factory=dict)
    source: str = ""


def learned_name(model: str, op: str = "conv", multiplier: int | None = None) -> str:
    """The name that a model and an operator make together; ModelError where they do not go together.

    multiplier: of WeightNet, 1 where it is None.

    >>> learned_name("cifar-resnet18", "condconv"), learned_name("shufflenet-v2-x0.5", "weightnet", 8)
    ('cifar-resnet18+condconv', 'shufflenet-v2-x0.5+weightnet-8x')
    """
    ops = _ops_of(model)
    if op not in ops:
        raise ModelError(f"no such `op` for {model}: {op!r}; allowed are {', '.join(ops)}")
    if op != "weightnet" and multiplier is not None:
        raise ModelError(f"`multiplier={multiplier}` is WeightNet's, and the operator is {op}; leave `multiplier` out")
    if multiplier is not None and (not isinstance(multiplier, int) or multiplier < 1):
        raise ModelError(f"`multiplier={multiplier}` is not allowed; give a whole number of at least 1")
    if op == "conv":
        return model
    if op == "weightnet" and (multiplier or 1) + (model != CIFAR_RESNET18) > 1:
        return f"{model}+weightnet-{multiplier or 1}x"
    return f"{model}+{op}"


def is_learned(name: str) -> bool:
    """Whether a name is one of these networks', with an operator or without."""
    return name.partition("+")[0] in (CIFAR_RESNET18, *SHUFFLENETS)


def build_learned(name: str, num_classes: int = 1000) -> nn.Module:
    """The network of a name, with random weights, in evaluation mode. Raises ModelError for a name that is none.

    >>> sum(p.numel() for p in build_learned("cifar-resnet18+involution", 10).parameters())
    5116682
    """
    found = _NAME.fullmatch(name)
    if found is None or not is_learned(name):
        raise ModelError(f"no such model: {name!r}; `itd models --learned` lists them")
    model, op = found["model"], found["op"] or "conv"
    multiplier = None if found["multiplier"] is None else int(found["multiplier"])
    learned_name(model, op, multiplier)
    if model == CIFAR_RESNET18:
        return _cifar_resnet18(op, multiplier or 1, num_classes)
    from itd.layers.shufflenet import ShuffleNetV2

    widths = SHUFFLENETS[model]
    dropout = 0.2 if model.endswith("x2.0") else 0.0
    return ShuffleNetV2(widths, num_classes, dropout, (multiplier or 1) if op == "weightnet" else None).eval()


def _ops_of(model: str) -> tuple[str, ...]:
    if model == CIFAR_RESNET18:
        return OPS
    if model in SHUFFLENETS:
        return "conv", "weightnet"
    raise ModelError(
        f"`op` is for {', '.join((CIFAR_RESNET18, *SHUFFLENETS))}, not for {model!r}; leave it out, or give one of them"
    )


def _cifar_resnet18(op: str, multiplier: int, num_classes: int) -> nn.Module:
    """torchvision's ResNet-18 for 32 x 32 images: 3 x 3 first convolution of stride 1, no max-pool; the second
    convolution of every block is the operator."""
    from torchvision.models import resnet18

    model = resnet18(num_classes=num_classes)
    model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    if model.conv1.weight.device.type != "meta":
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    if op == "conv":
        return model.eval()
    paths = [f"layer{stage}.{block}.conv2" for stage in range(1, 5) for block in range(2)]
    options = {"multiplier": multiplier} if op == "weightnet" else {}
    return replace_convs(model, op, paths, **options).eval()


_CIFAR = "CIFAR-10 report (convolution, Involution, CondConv), table 3.1"
_WEIGHTNET = "Ma et al., WeightNet, 2020, table 1"


def _cifar(op: str, params: int, macs: int, printed: Mapping[str, str] | None = None) -> LearnedEntry:
    multiplier = 1 if op == "weightnet" else None
    return LearnedEntry(
        learned_name(CIFAR_RESNET18, op), CIFAR_RESNET18, op, multiplier, 32, 10, params, macs, printed or {},
        _CIFAR if printed else "",
    )  # fmt: skip


def _shuffle(size: str, multiplier: int | None, params: int, macs: int, printed: str) -> LearnedEntry:
    model, op = f"shufflenet-v2-x{size}", "conv" if multiplier is None else "weightnet"
    text = dict(zip(("params", "macs", "top1_error"), printed.split(" / "), strict=True))
    name = learned_name(model, op, multiplier)
    return LearnedEntry(name, model, op, multiplier, 224, 1000, params, macs, text, _WEIGHTNET)


LEARNED: dict[str, LearnedEntry] = {
    entry.name: entry
    for entry in (
        _cifar("conv", 11_173_962, 555_422_720, {"params": "11.2M", "megabytes": "44.696", "top1": "91.6"}),
        _cifar("involution", 5_116_682, 268_456_960, {"params": "5.1M", "megabytes": "20.467", "top1": "90.8"}),
        _cifar("condconv", 29_982_314, 580_497_920, {"params": "30.0M", "megabytes": "119.929", "top1": "91.2"}),
        _cifar("weightnet", 11_319_274, 561_830_912),
        _cifar("se", 11_263_042, 555_509_760),
        _shuffle("0.5", None, 1_366_792, 40_476_448, "1.4M / 41M / 39.7"),
        _shuffle("1.0", None, 2_211_976, 137_610_912, "2.2M / 138M / 30.9"),
        _shuffle("1.5", None, 3_507_720, 298_970_656, "3.5M / 299M / 27.4"),
        _shuffle("2.0", None, 5_503_992, 557_269_648, "5.5M / 557M / 25.5"),
        _shuffle("0.5", 1, 1_463_928, 40_704_040, "1.5M / 41M / 36.7"),
        _shuffle("1.0", 1, 2_435_832, 138_534_120, "2.4M / 139M / 28.8"),
        _shuffle("1.5", 1, 3_915_344, 301_097_064, "3.9M / 301M / 25.6"),
        _shuffle("2.0", 1, 6_198_068, 561_367_920, "6.1M / 562M / 24.1"),
        _shuffle("0.5", 8, 2_994_072, 42_200_416, "2.7M / 42M / 34.0"),
        _shuffle("1.0", 4, 5_143_896, 141_208_512, "5.1M / 141M / 27.6"),
        _shuffle("1.5", 4, 10_173_104, 307_301_952, "9.6M / 307M / 25.0"),
        _shuffle("2.0", 4, 18_268_604, 573_363_984, "18.1M / 573M / 23.5"),
    )
}
"""The networks that the papers tell of, by name. params and macs: convolutions and linear layers, one image."""
