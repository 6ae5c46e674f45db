"""Simulation-based calibration: the exact posterior passes, broken guides do not."""

import pytest
import torch

import pyrosparse as ps
from pyrosparse.diagnostics import SimulationCalibration, simulation_calibration
from tests.linear_gaussian import LinearGaussian, set_posterior

TRUTH = LinearGaussian()


def infer(x, y, *, width=1.0, shift=0.0):
    """The exact posterior of a linear-Gaussian model, made wrong on demand."""
    bnn = TRUTH.lifted()
    precision = TRUTH.precision()
    loc = torch.linalg.solve(precision, x.T @ y[:, 0] / TRUTH.noise**2)
    scale = precision.diagonal().rsqrt()
    set_posterior(bnn, loc + shift * scale, width * scale)
    return bnn.guide


MODEL = TRUTH.model(TRUTH.lifted())


def calibrate(simulations=200, **wrong):
    return simulation_calibration(
        MODEL, lambda x, y: infer(x, y, **wrong), TRUTH.x, simulations=simulations, draws=31
    )


def test_the_exact_posterior_passes():
    result = calibrate()
    assert result.ranks["weight"].shape == (200, 3)
    assert result.ranks["weight"].min() >= 0 and result.ranks["weight"].max() <= 31
    # Uniform on 0 to 31: mean 15.5, variance (32^2 - 1) / 12.
    mean = float(result.ranks["weight"].double().mean())
    assert mean == pytest.approx(15.5, abs=4 * ((32**2 - 1) / 12 / 600) ** 0.5)
    assert result.p_value > 0.001


@pytest.mark.parametrize("wrong", [{"width": 0.5}, {"width": 2.0}, {"shift": 0.6}])
def test_a_guide_that_is_too_narrow_too_wide_or_shifted_fails(wrong):
    result = calibrate(**wrong)
    assert result.p_value < 1e-6
    extreme = ((result.ranks["weight"] < 4) | (result.ranks["weight"] > 27)).double().mean()
    if "width" in wrong:
        assert (float(extreme) > 0.3) == (wrong["width"] < 1)


def test_chi_square_by_hand():
    # 8 simulations, 4 bins of expected size 2, counts 4, 2, 2, 0: the statistic is 4, and the
    # upper tail of chi-square with 3 degrees of freedom beyond 4 is 0.2615 (tables).
    ranks = torch.tensor([0, 0, 1, 1, 2, 3, 4, 5])[:, None]
    result = SimulationCalibration({"w": ranks}, draws=7, bins=4)
    assert float(result.p_values()["w"][0]) == pytest.approx(0.26146, abs=1e-5)
    assert result.p_value == float(result.p_values()["w"][0])
    both = SimulationCalibration({"w": ranks.expand(8, 2)}, draws=7, bins=4)
    assert both.p_value == pytest.approx(0.52293, abs=1e-5)


def test_seeds_repeat_and_the_caller_is_not_disturbed():
    state = torch.get_rng_state()
    first, again = (calibrate(simulations=40).ranks["weight"] for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(state, torch.get_rng_state())


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="8 bins do not divide the 101 ranks"):
        simulation_calibration(MODEL, infer, TRUTH.x, draws=100)
    with pytest.raises(ValueError, match="40 simulations or more"):
        simulation_calibration(MODEL, infer, TRUTH.x, simulations=20)

    def another(x, y):
        return ps.lift(torch.nn.Linear(3, 1), ps.Gaussian(), on=None, name="other").guide

    with pytest.raises(ValueError, match=r"the sites other.weight; the model has weight"):
        simulation_calibration(MODEL, another, TRUTH.x)
    with pytest.raises(ValueError, match="must return the data"):
        simulation_calibration(lambda x: MODEL(x).mean(), infer, TRUTH.x)
