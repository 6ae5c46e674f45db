"""Predictions at the guide's mean against direct computation."""

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal

import pyrosparse as ps
from pyrosparse.evidence import evaluate
from tests.linear_gaussian import LinearGaussian
from tests.nets import NETS, batch


@pytest.mark.parametrize("posterior", ["point", "normal"])
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("batch_size", [3, 1000])
def test_classifier(name, posterior, batch_size):
    net = NETS[name]()
    bnn = ps.lift(net, ps.Gaussian(posterior=posterior))
    x, y = batch(name, 20)
    scores = evaluate(ps.classifier(bnn, 500), bnn.guide, (x, y), batch_size=batch_size)
    logits = net.eval()(x)
    assert scores["nll"] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)
    assert scores["accuracy"] == float((logits.argmax(-1) == y).double().mean())


def test_regressor_has_no_accuracy():
    truth = LinearGaussian()
    bnn = truth.lifted()
    scores = evaluate(truth.model(bnn), bnn.guide, truth.data)
    expected = -Normal(bnn.net(truth.x), truth.noise).log_prob(truth.y).sum() / truth.n
    assert scores == {"nll": pytest.approx(expected.item(), rel=1e-9)}


def test_no_data_are_refused():
    bnn = ps.lift(NETS["mlp"](), ps.Gaussian())
    with pytest.raises(ValueError, match="no data"):
        evaluate(ps.classifier(bnn, 5), bnn.guide, [])


def test_mode_and_random_state_are_left_alone():
    bnn = ps.lift(NETS["cnn"](), ps.Gaussian(posterior="normal"))
    state = torch.get_rng_state()
    evaluate(ps.classifier(bnn, 7), bnn.guide, batch("cnn"))
    assert bnn.training
    assert torch.equal(torch.get_rng_state(), state)
    assert bnn.net[1].num_batches_tracked == 0


class Dropping(torch.nn.Module):
    """A classifier that drops inputs itself while it is trained."""

    def __init__(self, network: ps.Lifted) -> None:
        super().__init__()
        self.network = network

    def forward(self, x, y=None):
        logits = self.network(F.dropout(x, 0.5, self.training))
        with pyro.plate("data", 20, subsample_size=len(x)):
            return pyro.sample("y", dist.Categorical(logits=logits), obs=y)


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: lambda x, y: model(x, y)])
def test_a_models_own_forward_is_in_evaluation_mode(wrap):
    net = NETS["mlp"]()
    bnn = ps.lift(net, ps.Gaussian())
    model = Dropping(bnn)
    x, y = batch("mlp", 20)
    scores = evaluate(wrap(model), bnn.guide, (x, y))
    assert scores["nll"] == pytest.approx(F.cross_entropy(net(x), y).item(), rel=1e-5)
    assert model.training


class Program:
    """A program that is an object, with its parts in a dict."""

    def __init__(self, model):
        self.parts = {"model": model}

    def __call__(self, x, y=None):
        return self.parts["model"](x, y)


def in_a_tuple(model):
    models = (model,)
    return lambda x, y=None: models[0](x, y)


def as_a_default(model):
    return lambda x, y=None, model=model: model(x, y)


@pytest.mark.parametrize("program", [Program, in_a_tuple, as_a_default])
def test_modules_are_found_wherever_a_program_has_them(program):
    net = NETS["mlp"]()
    model = Dropping(ps.lift(net, ps.Gaussian()))
    x, y = batch("mlp", 20)
    scores = evaluate(program(model), model.network.guide, (x, y))
    assert scores["nll"] == pytest.approx(F.cross_entropy(net(x), y).item(), rel=1e-5)


def test_a_models_own_forward_is_trained_in_training_mode():
    model = Dropping(ps.lift(NETS["mlp"](), ps.Gaussian())).eval()
    ps.fit(model, model.network.guide, batch("mlp", 20), epochs=1, progress=False)
    assert model.training
