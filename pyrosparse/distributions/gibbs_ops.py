"""Draws of Gibbs masks as torch operations of a CPU, so that a step that has them can be traced.

They run the loops of ``gibbs_kernels``, and are functions of their arguments alone: what is random
about them comes in as an argument, from torch's own generator.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.custom_op("pyrosparse::complete_graph", mutates_args=(), device_types="cpu")
def complete_graph(t: Tensor, coupling: Tensor, uniforms: Tensor) -> Tensor:
    """As ``complete_graph.sample``, with the block in the last dimension and given uniforms.

    t: (blocks, n) float64; coupling: () float64; uniforms: (blocks, n + 1) float64.
    Returns booleans, (blocks, n).
    """
    from pyrosparse.distributions import gibbs_kernels  # numba takes a second to import

    out = torch.empty(t.shape, dtype=torch.bool)
    arrays = (t.contiguous().numpy(), float(coupling), uniforms.contiguous().numpy(), out.numpy())
    gibbs_kernels.complete_graph(*arrays)
    return out


@complete_graph.register_fake
def _(t: Tensor, coupling: Tensor, uniforms: Tensor) -> Tensor:
    return torch.empty(t.shape, dtype=torch.bool, device=t.device)


@torch.library.custom_op("pyrosparse::fixed_count", mutates_args=(), device_types="cpu")
def fixed_count(t: Tensor, uniforms: Tensor, count: int) -> Tensor:
    """As ``conditional_bernoulli.sample_by_tables``.

    t, uniforms: (blocks, n) float64. Returns booleans, (blocks, n).
    """
    from pyrosparse.distributions import gibbs_kernels

    out = torch.empty(t.shape, dtype=torch.bool)
    arrays = (t.contiguous().numpy(), count, uniforms.contiguous().numpy(), out.numpy())
    gibbs_kernels.fixed_count(*arrays)
    return out


@fixed_count.register_fake
def _(t: Tensor, uniforms: Tensor, count: int) -> Tensor:
    return torch.empty(t.shape, dtype=torch.bool, device=t.device)


@torch.library.custom_op("pyrosparse::bipartite", mutates_args=(), device_types="cpu")
def bipartite(
    t: Tensor, coupling: Tensor, second: Tensor, seeds: Tensor, split: int, sweeps: int
) -> Tensor:
    """The chromatic sampler on two colours.

    t: (blocks, n) float64; coupling: () float64; second: (blocks,) float64, the sum of x over the
    second colour at the start; seeds: (blocks,) int64. Returns booleans, (blocks, n).
    """
    from pyrosparse.distributions import gibbs_kernels

    out = torch.empty(t.shape, dtype=torch.bool)
    gibbs_kernels.bipartite(
        t.contiguous().numpy(),
        float(coupling),
        second.contiguous().numpy(),
        seeds.contiguous().numpy().view("uint64"),
        split,
        sweeps,
        out.numpy(),
    )
    return out


@bipartite.register_fake
def _(
    t: Tensor, coupling: Tensor, second: Tensor, seeds: Tensor, split: int, sweeps: int
) -> Tensor:
    return torch.empty(t.shape, dtype=torch.bool, device=t.device)
