"""Multiply-accumulates: the one table of what is counted, for the engine, the learned layers and whole networks.

A learned layer and a site's convolution count by their definition. Everything else is executed on shapes alone and
counted by the operators of torch's own library (aten) that it comes down to, as `torch.utils.flop_counter` has them; an
operator that is neither in its registry nor known to multiply nothing is reported by name. A formula that is registered
there (`register_flop_formula`) is used here too. Element-wise products, such as a gate's scaling, do not count.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from itd.device import raise_if_memory
from itd.errors import ItdError, ModelError, SpaceError
from itd.layers import LAYERS
from itd.layers.condconv import CondConv2d
from itd.layers.conv import PerSampleConv2d
from itd.layers.involution import Involution2d
from itd.layers.se import SqueezeExcitation
from itd.layers.weightnet import WeightNet2d, WeightNetReduce
from itd.patcher import DynamicConv2d, DynamicModel
from itd.patcher.storage import copy_on
from itd.space import Setting
from itd.text import first_line

# -- by definition ----------------------------------------------------------------------------------------------------

_DEFINED = (*LAYERS, DynamicConv2d)
"""Modules of which nothing inside is counted, for `layer_macs` counts the whole."""


def layer_macs(module: nn.Module, x: Tensor, out: Tensor) -> int:
    """Of one of `LAYERS` or a site's convolution on a batch. x, out: input and output; only their shapes are read.

    An involution's products of pixels and kernels count, as a convolution's do. Pooling, activations and the scaling
    by a gate do not. A layer that takes a setting counts at the setting that it has: at stride 1/2 the inserted zeros
    do not count, and neither does resizing a pretrained kernel, which is done once for all images.

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
    if isinstance(module, (PerSampleConv2d, DynamicConv2d)):
        setting = getattr(module, "setting", Setting())
        places = x if setting.stride == 0.5 else out
        made = kernel_macs(module) if isinstance(module, PerSampleConv2d) else 0
        return samples * (math.prod(places.shape[2:]) * sample_kernel_numel(module) + made)
    raise TypeError(f"{type(module).__name__} is none of {', '.join(layer.__name__ for layer in LAYERS)}")


def kernel_macs(module: PerSampleConv2d) -> int:
    """What making the kernel of one sample costs."""
    if isinstance(module, CondConv2d):
        return module.router.weight.numel() + module.kernels.numel()
    assert isinstance(module, WeightNet2d)
    own = 0 if module.reduce is None else module.reduce.fc.weight.numel()
    return own + module.fc1.weight.numel() + module.weight.numel()


def sample_kernel_numel(module: PerSampleConv2d | DynamicConv2d) -> int:
    """Elements of the kernel of one sample, at the layer's setting where it takes one."""
    shape = module.weight_shape if isinstance(module, PerSampleConv2d) else module.weight.shape
    size = getattr(module, "setting", Setting()).size
    return math.prod(shape[:2]) * (math.prod(shape[2:]) if size is None else size**2)


# -- everything else, by the operators that it comes down to ---------------------------------------------------------

_aten = torch.ops.aten


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    """q: (..., T, E), k: (..., S, E), v: (..., S, V)."""
    return q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])


def _self_attention(x: Tensor, *_: Any, **__: Any) -> int:
    """Four projections and two products. x: (N, T, E)."""
    tokens, width = x.shape[1:]
    return x.numel() * (4 * width + 2 * tokens)


_PRODUCTS: dict[Any, Callable[..., int]] = {
    _aten.mv: lambda a, x, **_: a.numel(),
    _aten.addmv: lambda y, a, x, **_: a.numel(),
    _aten.dot: lambda x, y, **_: x.numel(),
    _aten.vdot: lambda x, y, **_: x.numel(),
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_fused_attention_overrideable: _attention,
    _aten._native_multi_head_attention: _self_attention,
    _aten.addbmm: lambda m, a, b, **_: a.numel() * b.shape[2],
}
"""Operator -> its multiply-accumulates, where torch's registry, in which a FLOP is half of one, has none."""

