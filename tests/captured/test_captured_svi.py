"""CapturedSVI: what it captures, notices, leaves to eager steps, and hands to optimizers.

Most tests run one script twice, on ``pyro.infer.SVI`` and on ``CapturedSVI``, from the same start
and random stream, and compare all losses and parameters.
"""

import copy
import functools
import math
import random
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hypothesis
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    SVI,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.distributions import constraints
from torch.utils._pytree import tree_leaves

import pyrosparse as ps
from pyrosparse.captured import CapturedSVI, gradients
from pyrosparse.infer import kl_scale, schedules
from tests.nets import batch, mlp

X = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
Y = X.sum(-1) + 0.5

FEW = 2


def adam() -> PyroOptim:
    return pyro.optim.Adam({"lr": 0.05})


def sgd() -> PyroOptim:
    return pyro.optim.SGD({"lr": 0.01})


def regression(slope: Callable[[], Any] = lambda: 1.0) -> Callable[..., None]:
    """A linear model whose predictions are multiplied by what ``slope`` returns."""

    def model(x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        # Weights on the left, where vectorised particles put a dimension.
        pyro.sample("y", dist.Normal(slope() * (w @ x.T), 1.0).to_event(1), obs=y)

    return model


def guide(*args: Any, **kwargs: Any) -> None:
    loc = pyro.param("loc", torch.zeros(3))
    scale = pyro.param("scale", torch.full((3,), 0.3), constraint=constraints.positive)
    pyro.sample("w", dist.Normal(loc, scale).to_event(1))


def network(net: nn.Module) -> Callable[..., None]:
    """A model with the parameters of a network and no latent site."""

    def model(x: Tensor, y: Tensor) -> None:
        pyro.module("net", net)
        pyro.sample("y", dist.Normal(net(x).squeeze(-1), 1.0).to_event(1), obs=y)

    return model


def no_guide(*args: Any, **kwargs: Any) -> None:
    pass


@pytest.fixture
def few_captures(monkeypatch):
    """After ``FEW`` captures of one step it should be taken eagerly, so that tests are fast."""
    monkeypatch.setattr(gradients, "_MOST_CAPTURES", FEW)


def steps(svi: Any, count: int, *args: Any, **kwargs: Any) -> None:
    for _ in range(count):
        svi.step(*(args or (X, Y)), **kwargs)


# Comparing with eager training


@dataclass(frozen=True)
class Run:
    svi: Any
    losses: list[Any]
    state: dict[str, Tensor]
    traced: int
    warnings: list[str]


def run(kind: type, script: Callable[..., Any], optim: Any = adam, elbo: Any = Trace_ELBO) -> Run:
    """Run a training script from a fixed start.

    script: takes a function that makes an SVI object from a model, a guide and what makes an
            optimizer; takes steps, and returns other tensors to compare.
    """
    pyro.clear_param_store()
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(0)
    losses: list[Any] = []
    made: list[Any] = []
    traced = 0
    trace = gradients.trace

    def make(model: Any, guide: Any = guide, optim: Any = optim) -> Any:
        svi = kind(model, guide, optim(), elbo())
        step = svi.step
        svi.step = lambda *args, **kwargs: losses.append(step(*args, **kwargs))
        made.append(svi)
        return svi

    def counted(*args: Any) -> Any:
        nonlocal traced
        traced += 1
        return trace(*args)

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        patch.setattr(gradients, "trace", counted)
        warnings.simplefilter("always")
        others = script(make) or []
    state = {name: p.detach() for name, p in pyro.get_param_store().named_parameters()}
    state |= {f"result {index}": tensor.detach() for index, tensor in enumerate(others)}
    state = {name: tensor.clone() for name, tensor in state.items()}
    return Run(made[-1], losses, state, traced, [str(one.message) for one in caught])


def assert_as_eager(script: Any, **options: Any) -> Run:
    """A script trains as on SVI, captured or not."""
    ours, eager = (run(kind, script, **options) for kind in (CapturedSVI, SVI))
    for loss, expected in zip(ours.losses, eager.losses, strict=True):
        assert loss == pytest.approx(expected, rel=1e-6)
    assert ours.state.keys() == eager.state.keys()
    for name, value in eager.state.items():
        torch.testing.assert_close(ours.state[name], value, rtol=1e-5, atol=1e-5)
    return ours


def assert_captured(script: Any, captures: int = 1, eager: int = 1, **options: Any) -> Run:
    """A script trains as on SVI, captures so often, and takes at most so many eager steps."""
    ours = assert_as_eager(script, **options)
    assert ours.svi.fallback is None
    assert ours.warnings == []
    assert ours.traced == captures
    assert ours.svi.eager_steps <= eager
    return ours


def assert_fell_back(ours: Run, *words: str) -> None:
    """There was one warning, with the reason and these words."""
    assert ours.svi.fallback is not None
    for word in words:
        assert word in ours.svi.fallback
    assert len(ours.warnings) == 1 and ours.svi.fallback in ours.warnings[0]


def assert_falls_back(script: Any, *words: str, **options: Any) -> None:
    """A script trains as on SVI bit for bit, as no captured step is ever taken."""
    ours, eager = (run(kind, script, **options) for kind in (CapturedSVI, SVI))
    assert_fell_back(ours, *words)
    assert ours.losses == eager.losses
    assert ours.state.keys() == eager.state.keys()
    assert all(torch.equal(value, eager.state[name]) for name, value in ours.state.items())


# Values that the model reads in Python

Place = tuple[Callable[[], Any], Callable[[Any], None]]

SLOPE: Any = 1.0
settings: Any = types.ModuleType("settings")  # as if imported
package: Any = types.ModuleType("package")
package.settings = types.ModuleType("package.settings")
package.settings.package = package  # modules refer to each other in circles


def set_global(value: Any) -> None:
    global SLOPE
    SLOPE = value


def global_variable() -> Place:
    set_global(1.0)
    return lambda: SLOPE, set_global


def closure() -> Place:
    slope: Any = 1.0

    def write(value: Any) -> None:
        nonlocal slope
        slope = value

    return lambda: slope, write


class Plain:
    pass


class Default:
    slope: Any = 1.0


class DefaultOfNetwork(nn.Module):
    slope: Any = 1.0


class Property:
    @property
    def slope(self) -> Any:
        return SLOPE

    @slope.setter
    def slope(self, value: Any) -> None:
        set_global(value)


def attribute_of(make: Callable[[], Any], *, default: bool = False) -> Callable[[], Place]:
    """default: the object itself has the attribute only from the first change on."""

    def place() -> Place:
        holder = make()
        if not default:
            holder.slope = 1.0
        return lambda: holder.slope, lambda value: setattr(holder, "slope", value)

    return place


def class_of_an_object() -> Place:
    class Own:
        slope: Any = 1.0

    own = Own()
    return lambda: own.slope, lambda value: setattr(Own, "slope", value)


def module() -> Place:
    settings.slope = 1.0
    return lambda: settings.slope, lambda value: setattr(settings, "slope", value)


def module_of_a_package() -> Place:
    package.settings.slope = 1.0
    return (
        lambda: package.settings.slope,
        lambda value: setattr(package.settings, "slope", value),
    )


def item_of(container: Any, key: Any) -> Callable[[], Place]:
    def place() -> Place:
        own = copy.deepcopy(container)
        return lambda: own[key], lambda value: own.__setitem__(key, value)

    return place


def object_in_containers() -> Place:
    parts = {"parts": [(0, attribute_of(Plain)())]}
    return lambda: parts["parts"][0][1][0](), parts["parts"][0][1][1]


def buffer() -> Place:
    holder = nn.Module()
    holder.register_buffer("slope", torch.tensor(1.0))
    return lambda: holder.slope, lambda value: setattr(holder, "slope", value)


PLACES: dict[str, Callable[[], Place]] = {
    "global-variable": global_variable,
    "closure": closure,
    "object": attribute_of(Plain),
    "network": attribute_of(nn.Module),
    "class-of-an-object": class_of_an_object,
    "object-with-default": attribute_of(Default, default=True),
    "network-with-default": attribute_of(DefaultOfNetwork, default=True),
    "class": attribute_of(lambda: type("Settings", (), {})),
    "property": attribute_of(Property),
    "namespace": attribute_of(types.SimpleNamespace),
    "module": module,
    "module-of-a-package": module_of_a_package,
    "list": item_of([0.0, 1.0], 1),
    "dict": item_of({"slope": 1.0}, "slope"),
    "object-in-containers": object_in_containers,
}


@pytest.mark.parametrize("place", PLACES)
def test_number_changed_between_steps_is_captured_anew(place):
    def script(make):
        read, write = PLACES[place]()
        svi = make(regression(read))
        steps(svi, 3)
        write(2.0)
        steps(svi, 3)
        write(1.0)
        steps(svi, 2)

    # Two captures for three stretches: the first holds again once its number is back.
    assert_captured(script, captures=2)


@pytest.mark.parametrize(("place", "name"), [("global-variable", "SLOPE"), ("object", "slope")])
def test_number_that_changes_in_every_step_ends_in_eager_steps(few_captures, place, name):
    def script(make):
        read, write = PLACES[place]()
        svi = make(regression(read))
        for step in range(7):
            write(1 + step / 10)
            svi.step(X, Y)

    ours = assert_as_eager(script)
    assert ours.traced == FEW
    assert_fell_back(ours, "keep changing", name)


HANDLERS = {
    "kl_scale": lambda scale: kl_scale(scale),
    "scale": lambda scale: poutine.scale(scale=scale),
}


@pytest.mark.parametrize("kind", HANDLERS)
def test_number_of_a_handler_around_the_step_is_captured_anew(kind):
    def script(make):
        svi = make(regression())
        with HANDLERS[kind](1.0) as handler:
            steps(svi, 3)
            handler.scale = 0.5
            steps(svi, 3)

    assert_captured(script, captures=2)


def test_step_inside_a_handler_is_another_one_than_outside():
    def script(make):
        svi = make(regression())
        handler = kl_scale(0.1)
        steps(svi, 3)
        with handler:
            steps(svi, 3)
        steps(svi, 2)

    assert_captured(script, captures=2)


# The two usual ways to anneal: neither may cost a capture in every step.


def test_handlers_made_anew_in_every_step_are_not_captured_for_ever(few_captures):
    def script(make):
        svi = make(regression())
        for _ in range(7):
            with kl_scale(0.5):
                svi.step(X, Y)

    assert assert_as_eager(script).traced <= FEW


def test_number_given_as_an_argument_is_not_captured_for_ever(few_captures):
    def model(x, y, slope):
        regression(lambda: slope)(x, y)

    def script(make):
        svi = make(model)
        for step in range(7):
            svi.step(X, Y, 1 + step / 10)

    assert assert_as_eager(script).traced <= FEW


# Values held in tensors

TENSOR_PLACES = {name: PLACES[name] for name in ("global-variable", "closure", "dict", "object")}
TENSOR_PLACES["buffer"] = buffer


@pytest.mark.parametrize("place", TENSOR_PLACES)
def test_tensor_changed_in_place_needs_no_new_capture(place):
    def script(make):
        read, write = TENSOR_PLACES[place]()
        write(torch.tensor(1.0))
        svi = make(regression(read))
        for step in range(6):
            read().fill_(1 + step / 10)
            svi.step(X, Y)

    assert_captured(script, captures=1)


@pytest.mark.parametrize("place", ["global-variable", "buffer"])
def test_tensor_replaced_by_another_is_captured_anew(place):
    def script(make):
        read, write = TENSOR_PLACES[place]()
        write(torch.tensor(1.0))
        svi = make(regression(read))
        steps(svi, 3)
        write(torch.tensor(2.0))
        steps(svi, 3)

    assert_captured(script, captures=2)


def test_weight_of_the_divergence_changed_in_place_needs_no_new_capture():
    def script(make):
        svi = make(regression())
        weight = torch.tensor(0.0)
        with kl_scale(weight):
            for step in range(6):
                weight.fill_(step / 5)
                svi.step(X, Y)

    assert_captured(script, captures=1)


@pytest.mark.parametrize("size", [1, 100_000])
def test_tensor_that_the_model_writes_to_is_written_once_a_step(size):
    def script(make):
        slope = torch.ones(size)
        svi = make(regression(lambda: slope.add_(0.1)[0]))
        steps(svi, 5)
        return [slope]

    assert_as_eager(script)


# Randomness


@pytest.mark.parametrize(
    ("draw", "name"), [(np.random.normal, "numpy"), (lambda: random.gauss(0, 1), "Python")]
)
def test_draws_from_other_generators_run_eagerly(draw, name):
    def script(make):
        steps(make(regression(lambda: 1 + draw() / 10)), 5)

    assert_falls_back(script, f"{name}'s random generator")


def draw_of_torch(generator: torch.Generator) -> Tensor:
    return torch.randn((), generator=generator)


@pytest.mark.parametrize(
    ("generator", "draw"),
    [
        (lambda: np.random.default_rng(0), np.random.Generator.normal),
        (lambda: random.Random(0), random.Random.random),
        (lambda: torch.Generator().manual_seed(0), draw_of_torch),
    ],
    ids=["numpy", "python", "torch"],
)
def test_generator_of_the_models_own_is_drawn_from_once_a_step(generator, draw):
    def script(make):
        own = generator()
        steps(make(regression(lambda: 1 + draw(own) / 10)), 5)

    assert_as_eager(script)


# Networks


def batch_norm() -> nn.Module:
    # No bias before the normalisation: its gradient would be rounding alone, which Adam blows up.
    layers = nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)
    return nn.Sequential(*layers)


def dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Tanh(), nn.Linear(4, 1))


def test_chain_of_references_longer_than_the_stack_hides_nothing():
    chain = None
    for _ in range(3000):
        chain = types.SimpleNamespace(following=chain)

    fit = network(batch_norm())

    def model(x: Tensor, y: Tensor) -> None:
        assert chain is not None
        fit(x, y)

    svi = CapturedSVI(model, no_guide, adam(), Trace_ELBO())
    steps(svi, 4, X, Y)
    assert svi.fallback is None


def test_code_of_installed_packages_is_not_looked_into():
    def model(x: Tensor, y: Tensor) -> None:
        assert hypothesis.given is not None and pytest.raises is not None
        regression()(x, y)

    svi = CapturedSVI(model, guide, adam(), Trace_ELBO())
    steps(svi, 3, X, Y)
    (captured,) = (one for made in svi.captured.values() for one in made)
    assert len(captured.guards) < 100


def test_running_statistics_move_once_a_step(monkeypatch):
    monkeypatch.setattr(gradients, "CHECK_EVERY", 3)  # also with checks in between

    def script(make):
        net = batch_norm()
        svi = make(network(net), no_guide)
        steps(svi, 4)
        steps(svi, 4, 2 * X, Y)
        return net.buffers()

    ours = assert_captured(script)
    assert [int(t) for t in ours.state.values() if t.dtype is torch.int64] == [8]


