"""Multiply-accumulates: the one table of what is counted, for the engine, the learned layers and whole networks.

A learned layer counts by its definition. Everything else is executed on shapes alone and counted by the operators of
torch's own library (aten) that it comes down to, as `torch.utils.flop_counter` has them; an operator that is neither in
its registry nor known to multiply nothing is reported by name. Element-wise products, such as a gate's scaling, do not
count.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from itd.errors import ItdError, ModelError
from itd.layers import LAYERS
from itd.layers.condconv import CondConv2d
from itd.layers.conv import PerSampleConv2d
from itd.layers.involution import Involution2d
from itd.layers.se import SqueezeExcitation
from itd.layers.weightnet import WeightNet2d, WeightNetReduce
from itd.patcher import DynamicModel
from itd.space import Setting
from itd.text import first_line

# -- learned layers, by definition ------------------------------------------------------------------------------------


def layer_macs(module: nn.Module, x: Tensor, out: Tensor) -> int:
    """Of one of `LAYERS` on a batch. x, out: its input and output, of which only the shapes are read.

    An involution's products of pixels and kernels count, as a convolution's do. Pooling, activations and the scaling
    by a gate do not. A layer that takes a setting counts at the setting that it has: at stride 1/2 the inserted zeros
    do not count.

    >>> layer_macs(SqueezeExcitation(32, 16), torch.empty(2, 32, 5, 5), torch.empty(2, 32, 5, 5))
    256
    """
    samples = x.shape[0]
    if isinstance(module, SqueezeExcitation):
        return samples * (module.fc1.weight.numel() + module.fc2.weight.numel())
    if isinstance(module, WeightNetReduce):
        return samples * module.fc.weight.numel()
    if isinstance(module, Involution2d):
        made = module.reduce.weight.numel() + module.span.weight.numel()
        return samples * math.prod(out.shape[2:]) * made + out.numel() * math.prod(module.kernel_size)
    if isinstance(module, PerSampleConv2d):
        setting = getattr(module, "setting", Setting())
        places = x if setting.stride == 0.5 else out
        return samples * (math.prod(places.shape[2:]) * sample_kernel_numel(module) + kernel_macs(module))
    raise TypeError(f"{type(module).__name__} is none of {', '.join(layer.__name__ for layer in LAYERS)}")


def kernel_macs(module: PerSampleConv2d) -> int:
    """What making the kernel of one sample costs."""
    if isinstance(module, CondConv2d):
        return module.router.weight.numel() + module.kernels.numel()
    assert isinstance(module, WeightNet2d)
    own = 0 if module.reduce is None else module.reduce.fc.weight.numel()
    return own + module.fc1.weight.numel() + module.weight.numel()


def sample_kernel_numel(module: PerSampleConv2d) -> int:
    """Elements of the kernel of one sample, at the layer's setting where it takes one."""
    size = getattr(module, "setting", Setting()).size
    taps = math.prod(module.weight_shape[2:]) if size is None else size**2
    return math.prod(module.weight_shape[:2]) * taps


# -- everything else, by the operators that it comes down to ---------------------------------------------------------

_aten = torch.ops.aten
_PRODUCTS: dict[Any, Callable[..., int]] = {
    _aten.mv: lambda a, x, **_: a.numel(),
    _aten.addmv: lambda y, a, x, **_: a.numel(),
    _aten.dot: lambda x, y, **_: x.numel(),
    _aten.vdot: lambda x, y, **_: x.numel(),
    _aten.addr: lambda m, x, y, **_: x.numel() * y.numel(),
    _aten.addbmm: lambda m, a, b, **_: a.numel() * b.shape[2],
}
"""Operator -> its multiply-accumulates, where torch's registry, in which a FLOP is half of one, has none."""

_NAMES = """
native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_with_update
_batch_norm_no_update cudnn_batch_norm miopen_batch_norm native_layer_norm native_group_norm _fused_rms_norm
max_pool2d_with_indices max_pool3d_with_indices avg_pool2d avg_pool3d max_pool2d max_pool3d mkldnn_max_pool2d
_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d mean sum nansum amax amin max min
aminmax argmax argmin var var_mean std std_mean median any all count_nonzero norm linalg_vector_norm cumsum
logcumsumexp logsumexp sort topk _softmax _log_softmax _safe_softmax cat stack clone copy _to_copy _reshape_copy
lift_fresh constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d index index_put
index_select index_fill index_add masked_select masked_scatter gather scatter scatter_add embedding where masked_fill
fill zero roll flip repeat repeat_interleave im2col col2im pixel_shuffle pixel_unshuffle channel_shuffle
native_channel_shuffle upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d
native_dropout bernoulli triu tril _unsafe_view _local_scalar_dense empty empty_like empty_strided empty_permuted
new_empty new_empty_strided zeros zeros_like ones ones_like full full_like new_zeros new_ones new_full arange linspace
eye rand randn rand_like randn_like randint scalar_tensor _assert_async _assert_scalar as_strided hardswish
hardsigmoid hardtanh leaky_relu elu celu selu silu mish gelu glu relu6 prelu _prelu_kernel rrelu_with_noise softplus
logsigmoid
"""
_NO_PRODUCTS = frozenset(_NAMES.split())
"""Operators of aten that move, reduce, normalise or make values, and multiply none that count."""


