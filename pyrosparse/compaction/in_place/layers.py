"""The layers between which units lie: each output is a weighted sum of all inputs."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from pyrosparse.compaction.layers import CONVOLUTIONS, is_plain
from pyrosparse.lifting.layers import is_conv1d_class

LINEAR = (nn.Linear, NonDynamicallyQuantizableLinear)


def is_mixing(module: nn.Module) -> bool:
    """Whether a module is a dense layer or a convolution without groups, and computes as such.

    >>> is_mixing(nn.Linear(2, 1)), is_mixing(nn.Conv2d(4, 4, 3, groups=4))
    (True, False)
    """
    if type(module) in CONVOLUTIONS and module.groups != 1:
        return False
    return is_plain(module, (*LINEAR, *CONVOLUTIONS)) or is_transposed_linear(module)


def is_transposed_linear(module: nn.Module) -> bool:
    """Whether a module is Hugging Face's ``Conv1D``: a dense layer, weight (inputs, outputs)."""
    kind = type(module)
    return is_conv1d_class(kind) and is_plain(module, (kind,))


def weight_of(module: nn.Module) -> Tensor:
    """The weight as (outputs, inputs, *kernel), detached."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.detach().T if is_transposed_linear(module) else weight.detach()


def used(weight: Tensor) -> Tensor:
    """Between which outputs and inputs a weight is not zero, boolean, (outputs, inputs).

    >>> import torch
    >>> used(torch.tensor([[[0.0, 2.0]], [[0.0, 0.0]]]))
    tensor([[ True],
            [False]])
    """
    return (weight != 0).reshape(*weight.shape[:2], -1).any(2)


def weight_dim(module: nn.Module, entering: bool) -> int:
    """The dimension of the weight that holds the inputs, or the outputs.

    >>> weight_dim(nn.Linear(2, 1), entering=True)
    1
    """
    return int(entering != is_transposed_linear(module))


def feature_dim(module: nn.Module, x: Tensor) -> int:
    """The dimension of what enters or leaves a layer that holds the features.

    >>> import torch
    >>> feature_dim(nn.Conv2d(3, 1, 1), torch.ones(2, 3, 8, 8))
    1
    """
    if isinstance(module, CONVOLUTIONS):
        return x.dim() - len(module.kernel_size) - 1
    return x.dim() - 1


def pads(module: nn.Module) -> bool:
    """Whether a convolution sees zeros beyond the border, where a constant is none."""
    if not isinstance(module, CONVOLUTIONS) or module.padding_mode != "zeros":
        return False
    if isinstance(module.padding, str):
        return module.padding == "same" and any(side > 1 for side in module.kernel_size)
    return any(module.padding)
