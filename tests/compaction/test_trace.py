"""Tracing: buffers, and modules that cannot be traced."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pyrosparse as ps
from pyrosparse.compaction.ties import unit_ties
from pyrosparse.compaction.trace import TraceError
from tests.compaction.attention_nets import (
    Block,
    Heads,
    compacted,
    draw,
    rows,
)
from tests.compaction.cases import randomise, run_masked, same


def test_a_mask_that_is_a_buffer_is_cut_to_the_length_inside_a_block() -> None:
    """Tracing needs a second try for that, and parameters of the first must not be left over."""

    class Tempered(Heads):
        def __init__(self) -> None:
            super().__init__()
            self.temperature = nn.Parameter(torch.linspace(0.5, 1, 12))

        def forward(self, x: Tensor) -> Tensor:
            q = self.divide(self.q(x) * self.temperature)
            k, v = self.divide(self.k(x)), self.divide(self.v(x))
            y = F.scaled_dot_product_attention(q, k, v, self.seen[: x.size(1), : x.size(1)])
            return self.out(y.transpose(1, 2).flatten(2))

    for attention in (Tempered(), Heads(product="masked"), Heads(product="filled")):
        net = randomise(Block(attention)).eval()
        masks = {"attention.out.weight": rows(12, 3, 4, 5).T}
        small = compacted(net, masks, draw(2, 5, 5))
        assert small.attention.q.out_features == 9 and not small.account.barriers


class Suspicious(nn.Module):
    """It asks whether its input is a tensor, which is not true while torch.fx traces it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        return self.last(hidden.relu() if torch.is_tensor(hidden) else hidden)


def test_a_graph_that_computes_something_else_is_not_used() -> None:
    net, x = Suspicious().eval(), torch.randn(5, 4)
    net.first.weight.data[::2], net.first.bias.data[::2] = 0, 0
    small = ps.compact(net, None, x)
    assert type(small) is Suspicious and small.first.out_features == 4
    torch.testing.assert_close(small(x), net(x))
    with pytest.raises(TraceError, match=r"another program of Suspicious.*isinstance"):
        unit_ties(net, (x,))
    bnn = ps.lift(net, ps.Gaussian())
    model, data = ps.classifier(bnn, 5), (x, torch.arange(5) % 3)
    with pytest.raises(TraceError, match="another program"):
        ps.fit(model, bnn.guide, data, epochs=1, compact_every=1, progress=False)


class Branching(nn.Module):
    """Control flow on a buffer, as a flag, and on the data."""

    def __init__(self, on_data: bool) -> None:
        super().__init__()
        self.layer, self.on_data = nn.Linear(6, 6), on_data
        self.register_buffer("flag", torch.tensor(True))
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x) * self.gain
        condition = x.sum() > 0 if self.on_data else self.flag
        return x.relu() if condition else x


def test_a_flag_that_is_a_buffer_is_still_a_number_and_control_flow_stays_one_operation() -> None:
    net = randomise(nn.Sequential(Branching(False), Branching(False), nn.Linear(6, 2))).eval()
    masks = {"1.layer.weight": rows(6, 1, 2, columns=6).T}
    small = ps.compact(net, masks, draw(3, 6))
    assert small.get_submodule("0.layer").out_features == 4
    net = randomise(nn.Sequential(Branching(True), nn.Linear(6, 6), nn.Linear(6, 2))).eval()
    net.insert(1, net[0])
    small = ps.compact(net, {"2.weight": rows(6, 1, 2, columns=6)}, draw(3, 6))
    assert small.account.barriers
    assert same(
        small(draw(5, 6)), run_masked(net, {"2.weight": rows(6, 1, 2, columns=6)}, draw(5, 6))
    )