@pytest.mark.parametrize("kind", [batch_norm, dropout])
def test_mode_switched_and_back_is_captured_once_each(kind):
    def script(make):
        net = kind()
        svi = make(network(net), no_guide)
        steps(svi, 3)
        net.eval()
        steps(svi, 3)
        net.train()
        steps(svi, 3)
        return net.buffers()

    assert_captured(script, captures=2)


def test_layer_put_behind_the_others_is_noticed():
    def script(make):
        net = nn.Sequential(nn.Linear(3, 1))
        svi = make(network(net), no_guide)
        steps(svi, 3)
        net.append(nn.Tanh())
        steps(svi, 3)

    assert_captured(script, captures=2)


def test_parameter_replaced_by_another_is_noticed():
    def script(make):
        net = nn.Linear(3, 1)
        svi = make(network(net), no_guide)
        steps(svi, 3)
        pyro.clear_param_store()  # which holds on to the parameter of before
        net.weight = nn.Parameter(torch.ones(1, 3))
        steps(svi, 3)

    assert_captured(script, captures=2, eager=2)


# The param store


def state_of_store() -> Any:
    return copy.deepcopy(pyro.get_param_store().get_state())


def set_state(kept: Any) -> None:
    pyro.get_param_store().set_state(kept)


def clear_and_set_state(kept: Any) -> None:
    pyro.clear_param_store()
    set_state(kept)


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: pyro.clear_param_store(),
        lambda kept: pyro.get_param_store().__delitem__("loc"),
        lambda kept: pyro.get_param_store().__setitem__("loc", torch.ones(3)),
        set_state,
        clear_and_set_state,
    ],
    ids=["clear", "delete", "assign", "set-state", "clear-and-set-state"],
)
def test_parameters_changed_in_the_store_are_those_that_train(change):
    def script(make):
        svi = make(regression())
        steps(svi, 2)
        kept = state_of_store()
        steps(svi, 2)
        change(kept)
        steps(svi, 4)

    assert_captured(script, captures=2, eager=2)


