"""SGLD and SWAG against a linear-Gaussian model whose posterior is exact."""

import math
from typing import Any

import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import pyrosparse as ps
from pyrosparse.infer import SGLD, SWAG, KeepDraws
from tests.linear_gaussian import LinearGaussian


def point(problem: LinearGaussian) -> ps.Lifted:
    return ps.lift(problem.net(), ps.Gaussian(scale=problem.prior))


def train(problem: LinearGaussian, callback: Any, epochs: int, **options: Any) -> ps.Lifted:
    bnn = point(problem)
    options = {"batch_size": problem.n, "progress": False, "capture": False} | options
    ps.fit(
        problem.model(bnn), bnn.guide, problem.data, epochs=epochs, callbacks=[callback], **options
    )
    return bnn


def test_sgld_has_the_stationary_law_of_its_step() -> None:
    problem = LinearGaussian()
    chains, steps, burn_in = 100, 120, 60
    # Rows of one weight that see the same targets are independent chains.
    net = nn.Linear(problem.d, chains, bias=False).double()
    bnn = ps.lift(net, ps.Gaussian(scale=problem.prior))
    precision = problem.precision().diagonal()  # orthogonal columns: independent coordinates
    step = 1.0 / float(precision.max())
    kept = KeepDraws(burn_in=burn_in)
    data = (problem.x, problem.y.expand(-1, chains).contiguous())
    model = ps.regressor(bnn, problem.n, noise=problem.noise)
    ps.fit(
        model, bnn.guide, data, epochs=steps + burn_in, batch_size=problem.n, optimizer=SGLD,
        learning_rate=step, callbacks=[kept], progress=False,
    )  # fmt: skip
    draws = kept.draws["weight"]
    assert draws.shape == (steps, chains, problem.d)
    # Of the chain w' - m = (1 - step a / 2) (w - m) + sqrt(step) z, in closed form.
    correlation = 1 - step * precision / 2
    variance = 1 / (precision * (1 - step * precision / 4))
    count = steps * chains
    error = (variance * (1 + correlation) / (1 - correlation) / count).sqrt()
    assert ((draws.mean((0, 1)) - problem.posterior_mean()).abs() < 4 * error).all()
    square = correlation.square()
    relative = (2 * (1 + square) / (1 - square) / count).sqrt()
    assert ((draws.flatten(0, 1).var(0) / variance - 1).abs() < 4 * relative).all()
    found = ps.predict(model, problem.x, guide=kept.guide, draws=50)
    assert found.mean.shape == (problem.n, chains)


def test_swag_has_the_moments_of_what_it_went_through() -> None:
    problem = LinearGaussian(orthogonal=False)
    law = MultivariateNormal(problem.posterior_mean(), problem.precision().inverse())
    exact, steps, count = law.covariance_matrix, 400, 1000
    swag = SWAG(burn_in=0, rank=steps)
    torch.manual_seed(0)
    iterates = law.sample((steps,))
    for one in iterates:
        swag._keep({"weight": one[None]})
    assert torch.allclose(swag.mean["weight"][0], iterates.mean(0))
    variance = exact.diagonal()
    draws = torch.stack([drawn(swag) for _ in range(count)])
    error = (variance * (1 / steps + 1 / count)).sqrt()
    assert ((draws.mean(0) - law.loc).abs() < 4 * error).all()
    # Half of the variance is from the diagonal, half from the deviations, which alone covary. The
    # deviations are from running means, the first of which know little: log(T) / T of a variance.
    expected = (exact + exact.diagonal().diag()) / 2
    spread = (variance[:, None] * variance[None]).sqrt()
    allowed = 4 * math.sqrt(2 * (1 / steps + 1 / count)) + math.log(steps) / steps
    assert ((draws.T.cov() - expected).abs() / spread).max() < allowed


def drawn(guide: Any) -> Tensor:
    value = poutine.trace(guide).get_trace().nodes["weight"]["value"]
    assert isinstance(value, Tensor)
    return value[0]


def test_swag_keeps_the_last_iterates_at_its_rank() -> None:
    swag = SWAG(burn_in=0, rank=2)
    for number in (1.0, 2.0, 6.0):
        swag._keep({"weight": torch.tensor([[number]])})
    assert float(swag.mean["weight"]) == 3.0
    # The deviations of 2 from 1.5 and of 6 from 3.
    assert [float(one["weight"]) for one in swag._deviations] == [0.5, 3.0]
    trace = poutine.trace(swag).get_trace()
    z = trace.nodes["swag"]["value"]
    law = trace.nodes["weight"]["fn"].base_dist
    assert torch.allclose(law.loc, 3.0 + (0.5 * z[0] + 3.0 * z[1]) / math.sqrt(2.0))
    assert math.isclose(float(law.scale), math.sqrt((4 + 1 + 9) / 3 / 2), rel_tol=1e-6)


def test_iterates_are_of_the_steps_that_were_asked_for() -> None:
    problem, kept = LinearGaussian(), KeepDraws(burn_in=3, every=2)
    train(problem, kept, 9, learning_rate=1e-2)
    assert len(kept.draws["weight"]) == 3  # steps 5, 7 and 9


@pytest.mark.parametrize("make", [lambda: SWAG(burn_in=0, rank=2), lambda: KeepDraws(burn_in=0)])
def test_what_is_no_set_of_weights_is_refused(make, tmp_path) -> None:
    x, y = torch.randn(8, 3), torch.randn(8, 2)
    options: dict[str, Any] = {"epochs": 2, "progress": False}

    def fit(net: nn.Module, method: Any, *targets: Any, **more: Any) -> None:
        bnn = ps.lift(net, method, *targets)
        model = ps.regressor(bnn, 8, noise=more.pop("noise", 1.0))
        guide = getattr(model, "guide", bnn.guide)
        ps.fit(model, guide, (x, y), callbacks=[make()], **options, **more)

    net = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="bias"):
        fit(net, ps.Gaussian())
    with pytest.raises(ValueError, match="log_scale"):
        fit(net, ps.Gaussian(posterior="normal"), ps.weights(net, "*"))
    with pytest.raises(ValueError, match="noise"):
        fit(net, ps.Gaussian(), ps.weights(net, "*"), noise=dist.LogNormal(0.0, 1.0))
    normalised = nn.Sequential(net, nn.BatchNorm1d(2))
    with pytest.raises(ValueError, match="running statistics"):
        fit(normalised, ps.Gaussian(), ps.weights(normalised, "*"))
    with pytest.raises(ValueError, match="checkpoints"):
        fit(net, ps.Gaussian(), ps.weights(net, "*"), checkpoint=tmp_path / "checkpoint")


def test_options_out_of_range_and_guides_without_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="every"):
        KeepDraws(burn_in=0, every=0)
    with pytest.raises(ValueError, match="rank"):
        SWAG(burn_in=0, rank=1)
    with pytest.raises(ValueError, match="positive"):
        SGLD([torch.zeros(1, requires_grad=True)], lr=0.0)
    with pytest.raises(ValueError, match="no draws"):
        _ = KeepDraws(burn_in=0).guide
    with pytest.raises(ValueError, match="0 iterates"):
        SWAG(burn_in=0)()
