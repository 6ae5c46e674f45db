"""Predictions against closed forms and enumeration."""

import itertools
import math
from typing import Any

import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import pyrosparse as ps
from pyrosparse.diagnostics import log_probabilities
from pyrosparse.diagnostics.draws import draw_seed
from pyrosparse.prediction import ClassPrediction, RealPrediction


def linear() -> tuple[ps.Lifted, Tensor]:
    torch.manual_seed(0)
    net = nn.Linear(3, 1).double()
    bnn = ps.lift(net, ps.Gaussian(posterior="normal", initial_scale=0.5))
    return bnn, torch.randn(4, 3, dtype=torch.float64)


def test_a_linear_network_has_the_normal_predictive_distribution() -> None:
    bnn, x = linear()
    count, noise = 1500, 0.3
    found = ps.predict(ps.regressor(bnn, 4, noise=noise), x, draws=count, batch_size=3)
    assert isinstance(found, RealPrediction)
    assert len(found) == 4
    with torch.no_grad():
        mean = bnn.net(x)
    spread = 0.25 * x.square().sum(1, keepdim=True)
    error = (spread / count).sqrt()
    assert ((found.mean - mean).abs() < 4 * error).all()
    assert ((found.epistemic / spread - 1).abs() < 4 * math.sqrt(2 / count)).all()
    assert torch.allclose(found.aleatoric, torch.full_like(mean, noise**2))
    assert torch.equal(found.total, found.variance)
    levels = [0.1, 0.5, 0.9]
    exact = dist.Normal(mean, (spread + noise**2).sqrt())
    quantiles = found.quantiles(levels)
    assert quantiles.shape == (3, 4, 1)
    assert torch.allclose(found.cdf(quantiles), torch.tensor(levels).double().view(3, 1, 1))
    for level, quantile in zip(levels, quantiles, strict=True):
        # The standard error of a distribution function is at most that of a sample's.
        allowed = 4 * math.sqrt(level * (1 - level) / count)
        assert ((exact.cdf(quantile) - level).abs() < allowed).all()


def test_class_uncertainty_equals_enumeration_of_all_gates() -> None:
    torch.manual_seed(1)
    net = nn.Linear(3, 3).double()
    bnn = ps.lift(net, ps.GroupSpikeAndSlab(initial=0.6), ps.inputs(net))
    x = 2 * torch.randn(5, 3, dtype=torch.float64)
    total = torch.zeros(5, 3).double()
    aleatoric = torch.zeros(5).double()
    square = torch.zeros(5, 3).double()
    with torch.no_grad():
        for gates in itertools.product([0.0, 1.0], repeat=3):
            gate = torch.tensor(gates).double()
            weight = float((0.6 * gate + 0.4 * (1 - gate)).prod())
            p = net(x * gate).softmax(1)
            total += weight * p
            square += weight * p.square()
            aleatoric -= weight * (p * p.log()).sum(1)
    entropy = -(total * total.log()).sum(1)
    count = 1500
    found = ps.predict(bnn, x, draws=count)
    assert isinstance(found, ClassPrediction)
    error = ((square - total.square()) / count).sqrt()
    assert ((found.probabilities - total).abs() < 4 * error).all()
    entropies = torch.special.entr(found.log_probabilities.exp()).sum(2)
    assert ((found.aleatoric - aleatoric).abs() < 4 * entropies.std(0) / math.sqrt(count)).all()
    # Entropy moves with the probabilities by their log ratios, at most.
    slope = (total.log().abs() + 1).sum(1) * error.amax(1)
    assert ((found.total - entropy).abs() < 4 * slope).all()
    assert torch.allclose(found.total, found.aleatoric + found.epistemic)
    assert (found.epistemic > 0).all()
    assert torch.equal(found.classes, total.argmax(1))
    assert found.quantiles([0.0, 1.0]).shape == (2, 5, 3)


