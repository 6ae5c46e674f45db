"""What a network costs: multiplications and bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from pyrosparse.compaction.layers import MIXING, TRANSPOSED
from pyrosparse.lifting.attention import no_fast_path
from pyrosparse.lifting.layers import is_dense
from pyrosparse.util.modes import evaluating


def macs(net: nn.Module, *inputs: Any) -> dict[str, int]:
    """Multiply-accumulate operations per datum, by layer, counted by running the network.

    Those of dense and convolutional layers, as papers count them: positions of the output times
    weights that each takes; no biases, pools, activations or products of queries, keys and values,
    and zeros in a weight are work like any other number.

    inputs: what the network is called with; the first of them has one datum a row.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 5))
    >>> macs(net, torch.ones(4, 1, 4, 4))
    {'0': 72, '2': 40}
    """
    counts: dict[str, int] = {}
    batch = len(inputs[0])

    def count(name: str) -> Callable[..., None]:
        def hook(
            module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any], output: Any
        ) -> None:
            if isinstance(module, nn.MultiheadAttention):
                given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
                work = _projections(module, given)
                counts[name] = counts.get(name, 0) + work // batch
                return
            weight = module.weight
            assert isinstance(weight, Tensor)
            if is_dense(module):
                work = output.numel() * (weight.numel() // output.shape[-1])
            elif isinstance(module, TRANSPOSED):
                work = args[0].numel() * weight[0].numel()
            else:
                work = output.numel() * weight[0].numel()
            counts[name] = counts.get(name, 0) + work // batch

        return hook

    handles = [
        module.register_forward_hook(count(name), with_kwargs=True)
        for name, module in net.named_modules()
        if isinstance(module, (*MIXING, nn.MultiheadAttention)) or is_dense(module)
    ]
    try:
        with torch.no_grad(), evaluating(net), no_fast_path():
            net(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return counts


def _projections(attention: nn.MultiheadAttention, given: dict[str, Tensor]) -> int:
    """The work of the four projections of an attention, which it calls no layers for."""
    width = attention.embed_dim
    entering = sum(given[name].numel() for name in ("query", "key", "value"))
    return (entering + given["query"].numel()) * width


def file_bytes(net: nn.Module) -> int:
    """The size of the network's state dict as a safetensors file, tensors stored whole.

    >>> file_bytes(nn.Linear(4, 2)) > 4 * 10
    True
    """
    # Copies: safetensors refuses memory that two names share.
    state = {name: tensor.cpu().contiguous().clone() for name, tensor in net.state_dict().items()}
    return len(save(state))