@functools.cache
def _is_free(func: Any) -> bool:
    """Whether an operator multiplies nothing that counts."""
    if torch.Tag.pointwise in func.tags or func.is_view:
        return True
    namespace, _, name = func._schema.name.partition("::")
    name = name.rstrip("_").removesuffix("_copy") or name
    return namespace == "aten" and (name in _NO_PRODUCTS or func._schema.name.split("::")[1] in _NO_PRODUCTS)


class CountingMode(TorchDispatchMode):
    """Counts what is executed inside it, on tensors of any device, meta among them.

    macs: so far. unknown: names of the operators that are not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0
        self.unknown: set[str] = set()
        self.label = ""
        self.paused = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if self.paused:
            return out
        packet = func.overloadpacket
        if packet in _PRODUCTS:
            self.macs += _PRODUCTS[packet](*args)
        elif packet in flop_registry:
            self.macs += int(flop_registry[packet](*args, **kwargs, out_val=out)) // 2
        elif not _is_free(func):
            name = func._schema.name.removeprefix("aten::")
            self.unknown.add(f"{self.label}: {name}" if self.label else name)
        return out


def executed_macs(work: Callable[[], Any], label: str = "") -> tuple[int, tuple[str, ...]]:
    """(multiply-accumulates, names of what is not counted) of what `work` executes; run it on meta tensors.

    label: what the names begin with.
    """
    with torch.no_grad(), CountingMode() as mode:
        mode.label = label
        work()
    return mode.macs, tuple(sorted(mode.unknown))


# -- a whole network -------------------------------------------------------------------------------------------------


class Macs(int):
    """A number of multiply-accumulates. unknown: names of the operators that are not in it."""

    unknown: tuple[str, ...] = ()

    def __new__(cls, value: int, unknown: Sequence[str] = ()) -> Macs:
        made = super().__new__(cls, value)
        made.unknown = tuple(unknown)
        return made

    def __repr__(self) -> str:
        return f"{int(self)}" + (f" without {', '.join(self.unknown)}" if self.unknown else "")


def macs(
    model: nn.Module,
    config: Mapping[str, Setting] | Sequence[Setting] | None = None,
    input_shape: tuple[int, int, int] = (3, 224, 224),
) -> Macs:
    """Multiply-accumulates of one image through a network; it is executed on shapes alone.

    Args:
        model: any network, traceable or not; of one that `itd.patch` returned the sites may be moved.
        config: a configuration, as `model.configured` takes it; None is the network as it is.
        input_shape: (C, H, W) of the image.

    Returns:
        The number, an int; its `unknown` names the operators that are not in it.

    Raises:
        ModelError: for an image that the network cannot take, or a configuration of a network that is not patched.

    Example:
        >>> from torchvision.models import resnet50
        >>> macs(resnet50())
        4089184256
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"macs takes an nn.Module, given {type(model).__name__}; build the network first")
    shape = tuple(input_shape) if isinstance(input_shape, (tuple, list, torch.Size)) else ()
    if len(shape) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
        raise ItdError(f"input_shape is {input_shape!r}; give three whole numbers of at least 1, (C, H, W)")
    if config is not None and not isinstance(model, DynamicModel):
        raise ModelError(f"a configuration is of a patched network, given {type(model).__name__}; see itd.patch")
    network = copy.deepcopy(model).to("meta").eval()
    at = contextlib.nullcontext() if config is None else network.configured(config)  # type: ignore[operator]
    with at, torch.no_grad(), CountingMode() as mode, _hooked(network, mode):
        try:
            network(torch.empty(1, *shape, device="meta"))
        except (RuntimeError, ValueError, IndexError, NotImplementedError) as error:
            size = " x ".join(map(str, shape[1:]))
            raise ModelError(
                f"{type(model).__name__} does not take an image of {size} with {shape[0]} channels: "
                f"{first_line(error)}; give another input_shape"
            ) from error
    return Macs(mode.macs, sorted(mode.unknown))


@contextlib.contextmanager
def _hooked(network: nn.Module, mode: CountingMode) -> Iterator[None]:
    """Learned layers count by definition inside the block, and what is not counted is named by the module it is in."""
    handles, labels = [], [""]

    def enter(module: nn.Module, inputs: Any) -> None:
        labels.append(type(module).__name__)
        mode.label = labels[-1]
        mode.paused += isinstance(module, LAYERS)

    def leave(module: nn.Module, inputs: Any, out: Any) -> None:
        labels.pop()
        mode.label = labels[-1]
        if isinstance(module, LAYERS):
            mode.paused -= 1
            if not mode.paused:
                mode.macs += layer_macs(module, inputs[0], out)

    for module in network.modules():
        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