def test_model_network_and_log_probabilities_agree() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 3))
    bnn = ps.lift(net, ps.Gaussian(posterior="normal"))
    x = torch.randn(9, 3)
    state = torch.random.get_rng_state()
    first = ps.predict(bnn, x, draws=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert bnn.training
    parts = ps.predict(ps.classifier(bnn, 20), x, draws=5, batch_size=4)
    expected = log_probabilities(bnn, x, draws=5).exp()
    for one in (first, parts):
        assert torch.allclose(one.probabilities, expected, atol=1e-6)


def test_labels_at_several_positions() -> None:
    """Of the pixels of an image: each position is as a datum of its own."""
    torch.manual_seed(0)
    net = nn.Conv2d(3, 4, 1)
    bnn = ps.lift(net, ps.Gaussian(posterior="normal", initial_scale=0.3))
    x = torch.randn(5, 3, 2, 6)
    found = ps.predict(ps.classifier(bnn, 20, class_dim=1), x, draws=6, batch_size=2)
    assert found.probabilities.shape == (5, 2, 6, 4)
    assert found.classes.shape == found.total.shape == found.epistemic.shape == (5, 2, 6)
    assert "5 data of 2 x 6 labels in 4 classes" in repr(found)
    dense = nn.Linear(3, 4)
    rows = ps.lift(dense, ps.Gaussian(posterior="normal", initial_scale=0.3))
    for name, parameter in bnn.guide.named_parameters():
        other = rows.guide.get_parameter(name)
        other.data = parameter.data.view(other.shape)
    dense.bias.data = net.bias.data
    dense.weight.data = net.weight.data[..., 0, 0]
    flat = x.movedim(1, -1).reshape(-1, 3)
    alone = ps.predict(ps.classifier(rows, 20), flat, draws=6)
    for key in ("probabilities", "total", "aleatoric", "epistemic"):
        torch.testing.assert_close(getattr(found, key).flatten(0, 2), getattr(alone, key))
    with pytest.raises(ValueError, match=r"one label for each datum, .* \[2, 6\]"):
        ps.conformal(found, torch.zeros(5, 2, 6).long())


def test_inputs_come_as_arrays_in_order_or_by_name() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x: Tensor, shift: Tensor | None = None, scale: Any = 1) -> Any:
            return {"logits": self.linear(x) * scale}

    x, scale = torch.randn(7, 3), torch.rand(7, 1) + 0.5
    bnn = ps.lift(Scaled(), ps.Gaussian(posterior="normal"))
    options: dict[str, Any] = {"draws": 4, "batch_size": 3}
    model = ps.classifier(bnn, 7, output="logits")
    likelihood = lambda out: dist.Categorical(logits=out["logits"])  # noqa: E731
    logits = [(x @ weight.mT + bnn.net.linear.bias) * scale for weight in _weights(bnn, 4)]
    expected = torch.stack(logits).softmax(-1)
    for inputs in (
        (x, None, scale),
        [x, None, scale],
        (x.numpy(), None, scale.numpy()),
        {"scale": scale, "x": x},
    ):
        for found in (
            ps.predict(model, inputs, **options),
            ps.predict(bnn, inputs, likelihood=likelihood, **options),
        ):
            assert torch.allclose(found.log_probabilities.exp(), expected.double(), atol=1e-6)


def _weights(bnn: ps.Lifted, draws: int) -> list[Tensor]:
    found = []
    for number in range(draws):
        torch.manual_seed(draw_seed(0, number))
        found.append(poutine.trace(bnn.guide).get_trace().nodes["linear.weight"]["value"])
    return found


def test_a_network_without_a_posterior_has_one_draw() -> None:
    net = nn.Linear(3, 2)
    found = ps.predict(net, torch.randn(6, 3))
    assert found.log_probabilities.shape == (1, 6, 2)
    assert not found.epistemic.any()
    assert "one network" in repr(found)
    model = ps.regressor(net, 6, noise=0.5)
    real = ps.predict(model, torch.randn(6, 3))
    assert torch.allclose(real.variance, torch.tensor(0.25).double())


def test_what_cannot_be_predicted_is_refused() -> None:
    bnn, x = linear()
    with pytest.raises(ValueError, match="likelihood=lambda"):
        ps.predict(bnn, x)
    with pytest.raises(ValueError, match="there are no data"):
        ps.predict(bnn, x[:0])
    with pytest.raises(ValueError, match="draws and batch_size must be 1 or more, got 0 and 1000"):
        ps.predict(bnn, x, draws=0)
    with pytest.raises(ValueError, match=r"different numbers of rows: \[\d+, 1\]"):
        ps.predict(bnn, (x, x[:1]))
    with pytest.raises(TypeError, match="'x', but the model's positional arguments are input"):
        ps.predict(bnn, {"x": x})
    with pytest.raises(TypeError, match="without labels, not DataLoader"):
        ps.predict(bnn, DataLoader(x))
    with pytest.raises(TypeError, match="path of a file"):
        ps.predict(3, x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is not lifted"):
        ps.predict(bnn.net, x, guide=bnn.guide)
    with pytest.raises(ValueError, match="NaN or infinite"):
        ps.predict(bnn, torch.full_like(x, torch.nan), likelihood=lambda f: dist.Normal(f, 1.0))
    with pytest.raises(ValueError, match="does not draw"):
        ps.predict(bnn, x, guide=lambda *_: None, likelihood=lambda f: dist.Normal(f, 1.0))
    student = ps.predict(bnn, x, draws=2, likelihood=lambda f: dist.StudentT(5.0, f, 1.0))
    with pytest.raises(ValueError, match="no cumulative distribution function"):
        student.quantiles()
    with pytest.raises(ValueError, match="levels"):
        student.quantiles([1.5])
    with pytest.raises(TypeError, match="must return a distribution"):
        ps.predict(bnn, x, likelihood=lambda f: f)
    with pytest.raises(ValueError, match="TransformedDistribution, has no mean"):
        squash = [dist.transforms.TanhTransform()]
        ps.predict(
            bnn, x, likelihood=lambda f: dist.TransformedDistribution(dist.Normal(f, 1.0), squash)
        )


def test_results_say_what_they_are() -> None:
    bnn, x = linear()
    found = ps.predict(ps.regressor(bnn, 4, noise=0.1), x, draws=7)
    assert repr(found).startswith("RealPrediction of 4 data from 7 draws: standard deviation ")
    assert "tensor" not in repr(found)