def test_parameters_of_a_network_come_back_to_a_cleared_store():
    def script(make):
        svi = make(network(nn.Linear(3, 1)), no_guide)
        steps(svi, 3)
        pyro.clear_param_store()
        steps(svi, 3)

    ours = assert_as_eager(script)  # captured anew or not: the parameters are the same objects
    assert ours.svi.fallback is None and ours.svi.eager_steps <= 2


def test_store_cleared_again_and_again_is_captured_every_time(few_captures):
    def script(make):
        svi = make(regression())
        for _ in range(4):
            pyro.clear_param_store()
            steps(svi, 3)

    ours = assert_as_eager(script)
    assert ours.svi.fallback is None and ours.traced == 4


def test_parameters_that_only_modules_hold_are_captured():
    class Line(PyroModule):
        def __init__(self):
            super().__init__()
            self.offset = PyroParam(torch.zeros(()))
            self.w = PyroSample(dist.Normal(torch.zeros(3), 1.0).to_event(1))

        def forward(self, x, y):
            pyro.sample("y", dist.Normal(x @ self.w + self.offset, 1.0).to_event(1), obs=y)

    def script(make):
        model = Line()
        guide = AutoNormal(model)
        steps(make(model, guide), 5)
        assert not pyro.get_param_store()
        return [*model.parameters(), *guide.parameters()]

    with pyro.settings.context(module_local_params=True):
        assert_captured(script)


# Arguments


def test_smaller_last_batch_is_captured_once():
    def script(make):
        svi = make(regression())
        for _ in range(3):
            svi.step(X[:5], Y[:5])
            svi.step(X[5:], Y[5:])

    assert_captured(script, captures=2)


def test_other_dtype_is_captured_anew():
    def script(make):
        net = nn.Linear(3, 1)
        svi = make(network(net), no_guide)
        steps(svi, 3)
        net.double()
        steps(svi, 3, X.double(), Y.double())

    # Without moments, which would stay in single precision.
    ours = assert_captured(script, captures=2, optim=sgd)
    assert all(value.dtype is torch.float64 for value in ours.state.values())


def test_arguments_of_every_kind_reach_the_model():
    def model(data, pair, *, shift=None, power=1, name="plain"):
        factor, offset = pair
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        mean = factor * (w @ data["x"].T) ** power + offset
        mean = mean if shift is None else mean + shift
        mean = mean if name == "plain" else mean.tanh()
        pyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=data["y"])

    shift = torch.tensor(0.3)
    kinds = [{"power": 2}, {"power": 3}, {"shift": shift}, {"shift": None, "name": "tanh"}]

    def script(make):
        svi = make(model)
        for factor in (1.0, 2.0, 3.0):
            pair = (torch.tensor(factor), torch.tensor(-factor))
            for kwargs in kinds:
                svi.step({"x": X + factor, "y": Y}, pair, **kwargs)

    assert_captured(script, captures=len(kinds))


def test_step_whose_trace_cannot_run_is_taken_eagerly():
    # oneDNN's LSTM hands its backward pass a workspace that is no tensor of the trace.
    def script(make):
        pyro.set_rng_seed(0)
        net = nn.LSTM(3, 4, batch_first=True)

        def model(x, y):
            pyro.module("net", net)
            pyro.sample("y", dist.Normal(net(x)[0].sum((1, 2)), 1.0).to_event(1), obs=y)

        steps(make(model, lambda x, y: None), 4, X.unsqueeze(1), Y)

    ours = assert_as_eager(script)
    if ours.svi.fallback:
        assert_fell_back(ours, "cannot run from its trace")


def test_argument_that_requires_grad_gets_its_gradient():
    def script(make):
        svi = make(regression())
        steps(svi, 3)
        x = X.clone().requires_grad_()
        svi.step(x, Y)
        steps(svi, 2)
        return [x.grad]

    assert_captured(script, eager=2)


def test_tensor_given_twice_may_be_two_tensors_in_the_next_step():
    def script(make):
        svi = make(lambda x, z: regression()(x, z.sum(-1)))
        steps(svi, 3, X, X)
        steps(svi, 3, X, 2 * X + 1)

    assert assert_as_eager(script).svi.fallback is None


def test_argument_that_the_model_also_holds_is_not_mistaken_for_it():
    def script(make):
        held = X.clone()
        svi = make(lambda x: regression()(x, held.sum(-1)))
        steps(svi, 3, held)
        steps(svi, 3, 2 * X + 1)

    assert assert_as_eager(script).svi.fallback is None


@pytest.mark.parametrize("kept", [[6, 6, 3, 3], [6, 6, 6, 6, 6, 3]])
def test_shapes_that_follow_from_values_are_not_fixed(kept):
    def model(x, y, mask):
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.factor("fit", -((w @ x.T - y)[mask] ** 2).mean())

    def script(make):
        svi = make(model)
        for count in kept:
            svi.step(X, Y, torch.arange(8) < count)

    assert_as_eager(script)