_NAMES = """
native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_with_update
_batch_norm_no_update cudnn_batch_norm miopen_batch_norm native_layer_norm native_group_norm _fused_rms_norm
_weight_norm_interface renorm max_pool2d_with_indices max_pool3d_with_indices avg_pool2d avg_pool3d max_pool2d
max_pool3d mkldnn_max_pool2d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d
fractional_max_pool2d fractional_max_pool3d max_unpool2d max_unpool3d mean sum nansum amax amin max min aminmax argmax
argmin var var_mean std std_mean median nanmedian mode kthvalue any all count_nonzero norm linalg_vector_norm dist trace
cumsum cummax cummin _cummax_helper _cummin_helper logcumsumexp logsumexp sort topk histc bincount bucketize
searchsorted _unique2 unique_dim unique_consecutive nonzero nonzero_static _softmax _log_softmax _safe_softmax cat stack
clone copy _to_copy _reshape_copy lift_fresh complex constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
replication_pad1d replication_pad2d replication_pad3d index index_put _unsafe_index index_select index_fill index_add
index_copy masked_select masked_scatter gather scatter scatter_add scatter_reduce embedding where masked_fill fill zero
roll rot90 flip repeat repeat_interleave diag_embed im2col col2im pixel_shuffle pixel_unshuffle channel_shuffle
native_channel_shuffle upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
_upsample_nearest_exact2d _upsample_nearest_exact3d native_dropout bernoulli multinomial exponential uniform normal
random geometric randperm triu tril _unsafe_view _local_scalar_dense empty empty_like empty_strided empty_permuted
new_empty new_empty_strided zeros zeros_like ones ones_like full full_like new_zeros new_ones new_full arange linspace
logspace eye rand randn rand_like randn_like randint scalar_tensor _assert_async _assert_scalar as_strided hardswish
hardsigmoid hardtanh leaky_relu elu celu selu silu mish gelu glu relu6 prelu _prelu_kernel rrelu_with_noise softplus
log_sigmoid_forward linalg_cross addr fake_quantize_per_tensor_affine_cachemask
fake_quantize_per_channel_affine_cachemask
"""
_NO_PRODUCTS = frozenset(_NAMES.split())
"""Operators of aten that move, reduce, normalise or make values, and multiply none that count."""


@functools.cache
def _is_free(func: Any) -> bool:
    """Whether an operator multiplies nothing that counts."""
    namespace, _, name = func._schema.name.partition("::")
    if torch.Tag.pointwise in func.tags or func.is_view or namespace in ("prim", "profiler"):
        return True
    plain = name.removesuffix("_")  # in place
    return namespace == "aten" and (not _NO_PRODUCTS.isdisjoint((name, plain)) or _writes_a_view(plain))


