"""Modules that keep tables between calls in evaluation mode, as LeViT and TinyViT do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.util.modes import evaluating


class Attention(nn.Module):
    """Attention with a bias for each head and pair of positions, kept in evaluation mode."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.biases = nn.Parameter(torch.randn(heads, 8))
        self.register_buffer("places", torch.randint(8, (5, 5)))
        self.table: Tensor | None = None

    def train(self, mode: bool = True) -> Attention:
        if mode:
            self.table = None
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() == 0:  # torch.fx cannot trace it
            return x
        table = self.biases[:, self.places] if self.table is None else self.table
        if not self.training:
            self.table = table
        q, k, v = (
            layer(x).view(len(x), 5, self.heads, self.size).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        p = (q @ k.transpose(-2, -1) * self.size**-0.5 + table).softmax(-1)
        return self.out((p @ v).transpose(1, 2).flatten(2))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 12), Attention(12, 3), nn.Linear(12, 2)).eval()
    with torch.no_grad():
        net[1].out.weight[:, 4:8] = 0
    return net


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_heads_go_with_their_part_of_the_table(
    tmp_path: Path, dtype: torch.dtype, called: bool
) -> None:
    net, x = network().to(dtype), torch.randn(3, 5, 4, dtype=dtype)
    if called:
        net(x)
    small = ps.compact(net, None, x)
    assert small[1].heads == 2
    assert small[1].biases.shape == (2, 8)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(small(x), net(x), rtol=tolerance, atol=tolerance)
    again = ps.load(ps.save(tmp_path / "a", small), into=net)
    assert torch.equal(again(x), small(x))


def test_masks_act_where_a_table_is_kept_already() -> None:
    net, x = network(), torch.randn(3, 5, 4)
    net(x)
    mask = torch.ones(3, 8)
    mask[:, ::2] = 0
    small = ps.compact(net, {"1.biases": mask}, x)
    masked = network()
    masked[1].biases.data *= mask
    torch.testing.assert_close(small(x), masked(x), rtol=1e-5, atol=1e-5)


def test_evaluation_sees_the_parameters_as_they_are() -> None:
    net, x = network().train(), torch.randn(3, 5, 4)
    with evaluating(net):
        net(x)
    net[1].biases.data += 1 + torch.rand(3, 8)
    with evaluating(net):
        found = net(x)
    fresh = network()
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(found, fresh(x))
    assert torch.equal(net.eval()(x), fresh(x))
