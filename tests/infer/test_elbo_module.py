"""Pyro's ELBO as a torch module: every parameter is found once, and trains as with SVI."""

import copy
import pickle

import pyro
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import pyrosparse as ps
from pyrosparse.evidence.traces import evaluation_mode
from pyrosparse.robustness.adversarial import adversarial_classifier
from tests.nets import batch, mlp

N = 14
METHODS = [ps.Gaussian(posterior="normal"), ps.Gaussian(), ps.BetaBernoulli()]


MODELS = {
    "classifier": lambda bnn: ps.classifier(bnn, N),
    "regressor": lambda bnn: ps.regressor(bnn, N, noise=0.5),
    "distill": lambda bnn: ps.distill(bnn, mlp(), N),
    "adversarial": lambda bnn: adversarial_classifier(bnn, N, epsilon=0.1),
}


def made(name, method=METHODS[0]):
    torch.manual_seed(0)
    bnn = ps.lift(mlp(), method)
    x, y = batch("mlp", N)
    return bnn, MODELS[name](bnn), (x, torch.randn(N, 3) if name == "regressor" else y)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_found_once(name, method):
    bnn, model, _ = made(name, method)
    found = [id(one) for one in TraceMeanField_ELBO()(model, bnn.guide).parameters()]
    assert sorted(found) == sorted(map(id, bnn.parameters()))
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("name", MODELS)
def test_a_torch_loop_trains_as_svi_does(name, elbo, method):
    ours, model, data = made(name, method)
    loss = elbo()(model, ours.guide)
    optimizer = torch.optim.Adam(loss.parameters(), 0.01)
    torch.manual_seed(1)
    for _ in range(4):
        optimizer.zero_grad()
        loss(*data).backward()
        optimizer.step()

    theirs, model, data = made(name, method)
    svi = SVI(model, theirs.guide, pyro.optim.Adam({"lr": 0.01}), elbo())
    torch.manual_seed(1)
    for _ in range(4):
        svi.step(*data)
    start, _, _ = made(name, method)
    for (key, a), b, c in zip(
        ours.named_parameters(), theirs.parameters(), start.parameters(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=key)
        assert not torch.equal(a, c), key


@pytest.mark.parametrize("name", MODELS)
def test_names_in_the_param_store_are_those_of_the_lifted_network(name):
    bnn, model, data = made(name)
    SVI(model, bnn.guide, pyro.optim.Adam({"lr": 0.01}), TraceMeanField_ELBO()).step(*data)
    assert set(pyro.get_param_store().keys()) == {key for key, _ in bnn.named_parameters()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))], ids=["copy", "pickle"]
)
def test_copies_compute_the_same_and_share_nothing(name, copied):
    bnn, model, data = made(name)
    loss = TraceMeanField_ELBO()(model, bnn.guide)
    other = copied(loss)
    values = []
    for one in (loss, other):
        torch.manual_seed(1)
        values.append(one(*data).item())
    assert values[0] == values[1]
    assert other.guide.lifted is other.model.network
    assert not {id(p) for p in loss.parameters()} & {id(p) for p in other.parameters()}


@pytest.mark.parametrize("name", MODELS)
def test_state_dict_is_that_of_the_lifted_network_and_comes_back(name):
    bnn, model, _ = made(name)
    assert list(model.state_dict()) == [f"network.{key}" for key in bnn.state_dict()]
    torch.manual_seed(5)
    other = MODELS[name](ps.lift(mlp(), METHODS[0]))
    other.load_state_dict(model.state_dict())
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_modes_dtypes_and_gradients_reach_the_network_and_leave_the_teacher():
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    bnn = ps.lift(mlp(), METHODS[0])
    model = ps.distill(bnn, teacher, N)
    for training in (False, True):
        model.train(training)
        assert bnn.training is training
        assert not any(module.training for module in model.teacher.modules())
    model.requires_grad_(True)
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())
    x, y = batch("mlp", N)
    before = copy.deepcopy(model.teacher.state_dict())
    ps.fit(model, bnn.guide, (x, y), epochs=2, progress=False)
    assert all(torch.equal(a, before[key]) for key, a in model.teacher.state_dict().items())
    model.double()
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert model.teach(x.double()).dtype is torch.float64


def test_functions_are_networks_too():
    bnn = ps.lift(mlp(), METHODS[0])
    x, y = batch("mlp", N)
    for model in (
        ps.classifier(lambda x: bnn(x), N),
        ps.distill(lambda x: bnn(x), mlp(), N),
    ):
        with evaluation_mode(model, bnn.guide):
            assert not bnn.training and not model.training
        assert bnn.training and model.training
        ps.fit(model, bnn.guide, (x, y), epochs=2, progress=False)
        assert Predictive(model, guide=bnn.guide, num_samples=3)(x)["y"].shape == (3, N)


class Normalised(ps.classifier):
    """A user's own, with a layer and its constructor."""

    def __init__(self, network, n):
        super().__init__(network, n)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x, y=None):
        return super().forward(self.norm(x), y)


def test_subclasses_with_layers_of_their_own_are_evaluated_and_resumed_whole(tmp_path):
    x, y = batch("mlp", N)

    class Stop(ps.infer.Callback):
        def on_epoch_end(self, run):
            if run.epoch == 2:
                raise KeyboardInterrupt

    def attempt(*callbacks, **options):
        torch.manual_seed(0)
        bnn = ps.lift(mlp(), METHODS[0])
        model = Normalised(bnn, N)
        options |= {"epochs": 3, "batch_size": 7, "progress": False}
        ps.fit(model, bnn.guide, (x, y), callbacks=callbacks, **options)
        return bnn, model

    bnn, whole = attempt()
    with evaluation_mode(whole, bnn.guide):
        assert not whole.norm.training
    path = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        attempt(Stop(), checkpoint=path)
    _, resumed = attempt(checkpoint=path)
    assert resumed.norm.num_batches_tracked == whole.norm.num_batches_tracked == 6
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key
