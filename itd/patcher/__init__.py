"""The convolution and the pool at a setting; a model rewritten to take a configuration; the model registry."""

from itd.patcher.dynamic import (
    DynamicAvgPool2d,
    DynamicConv2d,
    DynamicMaxPool2d,
    DynamicPerSampleConv2d,
    conv_at,
    per_sample_conv_at,
    pool_at,
)
from itd.patcher.families import ModelEntry, SiteModule, Sites
from itd.patcher.geometry import Geometry, half_stride_weight, pad_extra, resize_kernel, resize_matrix
from itd.patcher.kinds import takes
from itd.patcher.model import DynamicModel, check_space, entry_of, logits_of, model_space, patch, site_specs, unpatched
from itd.patcher.registry import (
    MODELS,
    build_model,
    layer_attributes,
    parse_sites,
    register_model,
    registered,
    resolve_sites,
)
from itd.space import Choices, Conventions

__all__ = [
    "MODELS",
    "Choices",
    "Conventions",
    "DynamicAvgPool2d",
    "DynamicConv2d",
    "DynamicMaxPool2d",
    "DynamicModel",
    "DynamicPerSampleConv2d",
    "Geometry",
    "ModelEntry",
    "SiteModule",
    "Sites",
    "build_model",
    "check_space",
    "conv_at",
    "entry_of",
    "half_stride_weight",
    "layer_attributes",
    "logits_of",
    "model_space",
    "pad_extra",
    "parse_sites",
    "patch",
    "per_sample_conv_at",
    "pool_at",
    "register_model",
    "registered",
    "resize_kernel",
    "resize_matrix",
    "resolve_sites",
    "site_specs",
    "takes",
    "unpatched",
]
