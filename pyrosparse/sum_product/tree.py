"""Sum-product on trees of binary nodes."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrosparse.sum_product import scan
from pyrosparse.sum_product.transition import Transition


@torch.no_grad()
def tree_sum_product(log_odds: Tensor, parent: Tensor, transition: tuple[float, float]) -> Tensor:
    r"""Exact extrinsic log-odds of a Markov tree of binary nodes: what each node hears from the
    others, without its own log-odds.

    .. math::
        p(s) \propto \prod_n e^{u_n s_n} \prod_{n\ \text{root}} p(s_n)
            \prod_{n\ \text{not a root}} p(s_n \mid s_{parent(n)})

    A root's own start has the log-odds ln(p01 / p10). ``log_odds + tree_sum_product(...)`` are the
    log-odds of the marginals.

    log_odds:   u, (..., n), float32 or float64, in nats; infinite where a node is observed. Leading
                dimensions are a batch.
    parent:     (n,), int64: the index of each node's parent, -1 for a root. There may be several
                roots, and parents may come after their children.
    transition: (p01, p10) from parent to child: the probabilities of a 1 after a 0, and of a 0
                after a 1.

    Returns the shape and dtype of ``log_odds``; no gradient passes. Nodes of one depth are taken
    together, so the time goes with the depth of the forest.

    Raises ValueError on log-odds that are NaN, on parents of another shape, out of range or in a
    cycle, and on probabilities less than 1e-9 away from 0 or 1; TypeError on other dtypes.

    Source: Pearl (1988), belief propagation in causal trees.

    >>> import torch
    >>> u, parent = torch.tensor([4.0, 0.0, 0.0]), torch.tensor([-1, 0, 1])
    >>> tree_sum_product(u, parent, (0.1, 0.1))
    tensor([0.0000, 2.0467, 1.4402])
    """
    if log_odds.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"log_odds must be float32 or float64, got {log_odds.dtype}")
    if log_odds.dim() < 1 or parent.shape != log_odds.shape[-1:]:
        raise ValueError(
            f"log_odds must have the shape (..., n) and parent (n,), got {tuple(log_odds.shape)} "
            f"and {tuple(parent.shape)}"
        )
    if log_odds.isnan().any():
        raise ValueError("log_odds holds NaN, expected log-odds, finite or infinite")
    edge = Transition.of("transition", transition)
    levels = depth_levels(parent)
    # Nodes first: then a level is a gather of whole rows.
    node = log_odds.detach().movedim(-1, 0).contiguous()
    heard = torch.zeros_like(node)
    to_parent = torch.zeros_like(node)
    for level in reversed(levels[1:]):
        to_parent[level] = scan.backward(node[level] + heard[level], edge)
        heard.index_add_(0, parent[level], to_parent[level])
    for depth, level in enumerate(levels):
        if depth == 0:
            heard[level] += edge.start
        else:
            above = parent[level]
            # What the parent says to a child is without what the child said.
            heard[level] += scan.forward(node[above] + (heard[above] - to_parent[level]), edge)
    return heard.movedim(0, -1)


def depth_levels(parent: Tensor) -> list[Tensor]:
    """The nodes of a forest by depth, roots first: int64 indices.

    parent: (n,), int64, -1 for a root.

    Raises ValueError on an index out of range and on a cycle, TypeError on another dtype.

    >>> import torch
    >>> [level.tolist() for level in depth_levels(torch.tensor([2, 0, -1, 2]))]
    [[2], [0, 3], [1]]
    """
    n = len(parent)
    if parent.dtype != torch.int64:
        raise TypeError(f"parent must be int64, got {parent.dtype}")
    if n and (int(parent.min()) < -1 or int(parent.max()) >= n):
        raise ValueError(
            f"parent must hold indices from 0 to {n - 1}, or -1 for a root, got values from "
            f"{int(parent.min())} to {int(parent.max())}"
        )
    # Every round doubles how far up an ancestor lies; node n stands above all roots.
    ancestor = torch.cat([torch.where(parent < 0, n, parent), parent.new_full((1,), n)])
    depth = (ancestor < n).long()
    for _ in range(n.bit_length()):
        depth += depth[ancestor]
        ancestor = ancestor[ancestor]
    if bool((ancestor < n).any()):
        raise ValueError("parent has a cycle: some node is its own ancestor")
    by_depth = depth[:n]
    order = by_depth.argsort(stable=True)
    return list(order.split(by_depth.bincount().tolist())) if n else []
