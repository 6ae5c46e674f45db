"""An ensemble predicts the mixture of what its members predict."""

import math

import pytest
import torch
from torch import nn

import pyrosparse as ps
from pyrosparse.diagnostics import predictive_quality
from pyrosparse.prediction import ClassPrediction, Ensemble, RealPrediction
from tests.linear_gaussian import LinearGaussian


def nets(count: int, outputs: int) -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Linear(3, outputs).double() for _ in range(count)]


X = torch.randn(7, 3, dtype=torch.float64)


def test_classifiers_are_averaged_in_probability() -> None:
    members = nets(3, 4)
    together = Ensemble(members)
    mean = torch.stack([net(X).softmax(1) for net in members]).mean(0).detach()
    found = ps.predict(together, X, batch_size=4)
    assert isinstance(found, ClassPrediction)
    assert torch.allclose(found.probabilities, mean)
    assert torch.allclose(together(X).softmax(1), mean)
    # The mutual information of class and member, by its definition.
    apart = [net(X).log_softmax(1) for net in members]
    information = sum((one.exp() * (one - mean.log())).sum(1) for one in apart) / 3
    assert torch.allclose(found.epistemic, information)
    y = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    judged = predictive_quality({"ensemble": together}, (X, y))["ensemble"]
    assert math.isclose(judged.calibration.nll, -float(mean[range(7), y].log().mean()))
    report = ps.report(together, together, X[:1], batch_sizes=(), data=(X, y))
    assert report.quality is not None
    assert math.isclose(report.quality[0].nll, judged.calibration.nll, rel_tol=1e-6)


def test_models_of_values_are_mixed() -> None:
    members = nets(3, 1)
    noises = (0.1, 0.5, 1.0)
    models = [ps.regressor(net, 7, noise=s) for net, s in zip(members, noises, strict=True)]
    found = ps.predict(Ensemble(models), X, batch_size=4)
    assert isinstance(found, RealPrediction)
    means = torch.stack([net(X) for net in members])
    assert torch.allclose(found.mean, means.mean(0))
    square = torch.tensor(noises).double().square().mean()
    assert torch.allclose(found.variance, square + means.var(0, correction=0))
    y = torch.zeros(7, 1).double()
    laws = [torch.distributions.Normal(m, s) for m, s in zip(means, noises, strict=True)]
    assert torch.allclose(found.cdf(y), torch.stack([law.cdf(y) for law in laws]).mean(0))
    with pytest.raises(ValueError, match="are not logits"):
        Ensemble(models)(X)


def test_members_with_posteriors_share_the_draws() -> None:
    lifted = [ps.lift(net, ps.Gaussian(posterior="normal")) for net in nets(3, 2)]
    assert len(ps.predict(Ensemble(lifted), X, draws=12).log_probabilities) == 12


def test_training_finds_the_maximum_a_posteriori_from_every_start() -> None:
    problem = LinearGaussian()
    found = ps.ensemble(
        lambda: problem.net(),
        problem.data,
        members=2,
        model=lambda net, n: ps.regressor(net, n, noise=problem.noise),
        scale=problem.prior,
        epochs=150,
        learning_rate=0.03,
        batch_size=problem.n,
        progress=False,
    )
    state = torch.get_rng_state()
    weights = [member.network.weight[0] for member in found.members]
    assert not torch.equal(weights[0], weights[1])
    for weight in weights:
        assert (weight - problem.posterior_mean()).abs().max() < 0.02
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_no_ensemble_is_refused() -> None:
    data = (torch.randn(4, 3), torch.randn(4, 1))
    with pytest.raises(ValueError, match="known"):
        ps.ensemble(lambda: nn.Linear(3, 1), data, model=ps.regressor, epochs=1)
    with pytest.raises(ValueError, match="members must be 1 or more"):
        ps.ensemble(lambda: nn.Linear(3, 1), data, members=0, epochs=1)
    with pytest.raises(ValueError, match="at least one member"):
        Ensemble([])
    with pytest.raises(ValueError, match="takes none"):
        ps.predict(Ensemble(nets(2, 2)), X, guide=lambda *_: None)
    mixture = Ensemble([nets(1, 2)[0], nets(1, 3)[0]])
    with pytest.raises(ValueError, match="mixed"):
        ps.predict(mixture, X)
