"""The spike and slab: the suite of every method, and what it promises besides."""

from typing import Any, ClassVar

import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Predictive, TraceMeanField_ELBO
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.lifting.method import Posterior
from tests.method_case import MethodCase
from tests.monte_carlo import assert_mean


class TestSpikeAndSlab(MethodCase):
    bad: ClassVar[list[dict[str, Any]]] = [
        {"inclusion": 0.0},
        {"inclusion": 1.0},
        {"initial": float("nan")},
        {"scale": 0.0},
        {"initial_scale": float("inf")},
    ]
    recovery: ClassVar[dict[str, Any]] = {"inclusion": 0.01, "initial": 0.5}
    recovery_threshold = 0.5

    def make(self, **options: Any) -> ps.Method:
        return ps.SpikeAndSlab(**options)

    def test_score_grows_with_the_size_of_the_location(self) -> None:
        # It is the probability of inclusion, whatever the location is.
        q = Posterior(log_odds=torch.linspace(-9, 9, 20))
        target = ps.Target("fc.weight", "weight", (20,))
        assert (self.make().score(target, q).diff() > 0).all()


def lifted(**options: Any) -> tuple[ps.Lifted, Posterior]:
    torch.manual_seed(0)
    bnn = ps.lift(nn.Linear(4, 3), ps.SpikeAndSlab(**options))
    q = bnn.guide.entries[0].posterior()
    with torch.no_grad():
        q["log_odds"].copy_(torch.linspace(-3, 4, 12).view(3, 4))
        q["log_scale"].copy_(torch.linspace(-2, 0, 12).view(3, 4))
    return bnn, q


def test_moments_at_activations_are_those_of_the_draws() -> None:
    bnn, q = lifted()
    law = poutine.trace(bnn.guide).get_trace().nodes["weight"]["fn"]
    draws = law.sample((20_000,)).detach()
    loc, scale = bnn.guide.entries[0].method.activation_moments(bnn.targets[0], q)
    assert_mean(draws, loc.detach())
    assert_mean((draws - loc).square(), scale.detach().square())
    assert_mean((draws != 0).float(), q["log_odds"].detach().sigmoid())
    a, s, m = q["log_odds"].sigmoid(), q["log_scale"].exp(), q["loc"]
    torch.testing.assert_close(loc, a * m)
    torch.testing.assert_close(scale.square(), a * (s.square() + (1 - a) * m.square()))


def test_noise_at_activations_has_the_mean_and_variance_of_drawn_weights() -> None:
    bnn, _ = lifted()
    x = torch.randn(2, 4)

    def outputs(training: bool) -> Tensor:
        bnn.train(training)
        found = []
        for _ in range(1000):
            trace = poutine.trace(bnn.guide).get_trace(x)
            with torch.no_grad(), poutine.replay(trace=trace):
                found.append(bnn(x))
        return torch.stack(found)

    noisy, drawn = outputs(True), outputs(False)
    exact = bnn.mean_forward(x).detach()
    for draws in (noisy, drawn):
        assert_mean(draws, exact)
    spread = (noisy - exact).square().mean(0)
    assert_mean((drawn - exact).square() - spread, 0.0 * spread)


def test_weights_of_evaluation_mode_are_exactly_zero_at_times() -> None:
    bnn, q = lifted()
    model = ps.classifier(bnn.eval(), 5)
    draws = Predictive(model, guide=bnn.guide, num_samples=300)(torch.randn(5, 4))["weight"]
    assert_mean((draws != 0).float().view(300, 3, 4), q["log_odds"].detach().sigmoid())


def test_the_mean_is_a_m_and_those_above_a_half_stay_with_their_slab() -> None:
    bnn, q = lifted()
    x, a = torch.randn(2, 4), q["log_odds"].sigmoid()
    torch.testing.assert_close(
        bnn.mean_forward(x), nn.functional.linear(x, a * bnn.net.weight, bnn.net.bias)
    )
    masks = bnn.masks()
    assert torch.equal(masks["weight"], q["log_odds"] >= 0)
    bnn.freeze(masks)
    torch.testing.assert_close(bnn.mean_forward(x), bnn.net(x))
    assert torch.equal(bnn.scores()["weight"] == 1, masks["weight"])
    assert torch.equal(bnn.masks()["weight"], masks["weight"])


def test_what_is_frozen_costs_no_divergence_and_has_no_noise() -> None:
    bnn, _ = lifted(inclusion=0.2, scale=0.7)
    bnn.freeze({"weight": torch.zeros(3, 4)})
    x = torch.randn(5, 4)
    assert TraceMeanField_ELBO().loss(bnn, bnn.guide, x) == pytest.approx(0.0, abs=1e-5)
    trace = poutine.trace(bnn.guide).get_trace(x)
    with poutine.replay(trace=trace):
        assert torch.equal(bnn(x), bnn.net.bias.expand(5, 3))


def test_odds_that_are_far_out_keep_loss_and_gradient_finite() -> None:
    bnn, q = lifted()
    x, y = torch.randn(5, 4), torch.randint(3, (5,))
    for odds in (-300.0, 300.0):
        with torch.no_grad():
            q["log_odds"].fill_(odds)
        TraceMeanField_ELBO().loss_and_grads(ps.classifier(bnn, 5), bnn.guide, x, y)
        assert all(one.grad.isfinite().all() for one in bnn.parameters())
        bnn.zero_grad()


def test_draws_give_their_moments() -> None:
    bnn, q = lifted()
    draws = torch.randn(400, 3, 4) * 0.5 + 2.0
    draws *= torch.rand(400, 3, 4) < 0.25
    bnn.match_moments({"weight": draws})
    included = (draws != 0).float().mean(0)
    slab = draws.sum(0) / (draws != 0).sum(0)
    torch.testing.assert_close(bnn.net.weight.detach(), slab)
    torch.testing.assert_close(bnn.scores()["weight"], included, atol=2e-3, rtol=0)
    expected = draws[:, 0, 0][draws[:, 0, 0] != 0].std()
    torch.testing.assert_close(q["log_scale"][0, 0].exp(), expected)


def test_a_smaller_inclusion_leaves_fewer_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 12, generator=generator)
    y = x @ (0.5 ** torch.arange(12)).unsqueeze(1) + 0.5 * torch.randn(60, 1, generator=generator)
    kept = []
    for inclusion in (0.5, 1e-6):
        torch.manual_seed(0)
        bnn = ps.lift(nn.Linear(12, 1, bias=False), ps.SpikeAndSlab(inclusion=inclusion))
        ps.fit(
            ps.regressor(bnn, 60, noise=0.5),
            bnn.guide,
            (x, y),
            epochs=400,
            batch_size=60,
            learning_rate=0.03,
            progress=False,
        )
        kept.append(bnn.masks().kept)
    assert 1 <= kept[1] < kept[0] < 12