def test_parameters_that_only_some_arguments_use_are_trained():
    def guided(x, y, shifted):
        shift = pyro.param("shift", torch.ones(3)) if shifted else 0.0
        loc = pyro.param("loc", torch.zeros(3))
        pyro.sample("w", dist.Normal(loc + shift, 0.3).to_event(1))

    def script(make):
        svi = make(lambda x, y, shifted: regression()(x, y), guided)
        for shifted in (True, True, True, False, True, True, True):
            svi.step(X, Y, shifted)

    assert_captured(script, captures=2)


# Gradients


@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_of_several_batches_add_up(to_none):
    def train(captured: bool) -> list[Tensor]:
        torch.manual_seed(0)
        net = nn.Linear(3, 1)
        model, elbo = network(net), Trace_ELBO()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        svi = CapturedSVI(model, no_guide, optimizer, elbo)
        sums = []
        for _ in range(3):
            for index in (slice(0, 4), slice(4, 8)):
                if captured:
                    svi.backward(X[index], Y[index])
                else:
                    elbo.loss_and_grads(model, no_guide, X[index], Y[index])
            sums += [parameter.grad.clone() for parameter in net.parameters()]
            optimizer.step()
            optimizer.zero_grad(set_to_none=to_none)
        assert svi.fallback is None and svi.eager_steps == int(captured)
        return [*sums, *net.parameters()]

    for ours, eager in zip(train(True), train(False), strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("clip", [{"clip_norm": 0.5}, {"clip_value": 0.2}])
def test_gradients_are_clipped_as_the_optimizer_says(clip):
    def script(make):
        steps(make(regression()), 5)

    assert_captured(script, optim=lambda: pyro.optim.SGD({"lr": 0.1}, clip))


def test_gradients_share_memory_with_nothing():
    def loss(model, guide):
        a, b, c, d, e = (pyro.param(name, lambda: torch.rand(3) + 1) for name in "abcde")
        # Gradients: the same ones twice, each other's parameter twice, and the parameter itself.
        return (a + b).sum() + (c * d).sum() + 0.5 * (e * e).sum()

    svi = CapturedSVI(no_guide, no_guide, adam(), loss)
    svi.step()
    svi.step()
    svi.backward()
    assert svi.fallback is None and svi.eager_steps == 1
    a, b, c, d, e = svi.parameters.values()
    tensors = [a, b, c, d, e, *(one.grad for one in (a, b, c, d, e))]
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == len(tensors)
    one = torch.ones(3)
    for parameter, gradient in zip((a, b, c, d, e), (one, one, d, c, e), strict=True):
        torch.testing.assert_close(parameter.grad, gradient.detach())


class Transposed(nn.Module):
    """Its parameter lies in memory by columns, where the gradient comes by rows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 3).t())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.contiguous()


def test_gradients_are_laid_out_as_their_parameters():
    layers = nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 3), Transposed()
    net = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    targets = ps.weights(net, (nn.Conv2d, nn.Linear))
    bnn = ps.lift(net, ps.Gaussian(), targets)  # pyro.module would train contiguous copies
    svi = CapturedSVI(ps.classifier(bnn, 8), bnn.guide, adam(), Trace_ELBO())
    x, y = torch.randn(8, 3, 4, 4), (Y > 0).long()
    steps(svi, 2, x, y)
    svi.backward(x, y)
    assert svi.fallback is None and svi.eager_steps == 1
    parameters = svi.parameters.values()
    assert sum(not parameter.is_contiguous() for parameter in parameters) == 2
    assert all(parameter.grad.stride() == parameter.stride() for parameter in parameters)


@pytest.mark.parametrize(
    "elbo",
    [
        lambda: Trace_ELBO(num_particles=3),
        lambda: Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=0),
        lambda: TraceMeanField_ELBO(num_particles=2),
    ],
    ids=["loop", "vectorized", "mean-field"],
)
def test_several_particles(elbo):
    def script(make):
        steps(make(regression()), 5)

    assert_captured(script, elbo=elbo)


def test_frozen_parameter_stays_and_moves_again():
    def script(make):
        svi = make(regression())
        steps(svi, 3)
        loc = pyro.get_param_store()["loc"].unconstrained()
        loc.requires_grad_(False)
        before = loc.clone()
        steps(svi, 3)
        assert torch.equal(loc, before)
        loc.requires_grad_(True)
        steps(svi, 2)

    # Without moments: SVI moves a frozen parameter on along those of before.
    ours = assert_as_eager(script, optim=sgd)
    assert ours.svi.fallback is None and ours.svi.eager_steps == 1


def test_parameters_frozen_in_turn_are_not_captured_for_ever(few_captures):
    def script(make):
        svi = make(regression())
        svi.step(X, Y)
        parameters = [one for _, one in pyro.get_param_store().named_parameters()]
        for step in range(7):
            for index, parameter in enumerate(parameters):
                parameter.requires_grad_(step % 2 == index)
            svi.step(X, Y)

    assert assert_as_eager(script, optim=sgd).traced <= FEW


def test_parameter_without_a_gradient_has_none_and_stays():
    def guided(x, y):
        pyro.param("unused", torch.ones(2))
        guide()

    def script(make):
        svi = make(regression(), guided)
        steps(svi, 4)
        if isinstance(svi, CapturedSVI):
            svi.backward(X, Y)
            assert svi.parameters["unused"].grad is None

    ours = assert_captured(script)
    assert torch.equal(ours.state["unused"], torch.ones(2))


@pytest.mark.parametrize("optim", [sgd, adam])
def test_parameter_that_a_step_does_not_reach_moves_as_with_svi(optim):
    def script(make):
        one, other = nn.Linear(3, 1), nn.Linear(3, 1)

        def model(x, y, first):
            pyro.module("one", one)
            pyro.module("other", other)
            network(one if first else other)(x, y)

        svi = make(model, no_guide)
        for step in range(8):
            svi.step(X, Y, step % 4 < 2)

    assert_captured(script, captures=2, optim=optim)


# Optimizers


def described(optim: PyroOptim) -> list[Tensor]:
    """All numbers of an optimizer's state, in the order of the parameters' names."""
    state = optim.get_state()
    leaves = tree_leaves([state[name] for name in sorted(state)])
    return [torch.as_tensor(leaf) for leaf in leaves if isinstance(leaf, Tensor | float)]


def rate_by_name(name: str) -> dict[str, float]:
    return {"lr": 0.1 if name == "loc" else 0.01}


def exponential() -> PyroOptim:
    options = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "gamma": 0.5}
    return pyro.optim.ExponentialLR(options)


OPTIMIZERS = {
    "adam": adam,
    "adam-by-name": lambda: pyro.optim.Adam(rate_by_name),
    "adamw": lambda: pyro.optim.AdamW({"lr": 0.05, "weight_decay": 0.1}),
    "momentum": lambda: pyro.optim.SGD({"lr": 0.01, "momentum": 0.9}),
    "adagrad": lambda: pyro.optim.Adagrad({"lr": 0.1}),
    "rmsprop": lambda: pyro.optim.RMSprop({"lr": 0.01}),
    "clipped-adam": lambda: pyro.optim.ClippedAdam({"lr": 0.05, "clip_norm": 1.0, "lrd": 0.9}),
    "exponential": exponential,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_of_pyro_moves_parameters_and_its_state(name):
    def script(make):
        svi = make(regression())
        for _ in range(3):
            steps(svi, 2)
            if name == "exponential":
                svi.optim.step()
        return described(svi.optim)

    assert_captured(script, optim=OPTIMIZERS[name])


@pytest.mark.parametrize("file", [False, True])
def test_training_resumes_from_the_state_of_optimizer_and_store(tmp_path, file):
    def script(make):
        svi = make(regression())
        steps(svi, 4)
        store = pyro.get_param_store()
        if file:
            svi.optim.save(tmp_path / "optim")
            store.save(tmp_path / "store")
        moments, parameters = copy.deepcopy(svi.optim.get_state()), state_of_store()
        pyro.clear_param_store()
        svi = make(regression())
        if file:
            svi.optim.load(tmp_path / "optim")
            store.load(tmp_path / "store")
        else:
            svi.optim.set_state(moments)
            store.set_state(parameters)
        steps(svi, 4)
        return described(svi.optim)

    assert_captured(script, captures=2)


def adam_of(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), lr=0.05)


def adam_by_function(parameters: dict[str, Tensor]) -> torch.optim.Optimizer:
    assert list(parameters) == ["net$$$weight", "net$$$bias"]
    return torch.optim.Adam(parameters.values(), lr=0.05)


@pytest.mark.parametrize("by_function", [False, True])
def test_optimizer_of_torch_moves_parameters_as_pyros(by_function):
    def script(make):
        net = nn.Linear(3, 1)
        torchs = (lambda: adam_by_function) if by_function else (lambda: adam_of(net))
        svi = make(network(net), no_guide, torchs if kind is CapturedSVI else adam)
        steps(svi, 5)

    runs = []
    for kind in (CapturedSVI, SVI):
        runs.append(run(kind, script))
    ours, eager = runs
    assert ours.svi.fallback is None and ours.svi.eager_steps == 1
    assert ours.losses == pytest.approx(eager.losses, rel=1e-6)
    for name, value in eager.state.items():
        torch.testing.assert_close(ours.state[name], value, rtol=1e-5, atol=1e-5)


def test_rates_changed_in_the_optimizers_count():
    def script(make):
        svi = make(regression())
        steps(svi, 3)
        for optimizer in svi.optim.optim_objs.values():
            optimizer.param_groups[0]["lr"] = 0.5
        steps(svi, 3)

    assert_captured(script)


def test_optimizer_put_in_place_of_another_takes_over():
    def script(make):
        svi = make(regression())
        steps(svi, 3)
        svi.optim = pyro.optim.Adam({"lr": 0.5})
        steps(svi, 3)

    assert_captured(script)


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(TypeError, match=r"PyroOptim, a torch optimizer, or a function.*got dict"):
        CapturedSVI(regression(), guide, {"lr": 0.1}, Trace_ELBO())
    svi = CapturedSVI(regression(), guide, lambda parameters: None, Trace_ELBO())
    with pytest.raises(TypeError, match="optim returned NoneType"):
        svi.step(X, Y)


def test_parameter_that_comes_later_needs_an_optimizer_of_pyro():
    def guided(x, y, shifted):
        guide()
        if shifted:
            pyro.param("shift", torch.ones(3))

    def make(optim):
        pyro.clear_param_store()
        return CapturedSVI(lambda x, y, shifted: regression()(x, y), guided, optim, Trace_ELBO())

    svi = make(lambda parameters: torch.optim.Adam(parameters.values()))
    steps(svi, 3, X, Y, False)
    with pytest.raises(ValueError, match=r"parameters that did not exist.*use a PyroOptim"):
        svi.step(X, Y, True)
    svi = make(adam())
    steps(svi, 3, X, Y, False)
    steps(svi, 3, X, Y, True)
    assert svi.fallback is None and "shift" in svi.parameters


# Losses


def test_loss_of_a_users_own_is_captured():
    def loss(model, guide, *args):
        guide_trace = poutine.trace(guide).get_trace(*args)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args)
        return guide_trace.log_prob_sum() - model_trace.log_prob_sum()

    def script(make):
        steps(make(regression()), 5)

    assert_captured(script, elbo=lambda: loss)


@pytest.mark.parametrize(
    "elbo",
    [
        TraceGraph_ELBO,
        functools.partial(RenyiELBO, num_particles=2),
        functools.partial(ReweightedWakeSleep, num_particles=2, max_plate_nesting=0),
    ],
    ids=["graph", "renyi", "wake-sleep"],
)
def test_losses_that_cannot_be_differentiated_run_eagerly(elbo):
    def script(make):
        steps(make(regression()), 4)

    name = type(elbo()).__name__
    assert_falls_back(script, f"{name} has no differentiable loss", elbo=elbo)


def test_optimizer_that_reads_subsamples_runs_eagerly():
    def script(make):
        steps(make(regression()), 4)

    assert_falls_back(script, "DCTAdam", optim=lambda: pyro.optim.DCTAdam({"lr": 0.05}))


def test_branch_on_a_value_runs_eagerly():
    def script(make):
        flag = torch.tensor(1.0)
        steps(make(regression(lambda: 2.0 if flag > 0 else 1.0)), 4)

    assert_falls_back(script, "reads a tensor's value in Python")


def test_error_of_the_model_is_the_callers_to_see():
    def script(make):
        svi = make(regression())
        steps(svi, 3)
        with pytest.raises(RuntimeError, match=r"size mismatch|cannot be multiplied"):
            svi.step(X[:, :2], Y)
        torch.manual_seed(1)  # how much was drawn before the error is nobody's business
        steps(svi, 3)

    assert_captured(script)


# Side effects


def effect_on_list() -> Callable[[], Any]:
    noted: list[int] = []
    return lambda: noted.append(1)


def effect_on_dict() -> Callable[[], Any]:
    noted = {"count": 0}
    return lambda: noted.update(count=noted["count"] + 1)


def effect_on_attribute() -> Callable[[], Any]:
    noted = Plain()
    noted.last = torch.zeros(())  # type: ignore[attr-defined]
    return lambda: setattr(noted, "last", noted.last + 1)  # type: ignore[attr-defined]


def effect_on_closure() -> Callable[[], Any]:
    noted = 0

    def count() -> None:
        nonlocal noted
        noted += 1

    return count


EFFECTS = [effect_on_list, effect_on_dict, effect_on_attribute, effect_on_closure]


@pytest.mark.parametrize("make_effect", EFFECTS)
def test_side_effects_in_python_run_eagerly(make_effect):
    def script(make):
        effect = make_effect()

        def slope():
            effect()
            return 1.0

        steps(make(regression(slope)), 4)

    assert_falls_back(script, "changes what it reads in Python", "noted")


def test_handler_that_records_sees_the_sites():
    def script(make):
        svi = make(regression())
        steps(svi, 3)
        # Parameters alone: model and guide have both a site "w".
        with poutine.trace(param_only=True) as recorded:
            svi.step(X, Y)
        assert recorded.trace.nodes.keys() == {"loc", "scale"}
        steps(svi, 3)

    assert_captured(script, eager=2)


# What steps return


def test_evaluation_is_that_of_svi():
    svi = CapturedSVI(regression(), guide, adam(), Trace_ELBO())
    steps(svi, 4)
    torch.manual_seed(1)
    loss = svi.evaluate_loss(X, Y)
    torch.manual_seed(1)
    assert loss == SVI(regression(), guide, adam(), Trace_ELBO()).evaluate_loss(X, Y)


def test_steps_return_numbers():
    svi = CapturedSVI(regression(), guide, adam(), Trace_ELBO())
    assert [type(svi.step(X, Y)) for _ in range(4)] == [float] * 4
    assert svi.eager_steps == 1
    assert type(svi.evaluate_loss(X, Y)) is float


def test_loss_that_is_not_a_number_is_warned_about():
    slope = torch.tensor(1.0)
    svi = CapturedSVI(regression(lambda: slope), guide, adam(), Trace_ELBO())
    steps(svi, 4)
    slope.fill_(math.nan)
    with pytest.warns(UserWarning, match="Encountered NaN: loss"):
        assert math.isnan(svi.step(X, Y))
    assert svi.eager_steps == 1


# Capturing beforehand, and another random stream


def test_capture_beforehand_changes_nothing_but_that_no_step_is_eager():
    def script(make):
        net = nn.Sequential(batch_norm(), nn.Dropout(0.5))
        svi = make(network(net), no_guide)
        state, values = torch.get_rng_state(), copy.deepcopy(net.state_dict())
        if isinstance(svi, CapturedSVI):
            assert svi.capture(X, Y)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(one, values[name]) for name, one in net.state_dict().items())
        assert all(parameter.grad is None for parameter in net.parameters())
        steps(svi, 4)
        return net.buffers()

    assert_captured(script, eager=0)


def test_capture_beforehand_says_whether_it_succeeded():
    svi = CapturedSVI(regression(np.random.normal), guide, adam(), Trace_ELBO())
    with pytest.warns(UserWarning, match="numpy"):
        assert not svi.capture(X, Y)


def test_draws_that_nothing_reads_are_left_out_and_the_law_stays():
    # With noise at the activations the weights that the guide draws are not read.
    method = ps.Gaussian(posterior="normal", estimator="activations", initial_scale=0.5)
    bnn = ps.lift(nn.Linear(3, 2), method)
    model, elbo, y = ps.classifier(bnn, 8), TraceMeanField_ELBO(), (Y > 0).long()

    def captured(**options: Any) -> CapturedSVI:
        made = CapturedSVI(model, bnn.guide, adam(), elbo, **options)
        assert made.capture(X, y)
        return made

    svi = captured(same_random_stream=False)

    def draw(backward: Callable[[], Any]) -> Tensor:
        """A loss, and what summarises its gradients."""
        loss = float(backward())
        gradients = [parameter.grad for parameter in svi.parameters.values()]
        for parameter in svi.parameters.values():
            parameter.grad = None
        return torch.tensor([loss, *(float(one.sum()) for one in gradients)], dtype=torch.float64)

    ours = torch.stack([draw(lambda: svi.backward(X, y)) for _ in range(250)])
    eager = torch.stack(
        [draw(lambda: elbo.loss_and_grads(model, bnn.guide, X, y)) for _ in range(250)]
    )
    assert svi.fallback is None and svi.eager_steps == 0
    error = ((ours.var(0) + eager.var(0)) / 250).sqrt()
    assert (ours.std(0) > 0).any()
    assert ((ours.mean(0) - eager.mean(0)).abs() <= 4 * error + 1e-6).all()
    assert operations(svi) < operations(captured())


def operations(svi: CapturedSVI) -> int:
    return int(svi.explain().split("operations: ")[1].split(",")[0])


# Checks


def test_value_hidden_from_the_guards_is_noticed_in_time(monkeypatch, tmp_path):
    monkeypatch.setattr(gradients, "CHECK_EVERY", 5)
    hidden = tmp_path / "slope"
    hidden.write_text("1.0")
    svi = CapturedSVI(regression(lambda: float(hidden.read_text())), guide, adam(), Trace_ELBO())
    steps(svi, 7)
    assert svi.fallback is None
    hidden.write_text("2.0")
    with pytest.warns(UserWarning, match="differs from the eager one in the loss") as caught:
        steps(svi, 10)
    assert len(caught) == 1
    eager = svi.eager_steps
    torch.manual_seed(1)
    expected = svi.evaluate_loss(X, Y)
    torch.manual_seed(1)
    assert svi.step(X, Y) == pytest.approx(expected, rel=1e-6)
    assert svi.eager_steps == eager + 1 > 1 + 5


def test_value_hidden_from_the_guards_at_the_second_batch_changes_no_result(tmp_path):
    def script(make):
        hidden = tmp_path / "slope"
        hidden.write_text("1.0")
        svi = make(regression(lambda: float(hidden.read_text())))
        steps(svi, 2)
        hidden.write_text("2.0")
        steps(svi, 3)

    assert_fell_back(assert_as_eager(script), "differs from the eager one")


def test_checks_change_no_result(monkeypatch):
    def script(make):
        net = nn.Sequential(batch_norm(), nn.Linear(1, 3), nn.Dropout(0.5), nn.Linear(3, 1))
        steps(make(network(net), no_guide), 14)
        return net.buffers()

    runs = []
    for every in (3, 1000):
        monkeypatch.setattr(gradients, "CHECK_EVERY", every)
        runs.append(run(CapturedSVI, script))
    often, seldom = runs
    assert "compared with the eager step 6 times" in often.svi.explain()
    assert "compared with the eager step 2 times" in seldom.svi.explain()
    assert often.losses == seldom.losses
    assert all(torch.equal(value, seldom.state[name]) for name, value in often.state.items())


# Explanations


def test_explanation_says_what_was_captured_and_how_often_it_ran():
    svi = CapturedSVI(regression(), guide, adam(), Trace_ELBO())
    assert svi.explain() == (
        "Nothing is captured yet; the second step on arguments of a kind is.\n0 steps ran eagerly."
    )
    steps(svi, 4)
    text = svi.explain()
    assert "Captured for (float32 (8, 3) on cpu, float32 (8,) on cpu); ran 3 times" in text
    assert "parameters: loc, scale" in text
    assert "1 steps ran eagerly" in text
    steps(svi, 2, X[:4], Y[:4])
    assert "float32 (4, 3) on cpu" in svi.explain()


def test_explanation_of_eager_steps_says_why():
    svi = CapturedSVI(regression(np.random.normal), guide, adam(), Trace_ELBO())
    with pytest.warns(UserWarning, match="numpy"):
        steps(svi, 3)
    text = svi.explain()
    assert svi.fallback in text and "3 steps ran eagerly" in text


# In fit


@pytest.mark.parametrize(
    "options",
    [{"kl_warmup": 2}, {"clip_norm": 0.5, "schedule": schedules.cosine()}],
    ids=["kl_warmup", "clip_norm-and-schedule"],
)
def test_fit_is_the_same_with_and_without_capture(options):
    def fit(capture: bool) -> ps.infer.Fit:
        torch.manual_seed(0)
        bnn = ps.lift(mlp(), ps.Gaussian(posterior="normal", initial_scale=0.1))
        common = {"epochs": 3, "batch_size": 8, "learning_rate": 0.02, "progress": False}
        model, data = ps.classifier(bnn, 20), batch("mlp", 20)
        return ps.fit(model, bnn.guide, data, capture=capture, **common, **options)

    captured, eager = fit(True), fit(False)
    assert captured.svi is not None and eager.svi is None
    assert captured.svi.fallback is None and captured.svi.eager_steps == 0
    for ours, theirs in zip(captured.history, eager.history, strict=True):
        assert ours | {"seconds": 0} == pytest.approx(theirs | {"seconds": 0}, rel=1e-5)
    for name, parameter in eager.parameters.items():
        torch.testing.assert_close(captured.parameters[name], parameter, rtol=1e-5, atol=1e-5)
