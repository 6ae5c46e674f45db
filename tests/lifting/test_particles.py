"""Particles that are drawn together are what particles one by one are."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.captured import CapturedSVI
from pyrosparse.lifting.lift import mean_gates
from pyrosparse.robustness import adversarial_classifier
from tests.methods.gates import LogNormalGate
from tests.monte_carlo import assert_mean
from tests.nets import NETS, batch, cnn, mlp
from tests.particles import COUNT, PLATE, alone, same, together

NORMAL = ps.Gaussian(posterior="normal", initial_scale=0.3)
LOCAL = ps.Gaussian(posterior="normal", estimator="activations", initial_scale=0.3)


# ELBOs and Predictive of Pyro


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("method", [NORMAL, LOCAL], ids=["weights", "activations"])
def test_the_loss_has_the_mean_of_particles_one_by_one(data, elbo, method):
    bnn = ps.lift(mlp().double(), method)
    args = (ps.classifier(bnn, 30), bnn.guide, data[0].double(), data[1])
    vectorized = elbo(num_particles=COUNT, vectorize_particles=True)
    losses = [vectorized.loss(*args) for _ in range(200)]
    assert_mean(torch.tensor(losses), 0.0 + elbo(num_particles=4000).loss(*args), rounding=2e-3)


def test_the_gradient_is_that_of_the_particles_one_by_one(data):
    bnn = ps.lift(mlp().double(), NORMAL)
    model, args = ps.classifier(bnn, 30), (data[0].double(), data[1])
    trace, drawn = together(model, bnn.guide, args)
    parameters = list(bnn.parameters())
    found = torch.autograd.grad(trace.log_prob_sum(), parameters, retain_graph=True)
    total = sum(alone(model, drawn, number, args).log_prob_sum() for number in range(COUNT))
    expected = torch.autograd.grad(total, parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_noise_at_activations_differs_between_particles(data):
    bnn = ps.lift(mlp(), LOCAL)
    _, drawn = together(ps.classifier(bnn, 30), bnn.guide, data)
    # One draw of the weights for all, as it is not used: what differs is the noise.
    for site in drawn.nodes.values():
        if site["type"] == "sample":
            site["value"] = site["value"][:1].expand_as(site["value"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outputs = poutine.replay(PLATE(bnn), trace=drawn)(data[0])
    assert len(outputs.unique(dim=0)) == COUNT


@pytest.mark.parametrize(
    "method", [NORMAL, LOCAL, ps.SpikeAndSlab()], ids=["normal", "local", "spike"]
)
def test_svi_learns(data, method):
    bnn = ps.lift(mlp(), method)
    elbo = Trace_ELBO(num_particles=COUNT, vectorize_particles=True)
    svi = SVI(ps.classifier(bnn, 30), bnn.guide, pyro.optim.Adam({"lr": 0.05}), elbo)
    for _ in range(100):
        svi.step(*data)
    assert (bnn.eval().mean_forward(data[0]).argmax(-1) == data[1]).float().mean() > 0.9


def test_captured_steps_are_those_of_svi(data):
    def trained(kind: type) -> dict[str, Tensor]:
        torch.manual_seed(0)
        bnn = ps.lift(mlp().double(), NORMAL)
        elbo = Trace_ELBO(num_particles=COUNT, vectorize_particles=True)
        svi = kind(ps.classifier(bnn, 30), bnn.guide, pyro.optim.Adam({"lr": 0.05}), elbo)
        for step in range(12):
            torch.manual_seed(step)
            svi.step(data[0].double(), data[1])
        return dict(bnn.state_dict())

    eager, captured = trained(SVI), trained(CapturedSVI)
    for name, value in eager.items():
        torch.testing.assert_close(captured[name], value, rtol=1e-6, atol=1e-8)


def test_fit_takes_the_elbo(data):
    bnn = ps.lift(mlp(), NORMAL)
    elbo = TraceMeanField_ELBO(num_particles=COUNT, vectorize_particles=True)
    run = ps.fit(
        ps.classifier(bnn, 30), bnn.guide, data, elbo=elbo, epochs=3, batch_size=8, progress=False
    )
    assert len(run.history) == 3
    assert torch.tensor([entry["loss"] for entry in run.history]).isfinite().all()


def test_predictive_of_the_guide_has_its_moments(data):
    bnn = ps.lift(mlp(), NORMAL).eval()
    sites = ["0.weight", "y"]
    draws = Predictive(
        ps.classifier(bnn, 30), guide=bnn.guide, num_samples=200, parallel=True, return_sites=sites
    )(data[0])
    assert draws["y"].shape == (200, 30)
    weight = draws["0.weight"].reshape(200, *bnn.net[0].weight.shape)
    assert_mean(weight, bnn.net[0].weight)
    one_by_one = Predictive(ps.classifier(bnn, 30), guide=bnn.guide, num_samples=2000)(data[0])
    frequency = one_by_one["y"].double().mean(0)
    assert_mean(draws["y"].double(), frequency, rounding=0.03)


def test_predictive_without_a_guide_draws_from_the_prior(data):
    bnn = ps.lift(mlp(), ps.Horseshoe())
    found = Predictive(ps.classifier(bnn, 30), num_samples=2000, parallel=True)(data[0])
    assert found["y"].shape == (2000, 30) and found["0.weight"].shape == (2000, 1, 5, 4)
    # Under a horseshoe the weights of one draw share their scale.
    sizes = found["0.weight"].abs().log().flatten(1)
    assert torch.corrcoef(sizes.T)[0, 1] > 0.2


def test_predictive_takes_samples_of_ones_own(data):
    bnn = ps.lift(mlp(), NORMAL).eval()
    samples = {target.site: torch.randn(7, *target.shape) for target in bnn.targets}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Predictive(bnn, samples, return_sites=["_RETURN"], parallel=True)(data[0])
    for number, output in enumerate(found["_RETURN"]):
        one = {name: value[number] for name, value in samples.items()}
        torch.testing.assert_close(output, poutine.condition(bnn, one)(data[0]))


def test_an_autoguide_trains_with_particles(data):
    bnn = ps.lift(mlp(), NORMAL)
    model = ps.classifier(bnn, 30)
    guide = AutoNormal(model, init_scale=0.1)
    guide(*data)
    same(model, guide, data)


# The likelihoods of the package


LIKELIHOODS: dict[str, Callable[[], tuple[Any, Any, Any]]] = {}


def likelihood(make: Callable[[], tuple[Any, Any, Any]]) -> Callable[[], tuple[Any, Any, Any]]:
    LIKELIHOODS[make.__name__] = make
    return make


def lifted(outputs: int) -> ps.Lifted:
    return ps.lift(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs)), NORMAL).eval()


X = torch.randn(30, 4)


@likelihood
def known_noise() -> Any:
    bnn = lifted(2)
    return ps.regressor(bnn, 30, noise=0.3), bnn.guide, (X, torch.randn(30, 2))


@likelihood
def learned_noise() -> Any:
    model = ps.regressor(lifted(2), 30)
    return model, model.guide, (X, torch.randn(30, 2))


@likelihood
def learned_noise_of_values_without_a_dimension() -> Any:
    bnn = ps.lift(nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), NORMAL).eval()
    model = ps.regressor(bnn, 30)
    return model, model.guide, (X, torch.randn(30))


@likelihood
def one_noise_a_target() -> Any:
    prior = dist.LogNormal(torch.zeros(2), 1.0).to_event(1)
    model = ps.regressor(lifted(2), 30, noise=prior)
    return model, model.guide, (X, torch.randn(30, 2))


@likelihood
def noise_of_a_network_that_is_not_lifted() -> Any:
    model = ps.regressor(nn.Linear(4, 2), 30)
    return model, model.guide, (X, torch.randn(30, 2))


@likelihood
def heteroscedastic() -> Any:
    bnn = lifted(4)
    return ps.heteroscedastic_regressor(bnn, 30), bnn.guide, (X, torch.randn(30, 2))


@likelihood
def counts() -> Any:
    bnn = lifted(1)
    return ps.counts(bnn, 30), bnn.guide, (X, torch.randint(4, (30, 1)))


@likelihood
def multilabel() -> Any:
    bnn = lifted(3)
    return ps.multilabel(bnn, 30), bnn.guide, (X, torch.randint(2, (30, 3)))


@likelihood
def ordinal() -> Any:
    model = ps.ordinal(lifted(1), 30, classes=4)
    return model, model.guide, (X, torch.arange(30) % 4)


@likelihood
def maps() -> Any:
    bnn = ps.lift(nn.Conv2d(1, 3, 1), NORMAL).eval()
    args = (torch.randn(30, 1, 4, 4), torch.randint(3, (30, 4, 4)))
    return ps.classifier(bnn, 30, class_dim=1), bnn.guide, args


@likelihood
def named_outputs() -> Any:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"hidden": x, "logits": self.layer(x)}

    bnn = ps.lift(Named(), NORMAL).eval()
    return ps.classifier(bnn, 30, output="logits"), bnn.guide, (X, torch.arange(30) % 3)


@likelihood
def language() -> Any:
    bnn = ps.lift(nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5)), NORMAL).eval()
    return ps.language_model(bnn, 30), bnn.guide, (torch.randint(5, (30, 6)),)


@likelihood
def distilled_language() -> Any:
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    model = ps.distill_language_model(ps.lift(net, NORMAL), net, 30)
    return model, model.network.guide, (torch.randint(5, (30, 6)),)


@likelihood
def distilled() -> Any:
    net = nn.Linear(4, 3)
    model = ps.distill(ps.lift(net, NORMAL), net, 30)
    return model, model.network.guide, (X, torch.arange(30) % 3)


@likelihood
def adversarial() -> Any:
    bnn = ps.lift(nn.Linear(4, 3), NORMAL)
    model = adversarial_classifier(bnn, 30, epsilon=0.1)
    return model, bnn.guide, (X, torch.arange(30) % 3)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods_score_each_particle_as_alone(name):
    model, guide, args = LIKELIHOODS[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(model, guide, args)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_samples_as_predictive_hands_them_on_are_each_one_draw(name):
    """It leaves out the dimension of the data where an event has as many dimensions."""
    model, guide, args = LIKELIHOODS[name]()
    trace, drawn = together(model, guide, args)
    samples = {}
    for key, site in drawn.nodes.items():
        if site["type"] == "sample":
            event = site["value"].shape[2:]
            rest = (1,) * (1 - len(event))
            samples[key] = site["value"].expand(COUNT, 1, *event).reshape(COUNT, *rest, *event)
    given = poutine.trace(poutine.condition(PLATE(model), samples)).get_trace(*args)
    given.compute_log_prob()
    found, expected = (one.nodes["y"]["log_prob"] for one in (given, trace))
    torch.testing.assert_close(found, expected.expand_as(found), rtol=1e-4, atol=1e-4)


# Networks and methods that are not ours


@pytest.mark.parametrize("name", NETS)
def test_networks_run_by_vmap_in_evaluation_mode(name, monkeypatch):
    bnn = ps.lift(NETS[name](), NORMAL).eval()
    x, y = batch(name)
    together(ps.classifier(bnn, len(x)), bnn.guide, (x, y))
    assert not bnn._particle_runs._one_by_one


def test_batch_normalisation_in_training_mode_runs_one_by_one():
    bnn = ps.lift(cnn(), NORMAL)
    x, y = batch("cnn")
    model, norm = ps.classifier(bnn, len(x)), bnn.net[1]
    before = int(norm.num_batches_tracked)
    same(model, bnn.guide, (x, y))  # two calls together, and one alone for each particle
    assert int(norm.num_batches_tracked) == before + 3 * COUNT


def test_a_network_that_asks_for_values_runs_one_by_one(data):
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            found = self.layer(x)
            return found if float(found.detach().mean()) > 0 else 2 * found

    bnn = ps.lift(Branching(), NORMAL)
    same(ps.classifier(bnn, 30), bnn.guide, data)


def test_frozen_weights_are_zero_in_every_particle(data):
    bnn = ps.lift(mlp(), NORMAL)
    bnn.freeze({"0.weight": torch.zeros(5, 4, dtype=torch.bool)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            outputs = PLATE(bnn)(data[0])
    assert outputs.shape == (COUNT, 30, 3)
    assert torch.equal(outputs, outputs[:, :1].expand_as(outputs))


def test_gates_of_ones_own_method(data):
    net = mlp()
    bnn = ps.lift(net, LogNormalGate(), ps.inputs(net))
    same(ps.classifier(bnn, 30), bnn.guide, data)


def test_gates_that_do_nothing_are_refused(data):
    class Past(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.layer.weight)

    net = Past()
    bnn = ps.lift(net, LogNormalGate(), ps.inputs(net))
    with pytest.raises(ValueError, match="had no effect"):
        together(ps.classifier(bnn, 30), bnn.guide, data)


@dataclass(frozen=True)
class Hierarchical:
    """A prior with a scale for each unit, as one writes it for one set of weights, or for many."""

    many: bool

    def __call__(self, target: ps.Target) -> Tensor:
        units, inputs = target.shape
        scale = pyro.sample(target.part("scale"), dist.HalfCauchy(torch.ones(units)).to_event(1))
        scale = scale[..., None] if self.many else scale.reshape(-1, 1)[-units:]
        return pyro.sample(target.site, dist.Normal(torch.zeros(inputs), scale).to_event(2))


def test_a_prior_of_ones_own_for_many_sets_works(data):
    bnn = ps.lift(mlp(), ps.from_pyro(Hierarchical(many=True)))
    same(ps.classifier(bnn, 30), bnn.guide, data)


def test_a_prior_that_mixes_the_particles_is_refused(data):
    bnn = ps.lift(mlp(), ps.from_pyro(Hierarchical(many=False)))
    with pytest.raises(ValueError, match=r"'0\.weight' has other probabilities in a plate"):
        together(ps.classifier(bnn, 30), bnn.guide, data)


def test_a_prior_that_fails_between_its_sites_is_refused_with_its_error(data):
    def failing(target: ps.Target) -> Tensor:
        shared = pyro.sample(target.part("scale"), dist.HalfCauchy(1.0))
        scale = shared * torch.ones(target.shape).reshape(7 if shared.dim() else -1)
        weight = dist.Normal(torch.zeros(target.shape), scale.view(target.shape)).to_event(2)
        return pyro.sample(target.site, weight)

    bnn = ps.lift(nn.Linear(4, 3), ps.from_pyro(failing))
    with pytest.raises(ValueError, match="'weight' was not reached in a plate") as caught:
        together(ps.classifier(bnn, 30), bnn.guide, data)
    error = caught.value.__cause__ or caught.value
    while error.__cause__ is not None:
        error = error.__cause__
    assert "shape '[7]' is invalid" in str(error)


def test_models_of_ones_own_are_told_where_the_particles_are(data):
    bnn = ps.lift(nn.Linear(4, 1), NORMAL)

    def model(x: Tensor, y: Tensor) -> None:
        mean = bnn(x)[..., 0]
        with pyro.plate("data", 30):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    with pytest.warns(UserWarning, match="particles in its first dimension"):
        same(model, bnn.guide, (data[0], data[1].float()))


@pytest.mark.parametrize("dim", [-1, -2])
def test_other_plates_are_refused(data, dim):
    bnn = ps.lift(mlp(), NORMAL)
    with pytest.raises(ValueError, match="inside the plate 'mine'"), pyro.plate("mine", 3, dim=dim):
        bnn(data[0])


def test_models_with_more_plates_are_refused(data):
    bnn = ps.lift(mlp(), NORMAL)
    plate = pyro.plate("num_particles_vectorized", 3, dim=-3)
    with pytest.raises(ValueError, match="run particles one by one"):
        plate(bnn)(data[0])


def test_outputs_that_are_no_tensors_come_one_a_particle(data):
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> dict[str, Any]:
            logits = self.layer(x)
            cache = SimpleNamespace(sum=float(logits.detach().sum()))
            return {"logits": logits, "cache": cache, "count": 7, "loss": None}

    bnn = ps.lift(Named(), NORMAL)
    same(ps.classifier(bnn, 30, output="logits"), bnn.guide, data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output = PLATE(bnn)(data[0])
    assert output["count"] == 7 and output["loss"] is None
    sums = torch.tensor([one.sum for one in output["cache"]])
    torch.testing.assert_close(sums, output["logits"].sum((1, 2)), rtol=1e-4, atol=1e-4)


def test_mean_gates_hold_in_every_particle(data):
    net = mlp()
    bnn = ps.lift(net, ps.BetaBernoulli(), ps.inputs(net)).eval()
    with mean_gates():
        _, drawn = together(ps.classifier(bnn, 30), bnn.guide, data)
        found = [alone(bnn, drawn, n, data[:1]).nodes["_RETURN"]["value"] for n in range(2)]
    assert torch.equal(*found)


def test_a_plate_that_chooses_data_has_its_indices_before_it(data):
    """The way out that the refusal names."""
    x, y = data
    bnn = ps.lift(mlp(), NORMAL)

    def model(x: Tensor, y: Tensor) -> None:
        plate = pyro.plate("data", len(x), subsample_size=3)
        logits = bnn(x[plate.indices])
        with plate as index:
            pyro.sample("y", dist.Categorical(logits=logits), obs=y[index])

    trace = pyro.poutine.trace(model).get_trace(x, y)
    assert trace.nodes["y"]["value"].shape == (3,)
    assert trace.nodes["y"]["scale"] == len(x) / 3
