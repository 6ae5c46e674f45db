"""Modules that occur only in compact networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyrosparse.lifting.input_gate import InputGate


class Gain(nn.Module):
    """Features times fixed gains, for gains that no layer's weights can absorb.

    x: (..., features, ...) with the features in dimension ``dim``; gain: (features,).

    >>> Gain(torch.tensor([2.0, 0.0]), dim=-1)(torch.ones(1, 2))
    tensor([[2., 0.]])
    """

    gain: Tensor

    def __init__(self, gain: Tensor, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("gain", gain.clone())

    def forward(self, x: Tensor) -> Tensor:
        features = x.transpose(self.dim, -1)
        # Expanded, because a single feature would silently broadcast over all gains.
        return (features * self.gain.expand_as(features)).transpose(self.dim, -1)


class Gained(nn.Module):
    """A module between gains that its own weights cannot absorb.

    entering: applied one after another to the first argument (or to ``input``); leaving: to the
    result. All other attributes are the module's: its weight, its number of features.

    >>> gain = Gain(torch.tensor([2.0, 0.0]), dim=-1)
    >>> gained = Gained(nn.Tanh(), [gain], [gain])
    >>> gained(torch.tensor([[100.0, 1.0]]))
    tensor([[2., 0.]])
    """

    def __init__(
        self, module: nn.Module, entering: Sequence[nn.Module], leaving: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        self.entering = nn.Sequential(*entering)
        self.module = module
        self.leaving = nn.Sequential(*leaving)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = enter(self.entering, args, kwargs)
        return self.leaving(self.module(*args, **kwargs))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "module" not in self.__dict__.get("_modules", {}):
                raise
            return getattr(self.module, name)


class Entering:
    """A forward pre-hook, for ``with_kwargs=True``: applies a module to the input of another.

    >>> layer = nn.Identity()
    >>> hook = Entering(Gain(torch.tensor([2.0]), dim=-1))
    >>> handle = layer.register_forward_pre_hook(hook, with_kwargs=True)
    >>> layer(torch.tensor([3.0]))
    tensor([6.])
    """

    def __init__(self, gain: nn.Module) -> None:
        self.gain = gain

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return enter(self.gain, args, kwargs)


def enter(
    gain: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with a module applied to the first, or to ``input``."""
    if args:
        return (gain(args[0]), *args[1:]), kwargs
    return args, kwargs | {"input": gain(kwargs["input"])}


class Select(nn.Module):
    """A selection of the features, in their order.

    x: (..., features, ...) -> (..., len(index), ...), in dimension ``dim``.

    >>> Select(torch.tensor([0, 2]), dim=1)(torch.tensor([[1, 2, 3]]))
    tensor([[1, 3]])
    """

    index: Tensor

    def __init__(self, index: Tensor, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(self.dim, self.index)

    def extra_repr(self) -> str:
        return f"{len(self.index)} features, dim={self.dim}"


class Scatter(nn.Module):
    r"""A sum whose operands have different features, plus the values of the constant features.

    .. math:: y_j = c_j + \sum_k x_{k, i} \quad \text{where feature } j \text{ is the } i
              \text{-th of operand } k

    operands:  tensors (..., features_k, ...) that agree in all dimensions but ``dim``.
    indices:   one per operand, (features_k,), the positions in the sum, or None for all of them.
    constant:  (features,), or None for zeros.
    broadcast: whether operands may have length 1 in the other dimensions, as positions that are
               the same for every datum have.

    >>> join = Scatter(3, [torch.tensor([0, 2]), None], None, dim=1)
    >>> join(torch.ones(1, 2), torch.ones(1, 3))
    tensor([[2., 1., 2.]])
    """

    def __init__(
        self,
        features: int,
        indices: list[Tensor | None],
        constant: Tensor | None,
        dim: int,
        broadcast: bool = False,
    ) -> None:
        super().__init__()
        self.features = features
        self.dim = dim
        self.broadcast = broadcast
        self.count = len(indices)
        for number, index in enumerate(indices):
            self.register_buffer(f"index{number}", index)
        self.constant = None if constant is None else nn.Parameter(constant)

    @property
    def indices(self) -> list[Tensor | None]:
        """The positions of each operand's features in the sum."""
        return [getattr(self, f"index{number}") for number in range(self.count)]

    def forward(self, *operands: Tensor) -> Tensor:
        indices = self.indices
        if self.broadcast:
            zeros = sum(torch.zeros_like(x.narrow(self.dim, 0, 1)) for x in operands)
            operands = tuple(x + zeros for x in operands)
        whole = [x for x, index in zip(operands, indices, strict=True) if index is None]
        if whole:
            total = whole[0]
            for x in whole[1:]:
                total = total + x
        else:
            one = torch.zeros_like(operands[0].narrow(self.dim, 0, 1))
            total = one.repeat_interleave(self.features, dim=self.dim)
        for x, index in zip(operands, indices, strict=True):
            if index is not None:
                total = total.index_add(self.dim, index, x)
        if self.constant is not None:
            total = (total.transpose(self.dim, -1) + self.constant).transpose(self.dim, -1)
        return total

    def extra_repr(self) -> str:
        return f"{self.count} operands -> {self.features} features, dim={self.dim}"


class ReducedLayerNorm(nn.Module):
    r"""Layer normalisation over D features of which some were removed: these are constant.

    .. math:: m = \frac{1}{D} \Big(\sum_i x_i + \sum_r c_r\Big), \qquad
              v = \frac{1}{D} \Big(\sum_i (x_i - m)^2 + \sum_r (c_r - m)^2\Big)

    x: (..., D - len(constants)) -> (..., len(index)): ``(x - m) / sqrt(v + eps)`` at the places
    ``index`` of x and, behind x, of the constants; times ``weight``, plus ``bias``.

    reads_constants: whether some places are those of constants.

    >>> import torch.nn.functional as F
    >>> index = torch.tensor([0, 1])
    >>> norm = ReducedLayerNorm(torch.zeros(1), index, torch.ones(2), torch.zeros(2), eps=0.0)
    >>> x = torch.tensor([[1.0, 5.0]])
    >>> torch.allclose(norm(x), F.layer_norm(F.pad(x, (0, 1)), (3,), eps=0.0)[:, :2])
    True
    """

    constants: Tensor
    index: Tensor

    def __init__(
        self,
        constants: Tensor,
        index: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        reads_constants: bool = False,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.reads_constants = reads_constants
        self.register_buffer("constants", constants)
        self.register_buffer("index", index)
        self.weight = None if weight is None else nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-1] + len(self.constants)
        mean = (x.sum(-1, keepdim=True) + self.constants.sum()) / size
        centred = x - mean
        others = self.constants - mean
        squares = centred.square().sum(-1, keepdim=True) + others.square().sum(-1, keepdim=True)
        y = torch.cat([centred, others], -1) if self.reads_constants else centred
        y = y.index_select(-1, self.index) * torch.rsqrt(squares / size + self.eps)
        y = y if self.weight is None else y * self.weight
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return f"{len(self.index)} features, {len(self.constants)} constants, eps={self.eps}"


PARTS = (Gain, Select, Scatter, ReducedLayerNorm, InputGate)