def _writes_a_view(name: str) -> bool:
    """Whether an operator is a view in place, a view's copy or a write through one, as `select_scatter` is."""
    packet = getattr(_aten, name.removesuffix("_copy").removesuffix("_scatter").removeprefix("unsafe_"), None)
    return packet is not None and any(getattr(packet, overload).is_view for overload in packet.overloads())


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
        if func.overloadpacket not in _PRODUCTS and func.overloadpacket not in flop_registry:
            with self:  # in inference mode, what is made of other operators arrives whole
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if not self.paused:
            self._count(func, args, kwargs, out)
        return out

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        packet = func.overloadpacket
        if packet in _PRODUCTS:
            self.macs += _PRODUCTS[packet](*args, **kwargs)
        elif packet in flop_registry:
            self.macs += int(flop_registry[packet](*args, **kwargs, out_val=out)) // 2
        elif not _is_free(func):
            name = func._schema.name.removeprefix("aten::")
            self.unknown.add(f"{self.label}: {name}" if self.label else name)


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
    """Multiply-accumulates of one image through a network; it is executed on shapes alone, as far as that is possible.

    A copy in evaluation mode is executed on torch's meta device. A network that reads values, or has an operator that
    knows no shapes, is executed on an image of zeros instead, on the device that it is on.

    Args:
        model: any network, traceable or not; of one that `itd.patch` returned the sites may be moved.
        config: a configuration, as `model.configured` takes it; None is the network as it is.
        input_shape: (C, H, W) of the image.

    Returns:
        The number, an int; its `unknown` names the operators that are not in it.

    Raises:
        ModelError: for an image that the network cannot take, a network that cannot be copied, or a configuration of a
            network that is not patched.
        SpaceError: for a configuration that the network does not have.

    Example:
        >>> from torchvision.models import resnet50
        >>> macs(resnet50())
        4089184256
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"macs takes an nn.Module, given {type(model).__name__}; build the network first")
    shape = tuple(input_shape) if isinstance(input_shape, (tuple, list, torch.Size)) else ()
    if len(shape) != 3 or not all(type(side) is int and side > 0 for side in shape):
        raise ItdError(f"input_shape is {input_shape!r}; give three whole numbers of at least 1, (C, H, W)")
    if config is not None:
        _check_config(model, config)
    return _counted(model, config, shape)


def _counted(model: nn.Module, config: Any, shape: tuple[int, ...]) -> Macs:
    """On the meta device, or where that cannot be on the network's own; ModelError where neither can."""
    own = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        return _executed(model, config, shape, torch.device("meta"))
    except SpaceError:
        raise
    except Exception as error:  # a network may raise anything
        refused: Exception = error
    try:
        return _executed(model, config, shape, own)
    except ItdError:
        raise
    except Exception as error:
        raise_if_memory(error, own)
        refused = error
    size = " x ".join(map(str, shape[1:]))
    raise ModelError(
        f"{type(model).__name__} does not take an image of {size} with {shape[0]} channels: "
        f"{first_line(refused)}; give another input_shape"
    ) from refused


def _check_config(model: nn.Module, config: Any) -> None:
    """ModelError or SpaceError in one line for what is no configuration of this network."""
    if not isinstance(model, DynamicModel):
        raise ModelError(f"a configuration is of a patched network, given {type(model).__name__}; see itd.patch")
    mapping, sequence = isinstance(config, Mapping), isinstance(config, Sequence) and not isinstance(config, str)
    settings = list(config.values()) if mapping else list(config) if sequence else []
    if not (mapping or sequence) or not all(isinstance(setting, Setting) for setting in settings):
        raise SpaceError(f'config is {config!r}; give site -> Setting, such as {{"A": Setting(stride=2)}}')
    if sequence and len(settings) != len(model.sites):
        raise SpaceError(
            f"config has {len(settings)} settings; give one for each of the sites {', '.join(model.sites)}, or "
            "site -> Setting"
        )


def _executed(model: nn.Module, config: Any, shape: tuple[int, ...], device: torch.device) -> Macs:
    """What a copy of the network counts when one image goes through it on a device."""
    network = copy_on(model, device)
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    at = contextlib.nullcontext() if config is None else network.configured(config)  # type: ignore[operator]
    with at, torch.no_grad(), torch.random.fork_rng(devices=[]), CountingMode() as mode, _hooked(network, mode):
        network(torch.zeros(1, *shape, device=device, dtype=dtype))
    return Macs(mode.macs, sorted(mode.unknown))


@contextlib.contextmanager
def _hooked(network: nn.Module, mode: CountingMode) -> Iterator[None]:
    """Inside the block some modules count by definition, and what is not counted is named by the module it is in."""
    handles, labels = [], [""]

    def enter(module: nn.Module, inputs: Any) -> None:
        labels.append(type(module).__name__)
        mode.label = labels[-1]
        mode.paused += isinstance(module, _DEFINED)

    def leave(module: nn.Module, inputs: Any, named: Any, out: Any) -> None:
        labels.pop()
        mode.label = labels[-1]
        if isinstance(module, _DEFINED):
            mode.paused -= 1
            if not mode.paused:
                mode.macs += layer_macs(module, inputs[0] if inputs else named["x"], out)

    for module in network.modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue  # takes no hooks; what it executes is seen all the same
        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
