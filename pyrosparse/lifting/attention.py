"""``nn.MultiheadAttention`` reads its output projection past the layer: here it calls it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def attention_of(net: nn.Module, layer: str) -> nn.MultiheadAttention | None:
    """The attention whose output projection a layer is, by the layer's name; None of others.

    >>> net = nn.Sequential(nn.MultiheadAttention(4, 2))
    >>> attention_of(net, "0.out_proj") is net[0], attention_of(net, "0")
    (True, None)
    """
    owner_name, _, leaf = layer.rpartition(".")
    owner = net.get_submodule(owner_name)
    return owner if isinstance(owner, nn.MultiheadAttention) and leaf == "out_proj" else None


def length_first(net: nn.Module, layer: str) -> bool:
    """Whether what enters and leaves a layer is (length, batch, features), as within torch's
    transformer layers without ``batch_first``. What an attention gives its output projection has
    the batch first here.

    >>> net = nn.TransformerEncoderLayer(4, 2, batch_first=False)
    >>> [length_first(net, layer) for layer in ("linear2", "self_attn.out_proj")]
    [True, False]
    """
    path = layer.split(".") if layer else []
    around = [net.get_submodule(".".join(path[:depth])) for depth in range(len(path))]
    layers = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
    inside = [one for one in around if isinstance(one, layers)]
    return any(not one.self_attn.batch_first for one in inside) and not attention_of(net, layer)


class Projecting:
    r"""Two hooks on an attention by which it calls its output projection as a layer, so that hooks
    on that act.

    The attention is computed with the identity for a projection, which gives the heads next to each
    other, and the projection is called on these, with the batch first:

    .. math:: y = W_o \, [h_1, \dots, h_H] + b_o

    The fast path of torch's encoder layers, which passes the attention by, stays off meanwhile, as
    hooks on it do that.

    >>> attention, x = nn.MultiheadAttention(4, 2, batch_first=True), torch.ones(1, 3, 4)
    >>> before, _ = attention(x, x, x)
    >>> hooks = Projecting(attention)
    >>> torch.allclose(before, attention(x, x, x)[0])
    True
    >>> hooks.remove()
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        self._projection: nn.Module | None = None
        self._handles = [
            attention.register_forward_pre_hook(self._stand_in),
            attention.register_forward_hook(self._project, always_call=True),
        ]

    def remove(self) -> None:
        """Let the attention compute as torch does again."""
        for handle in self._handles:
            handle.remove()

    def _stand_in(self, attention: nn.Module, _: tuple[Any, ...]) -> None:
        self._projection = attention._modules["out_proj"]
        assert self._projection is not None
        attention._modules["out_proj"] = _identity(self._projection)

    def _project(self, attention: nn.Module, _: tuple[Any, ...], output: Any) -> Any:
        projection, self._projection = self._projection, None
        attention._modules["out_proj"] = projection
        if output is None or projection is None:  # the attention raised an error
            return None
        heads, weights = output
        if heads.dim() == 2:
            return projection(heads[None])[0], weights
        if attention.batch_first:
            return projection(heads), weights
        return projection(heads.transpose(0, 1)).transpose(0, 1), weights


@contextmanager
def projecting(attentions: list[nn.MultiheadAttention]) -> Iterator[None]:
    """Within, attentions call their output projections as layers; see ``Projecting``."""
    hooks = [Projecting(one) for one in attentions]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


@contextmanager
def no_fast_path() -> Iterator[None]:
    """Within, torch's transformer layers run all of their layers one by one, as in training: with
    the fast path a padding mask would make one nested tensor of a batch, which hooks cannot take.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _identity(projection: nn.Module) -> nn.Module:
    """A projection that gives what it gets."""
    weight, bias = projection.weight, projection.bias
    assert isinstance(weight, Tensor)
    size = weight.shape[1]
    # Not a Linear, which would draw its weights first.
    made: Any = nn.Module()
    made.weight = torch.eye(size, dtype=weight.dtype, device=weight.device)
    made.bias = weight.new_zeros(size) if isinstance(bias, Tensor) else None
    identity: nn.Module = made
    return identity
