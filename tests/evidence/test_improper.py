"""What has no meaning under an improper prior is refused, by the method's name."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.diagnostics import simulation_calibration
from pyrosparse.distributions import Penalty, Point
from pyrosparse.evidence import elbo, elbo_difference, log_bayes_factor, log_posterior

X, Y = torch.randn(20, 3), torch.zeros(20, 1)


class PenalisedPoint(ps.Method):
    """A ridge as a penalty, as a user would write it."""

    proper = False

    def init(self, target: ps.Target) -> dict[str, Tensor]:
        assert target.value is not None
        return {"loc": target.value}

    def prior(self, target: ps.Target, q: Any, x: Tensor | None) -> Tensor:
        return pyro.sample(target.site, Penalty(lambda w: -w.square(), q["loc"]))

    def guide(self, target: ps.Target, q: Any, x: Tensor | None) -> Tensor:
        return pyro.sample(target.site, Point(q["loc"]))

    def score(self, target: ps.Target, q: Any) -> Tensor:
        return q["loc"].abs()

    def mean(self, target: ps.Target, q: Any, x: Tensor | None) -> Tensor:
        return q["loc"]


METHODS = [ps.VariationalDropout(), PenalisedPoint()]


def program(method: ps.Method) -> tuple[Any, ps.Lifted]:
    bnn = ps.lift(nn.Linear(3, 1), method)
    return ps.regressor(bnn, 20, noise=1.0), bnn


def own_model(x: Tensor, y: Tensor | None = None) -> Tensor:
    weight = pyro.sample("weight", Penalty(lambda w: -w.square(), torch.zeros(3)))
    with pyro.plate("data", len(x)):
        found: Tensor = pyro.sample("y", dist.Normal(x @ weight, 1.0), obs=y)
    return found


def own_guide(x: Tensor, y: Tensor | None = None) -> None:
    pyro.sample("weight", dist.Normal(torch.ones(3), 0.1).to_event(1))


@pytest.mark.parametrize("method", METHODS, ids=lambda one: type(one).__name__)
def test_bayes_factors_and_differences_of_elbos_are_refused_by_name(method: ps.Method) -> None:
    found, estimates = [], []
    for one in (ps.Gaussian(), method):
        model, bnn = program(one)
        found.append(log_posterior(model, bnn.guide, (X, Y)))
        estimates.append(elbo(model, bnn.guide, (X, Y), draws=2))
    wanted = rf"improper prior of {type(method).__name__}: .*ps\.compare_models"
    for pair in (found, found[::-1]):
        with pytest.raises(ValueError, match="a Bayes factor .*" + wanted):
            log_bayes_factor(*pair)
    for pair in (estimates, estimates[::-1]):
        with pytest.raises(ValueError, match="a difference of ELBOs .*" + wanted):
            elbo_difference(*pair)
    log_bayes_factor(found[0], found[0])
    elbo_difference(estimates[0], estimates[0])


@pytest.mark.parametrize("method", METHODS, ids=lambda one: type(one).__name__)
def test_simulation_from_the_prior_is_refused_by_name(method: ps.Method) -> None:
    model, bnn = program(method)
    with pytest.raises(ValueError, match=f"simulation from the prior .*{type(method).__name__}"):
        simulation_calibration(model, lambda x, y: bnn.guide, X, simulations=40)


def test_a_program_of_ones_own_is_refused_by_its_site() -> None:
    with pytest.raises(ValueError, match="improper prior of Penalty on 'weight'"):
        simulation_calibration(own_model, lambda x, y: own_guide, X, simulations=40)
    one = log_posterior(own_model, own_guide, (X, Y[:, 0]))
    with pytest.raises(ValueError, match="improper prior of Penalty on 'weight'"):
        log_bayes_factor(one, one)


def test_empirical_bayes_is_compared() -> None:
    model, bnn = program(ps.VariationalDropout(empirical_bayes=True))
    one = log_posterior(model, bnn.guide, (X, Y))
    assert one.improper == () and log_bayes_factor(one, one).total == 0
    simulation_calibration(model, lambda x, y: bnn.guide, X, simulations=40)


def test_pruning_by_bayes_factors_is_refused_before_the_first_step() -> None:
    model, bnn = program(ps.VariationalDropout())
    before = bnn.net.weight.detach().clone()
    with pytest.raises(ValueError, match=r"Bayes factor of pruning .*VariationalDropout"):
        ps.fit(
            model,
            bnn.guide,
            (X, Y),
            epochs=1,
            callbacks=[ps.prune.Pruner("magnitude", 0.5)],
            progress=False,
        )
    assert torch.equal(bnn.net.weight, before)


def test_weights_at_zero_are_evaluated_without_a_warning() -> None:
    model, bnn = program(ps.VariationalDropout())
    bnn.freeze({"weight": torch.tensor([[True, False, True]])})
    assert log_posterior(model, bnn.guide, (X, Y)).likelihood < 0
    run = ps.fit(model, bnn.guide, (X, Y), epochs=2, validation=(X, Y), progress=False)
    assert run.history[-1]["validation_nll"] > 0


def test_held_out_data_compare_improper_priors() -> None:
    models = {type(one).__name__: program(one)[::-1] for one in (ps.Gaussian(), *METHODS)}
    assert len(ps.compare_models(models, (X, Y), draws=5).rows) == 3
