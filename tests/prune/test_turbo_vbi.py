"""Turbo-VBI step by step: planted supports, convergence, captured steps."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.captured import CapturedSVI
from pyrosparse.prune import MessageExchange, TurboVBI
from pyrosparse.supports import Chain, UnitFactor
from tests.prune.turbo_case import N, data, lifted, mlp


def planted(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    w = torch.zeros(30)
    signs = torch.randn(6, generator=generator).sign()
    w[torch.randperm(30, generator=generator)[:6]] = signs * (
        0.5 + torch.rand(6, generator=generator)
    )
    x = torch.randn(100, 30, generator=generator)
    return x, x @ w[:, None] + 0.5 * torch.randn(100, 1, generator=generator), w != 0


@pytest.mark.parametrize(
    ("posterior", "likelihood"),
    [
        ("structured", "point"),
        pytest.param("structured", "curvature", marks=pytest.mark.slow),
        pytest.param("structured", "activations", marks=pytest.mark.slow),
        ("mean-field", "point"),
    ],
)
def test_planted_supports_are_recovered(posterior, likelihood):
    """Ten regressions of 30 weights, 6 of them active, without coupling: sheet, 3.4."""
    right, active = 0, []
    for seed in range(10):
        x, y, support = planted(seed)
        net = nn.Linear(30, 1, bias=False)
        nn.init.zeros_(net.weight)
        bnn = lifted(
            net,
            support=Chain((0.5, 0.5)),
            slab_rate=1.0,
            spike_rate=0.01,
            posterior=posterior,
            likelihood=likelihood,
            initial_scale=1.0,
        )
        optimizer = torch.optim.Adam(bnn.parameters(), lr=0.03)
        turbo = TurboVBI(ps.regressor(bnn, 100, noise=0.5), bnn, optimizer)
        for _ in range(12):
            for _ in range(25):
                turbo.step(x, y)
            turbo.exchange((x, y) if likelihood == "curvature" else None)
        (mask,) = bnn.masks().values()
        right += int((mask.flatten() == support).sum())
        active.append(int(mask.sum()))
    if posterior == "structured":
        assert right >= 290
    else:  # bistable: it stays active, whatever the data say
        assert active == [30] * 10


def test_exchanges_before_a_step_and_without_data_are_refused():
    bnn = lifted()
    model, optimizer = ps.classifier(bnn, N), torch.optim.Adam(bnn.parameters())
    turbo = TurboVBI(model, bnn, optimizer, units=UnitFactor())
    with pytest.raises(RuntimeError, match="step"):
        turbo.exchange()
    turbo.step(*data())
    assert "units" in turbo.exchange()
    bnn = lifted(likelihood="curvature")
    turbo = TurboVBI(ps.classifier(bnn, N), bnn, torch.optim.Adam(bnn.parameters()))
    with pytest.raises(ValueError, match=r"exchange\(data\)"):
        turbo.exchange()
    with pytest.raises(TypeError, match="GammaSpikeAndSlab"):
        bnn = ps.lift(mlp(), ps.Gaussian())
        TurboVBI(ps.classifier(bnn, N), bnn, torch.optim.Adam(bnn.parameters()))


def test_convergence_is_of_the_support_prior():
    bnn = lifted()
    turbo = TurboVBI(ps.classifier(bnn, N), bnn, torch.optim.Adam(bnn.parameters(), lr=1e-3))
    assert not turbo.converged(1e9)
    losses = [turbo.step(*data()) for _ in range(3)]
    before = {e.target.key: e.method.prior_log_odds(e.posterior()) for e in bnn.guide.entries}
    record = turbo.exchange()
    after = {e.target.key: e.method.prior_log_odds(e.posterior()) for e in bnn.guide.entries}
    p, old = (torch.cat([x.flatten().sigmoid() for x in d.values()]) for d in (after, before))
    assert record["change"] == pytest.approx(float((p - old).norm() / p.norm()), rel=1e-4)
    assert record["steps"] == 3 and record["loss"] == pytest.approx(sum(losses) / 3)
    assert turbo.converged(record["change"] * 1.01)
    assert not turbo.converged(record["change"] * 0.99)
    assert turbo.exchange()["steps"] == 0
    assert len(turbo.history) == 2


@pytest.mark.parametrize("likelihood", ["point", "activations"])
def test_captured_steps_see_what_was_exchanged(likelihood):
    x, y = data()
    x = x.double()

    def run(captured: bool) -> tuple[list[float], ps.Lifted]:
        bnn = lifted(likelihood=likelihood).double()
        model, exchange = ps.classifier(bnn, N), MessageExchange(bnn)
        optimizer = torch.optim.Adam(bnn.parameters(), lr=1e-3, fused=True)
        elbo = TraceMeanField_ELBO()
        svi = CapturedSVI(model, bnn.guide, optimizer, elbo)
        losses = []
        torch.manual_seed(3)
        for step in range(12):
            if step % 4 == 3:
                exchange(active=0.5)
            if captured:
                losses.append(float(svi.step(x, y)))
            else:
                losses.append(float(elbo.loss_and_grads(model, bnn.guide, x, y)))
                optimizer.step()
                optimizer.zero_grad()
        assert not captured or svi.fallback is None
        return losses, bnn

    (losses, bnn), (expected, other) = run(True), run(False)
    assert losses == pytest.approx(expected, rel=1e-9)
    jumps = [abs(b - a) for a, b in pairwise(losses)]
    assert jumps[2] > 3 * jumps[0]  # precisions did change
    for (key, value), truth in zip(
        bnn.state_dict().items(), other.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(value, truth, rtol=1e-7, atol=1e-7, msg=key)
