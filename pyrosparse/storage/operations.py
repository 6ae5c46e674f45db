"""The operations that a file of a network may name, and no others."""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pyrosparse.storage.storage import StorageError
from pyrosparse.util.errors import torchvision

# Arithmetic on tensors alone: nothing here reads or writes a file, or makes Python objects.
_NAMES = """
    abs acos acosh adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d add addbmm addcdiv addcmul addmm addmv affine_grid all
    alpha_dropout amax amin aminmax and_ any arange argmax argmin argsort asin asinh atan atan2
    atanh avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bernoulli bfloat16 bilinear
    bitwise_and bitwise_not bitwise_or bitwise_xor bmm bool broadcast_to bucketize cat cdist ceil
    celu channel_shuffle chunk clamp clamp_max clamp_min clone complex concat concatenate contains
    contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d cos cosh
    cosine_similarity count_nonzero cross cummax cummin cumprod cumsum deg2rad detach diag
    diag_embed diagonal diff dim dist div divide dot double dropout dropout1d dropout2d dropout3d
    einsum elu embedding embedding_bag empty empty_like eq erf erfc erfinv exp exp2 expand expand_as
    expm1 eye feature_alpha_dropout flatten flip fliplr flipud float floor floor_divide floordiv
    fmax fmin fmod fold frac full full_like gather ge gelu getitem glu greater greater_equal
    grid_sample group_norm gt half hardshrink hardsigmoid hardswish hardtanh heaviside hypot
    index_add index_copy index_fill index_select inner instance_norm int interpolate inv invert
    is_floating_point isclose isfinite isinf isnan kron kthvalue layer_norm le leaky_relu lerp less
    less_equal lgamma linear linspace local_response_norm log log10 log1p log2 log_softmax logaddexp
    logaddexp2 logcumsumexp logical_and logical_not logical_or logical_xor logit logsigmoid
    logsumexp long lp_pool1d lp_pool2d lt masked_fill matmul max max_pool1d max_pool2d max_pool3d
    maximum mean median min minimum mish mm mod moveaxis movedim mul multiply mv nan_to_num nanmean
    nansum narrow ndimension ne neg negative new_empty new_full new_ones new_zeros nonzero norm
    normalize not_ not_equal numel one_hot ones ones_like or_ outer pad permute pixel_shuffle
    pixel_unshuffle polar pos positive pow prelu prod quantile rad2deg rand_like randn_like ravel
    reciprocal relu relu6 remainder renorm repeat repeat_interleave reshape reshape_as rms_norm roll
    rot90 round rrelu rsqrt rsub scaled_dot_product_attention scatter scatter_add select selu
    sigmoid sign silu sin sinc sinh size softmax softmin softplus softshrink softsign sort split
    sqrt square squeeze stack std std_mean sub subtract sum swapaxes swapdims t take_along_dim tan
    tanh tanhshrink tensor_split tensordot threshold tile to topk transpose tril triu true_divide
    truediv trunc type_as unbind unflatten unfold unsqueeze upsample var var_mean vdot vector_norm
    view view_as where xor zeros zeros_like
"""
_HOMES: dict[str, ModuleType] = {
    "operator": operator,
    "torch": torch,
    "torch.nn.functional": F,
    "torch.linalg": torch.linalg,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    f"{home}.{name}": getattr(module, name)
    for home, module in _HOMES.items()
    for name in _NAMES.split()
    if callable(getattr(module, name, None))
} | {"builtins.getattr": getattr, "torch._assert": torch._assert}
# Some functions have two names: the first is written.
_NAME_OF = {function: name for name, function in reversed(_FUNCTIONS.items())}
# Functions of torchvision that torch.fx does not trace: their modules, and their names there.
_SWIN = "torchvision.models.swin_transformer"
_OF_TORCHVISION = {
    "torchvision.ops.stochastic_depth": ("torchvision.ops.stochastic_depth", "stochastic_depth"),
} | {
    f"{_SWIN}.{name}": (_SWIN, name)
    for name in ("shifted_window_attention", "_get_relative_position_bias", "_patch_merging_pad")
}
_NAME_OF_PLACE = {place: name for name, place in _OF_TORCHVISION.items()}

METHODS = frozenset(name for name in _NAMES.split() if callable(getattr(Tensor, name, None)))
ATTRIBUTES = frozenset(
    [
        "H",
        "T",
        "data",
        "device",
        "dtype",
        "indices",
        "is_cuda",
        "mH",
        "mT",
        "ndim",
        "shape",
        "values",
    ]
)


def function_name(function: Any) -> str | None:
    """The name that a function has in a file, None where it has none.

    >>> function_name(operator.add), function_name(print)
    ('operator.add', None)
    """
    # torchvision is not needed otherwise, and slow to import.
    place = (getattr(function, "__module__", ""), getattr(function, "__name__", ""))
    return _NAME_OF_PLACE.get(place) or _NAME_OF.get(function)


def function(name: str) -> Callable[..., Any]:
    """The function of that name.

    Raises StorageError on names that are not in the list.

    >>> function("torch.relu")(torch.tensor(-1.0))
    tensor(0.)
    """
    if name in _OF_TORCHVISION:
        home, own = _OF_TORCHVISION[name]
        torchvision()  # with the way to install it, where it is missing
        found: Callable[..., Any] = getattr(importlib.import_module(home), own)
        return found
    if name not in _FUNCTIONS:
        raise StorageError(f"its graph calls {name!r}, which is not an operation that it may call")
    return _FUNCTIONS[name]
