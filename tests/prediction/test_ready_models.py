"""Every ready model of values, classes and grades through ``predict`` and ``conformal``."""

import math

import pytest
import torch
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.prediction import ClassPrediction, RealPrediction

X = torch.linspace(-2, 2, 120).double()[:, None]


def line(outputs: int = 1) -> ps.Lifted:
    torch.manual_seed(0)
    net = nn.Linear(1, outputs).double()
    return ps.lift(net, ps.Gaussian(posterior="normal", initial_scale=0.05))


def targets(law: torch.distributions.Distribution) -> Tensor:
    torch.manual_seed(3)
    return law.sample()


def covered(model: nn.Module, y: Tensor, coverage: float) -> float:
    """The coverage on one half of the data of what was calibrated on the other."""
    held_out, new = slice(0, None, 2), slice(1, None, 2)
    found = ps.predict(model, X, draws=20)
    half = ps.predict(model, X[held_out], draws=20)
    calibrated = ps.conformal(half, y[held_out], coverage=coverage)
    other = ps.predict(model, X[new], draws=20)
    # The same draws for the same data, whatever is predicted beside them.
    assert torch.allclose(found.mean[held_out], half.mean)
    return float(calibrated.covers(other, y[new]).double().mean())


def allowed(coverage: float, n: int) -> float:
    """Four standard errors of a coverage on n data by a threshold from n data."""
    return 4 * math.sqrt(2 * coverage * (1 - coverage) / n) + 1 / n


def test_learned_noise_is_part_of_the_prediction() -> None:
    bnn = line()
    model = ps.regressor(bnn, 120)
    with torch.no_grad():
        model.noise.loc.fill_(math.log(0.5))
        model.noise.log_scale.fill_(math.log(0.2))
    found = ps.predict(model, X, draws=400)
    assert isinstance(found, RealPrediction)
    # E[sigma^2] of LogNormal(log 0.5, 0.2), within 4 standard errors.
    square = 0.25 * math.exp(2 * 0.2**2)
    error = square * math.sqrt((math.exp(4 * 0.2**2) - 1) / 400)
    assert (found.aleatoric - square).abs().max() < 4 * error
    assert found.variances.std(0).min() > 0  # each draw has its own noise
    y = targets(torch.distributions.Normal(bnn.net(X).detach(), 0.5))
    assert abs(covered(model, y, 0.8) - 0.8) < allowed(0.8, 60)


def test_noise_of_each_datum_is_part_of_the_prediction() -> None:
    bnn = line(2)
    model = ps.heteroscedastic_regressor(bnn, 120)
    found = ps.predict(model, X, draws=200)
    assert isinstance(found, RealPrediction)
    with torch.no_grad():
        mean, log_sd = bnn.net(X).split(1, 1)
    assert found.mean.shape == (120, 1)
    # E[exp(2 a)] of a normal a, whose standard deviation is 0.05 |x|.
    spread = 0.05 * X.abs()
    square = (2 * log_sd + 2 * spread**2).exp()
    error = square * ((4 * spread**2).exp() - 1).sqrt() / math.sqrt(200)
    assert ((found.aleatoric - square).abs() <= 4 * error + 1e-12).all()
    y = targets(torch.distributions.Normal(mean, log_sd.exp()))
    assert abs(covered(model, y, 0.8) - 0.8) < allowed(0.8, 60)


def test_counts_have_the_variance_of_a_mixture_of_poissons() -> None:
    bnn = line()
    model = ps.counts(bnn, 120)
    found = ps.predict(model, X, draws=50)
    assert isinstance(found, RealPrediction)
    assert torch.allclose(found.aleatoric, found.mean)  # of Poissons
    assert torch.allclose(found.variance, found.mean + found.epistemic)
    y = targets(torch.distributions.Poisson(bnn.net(X).detach().exp()))
    # Counts are discrete: sets by ties cover at least what is asked for.
    assert covered(model, y, 0.8) > 0.8 - allowed(0.8, 60)
    with pytest.raises(ValueError, match="no cumulative distribution function"):
        found.quantiles()


def test_grades_are_classes_with_cutpoints_of_each_draw() -> None:
    bnn = line()
    model = ps.ordinal(bnn, 120, classes=4)
    found = ps.predict(model, X, draws=50)
    assert isinstance(found, ClassPrediction)
    assert found.probabilities.shape == (120, 4)
    assert torch.allclose(found.probabilities.sum(1), torch.ones(120).double())
    y = targets(torch.distributions.Categorical(found.probabilities))
    assert covered(model, y, 0.8) > 0.8 - allowed(0.8, 60)


def test_labels_are_probabilities_of_each() -> None:
    model = ps.multilabel(line(3), 120)
    found = ps.predict(model, X, draws=20)
    assert isinstance(found, RealPrediction)
    assert found.mean.shape == (120, 3)
    assert torch.allclose(found.variance, found.mean * (1 - found.mean))  # of zeros and ones
