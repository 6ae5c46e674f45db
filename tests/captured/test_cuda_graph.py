"""Captured steps as CUDA graphs: on a GPU where there is one, and emulated on the CPU."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.fx import Graph

import pyrosparse as ps
from pyrosparse.captured import CapturedSVI, compilation, cuda_graph
from pyrosparse.captured.cuda_graph import FixedInputs
from pyrosparse.captured.graph import StepGraph, _as_function
from tests.captured.emulated_cuda_graph import EmulatedRecorder
from tests.captured.foreign_models import BUILDERS
from tests.captured.test_captured_foreign_models import NOT_CAPTURED

GRAPHS = compilation.CUDA_GRAPH


@pytest.fixture(params=["emulated", "cuda"])
def device(request, monkeypatch) -> torch.device:
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no GPU")
        return torch.device("cuda", 0)
    emulate(monkeypatch)
    return torch.device("cpu")


def emulate(monkeypatch) -> None:
    monkeypatch.setattr(compilation, "_has_graphs", lambda device: True)
    monkeypatch.setattr(compilation, "CudaRecorder", EmulatedRecorder)
    # Inductor's kernels are no operations that the emulation could see.
    monkeypatch.setattr(compilation, "compiled", lambda graph, inputs: _as_function(graph))
    monkeypatch.setattr(EmulatedRecorder, "recorded", 0)
    monkeypatch.setattr(EmulatedRecorder, "replayed", 0)
    monkeypatch.setattr(EmulatedRecorder, "numbers_on_host", [])


@dataclass(frozen=True)
class Problem:
    """What an SVI needs, its batches, and the modules whose buffers training changes."""

    model: Callable
    guide: Callable
    batches: list[tuple]
    modules: tuple[nn.Module, ...] = ()
    elbo: Callable = TraceMeanField_ELBO


def images(device: torch.device, n: int = 20) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, 1, 6, 6, generator=generator)
    return x.to(device), torch.randint(3, (n,), generator=generator).to(device)


def lifted(method: ps.Method) -> Callable[[torch.device], Problem]:
    def make(device: torch.device) -> Problem:
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 3),
        )
        bnn = ps.lift(net.to(device), method).to(device)
        batches = [images(device, 20), images(device, 20), images(device, 7)]
        return Problem(ps.classifier(bnn, 47), bnn.guide, batches, (net,))

    return make


def regression(device: torch.device) -> Problem:
    def model(x, y):
        slope = pyro.sample("slope", dist.Normal(torch.zeros((), device=device), 10.0))
        scale = pyro.sample("scale", dist.LogNormal(torch.zeros((), device=device), 1.0))
        with pyro.plate("data", len(x), subsample_size=6, device=device) as index:
            pyro.sample("y", dist.Normal(slope * x[index], scale), obs=y[index])

    x = torch.linspace(-1, 1, 40, device=device)
    return Problem(model, AutoNormal(model), [(x, 3 * x)], elbo=Trace_ELBO)


PROBLEMS = {
    "point": lifted(ps.Gaussian()),
    "weights": lifted(ps.Gaussian(posterior="normal")),
    "activations": lifted(ps.Gaussian(posterior="normal", estimator="activations")),
    "gates": lifted(ps.BetaBernoulli()),
    "support": lifted(ps.GammaSpikeAndSlab()),
    "masks": lifted(ps.GibbsPruning()),
    "regression": regression,
}


def train(
    problem: Problem, steps: int = 30, kind: Callable = CapturedSVI, **options
) -> tuple[CapturedSVI, list[float], dict]:
    pyro.set_rng_seed(1)
    svi = kind(problem.model, problem.guide, Adam({"lr": 0.01}), problem.elbo(), **options)
    losses = [svi.step(*batch) for batch in islice(cycle(problem.batches), steps)]
    state = dict(pyro.get_param_store().named_parameters())
    for module in problem.modules:
        state |= dict(module.named_buffers())
    return svi, losses, {name: tensor.detach().clone() for name, tensor in state.items()}


def build(name: str, device: torch.device) -> Problem:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    return PROBLEMS[name](device)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of what inductor imports
@pytest.mark.parametrize("name", PROBLEMS)
def test_replayed_steps_train_as_others_do(name, device):
    _, expected, state = train(build(name, device))
    svi, losses, found = train(build(name, device), compile=True)
    assert svi.explain().count(GRAPHS) == len(svi.captured)
    assert losses == pytest.approx(expected, rel=1e-5)
    for key, value in state.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", [name for name in BUILDERS if name not in NOT_CAPTURED])
def test_replayed_steps_train_foreign_models(name, monkeypatch):
    emulate(monkeypatch)

    def run(**options):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        made = BUILDERS[name]()
        problem = Problem(made.model, made.guide, made.batches, made.modules, lambda: made.elbo)
        return train(problem, **options)

    (svi, losses, found), (_, expected, state) = run(compile=True), run(kind=SVI)
    assert losses == pytest.approx(expected, rel=1e-4)
    assert svi.explain().count(GRAPHS) == len(svi.captured)
    assert EmulatedRecorder.replayed >= 20
    for key, value in state.items():
        torch.testing.assert_close(found[key], value, rtol=1e-2, atol=1e-3, msg=key)


def tempered(temperature: Tensor, device: torch.device) -> Problem:
    def model(x):
        loc = pyro.sample("loc", dist.Normal(torch.zeros((), device=device), 10.0))
        scale = torch.ones((), device=device) * temperature
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, scale), obs=x)

    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    return Problem(model, AutoNormal(model), [(torch.linspace(0, 1, 9, device=device),)])


def test_a_number_on_the_host_that_changes_in_place_is_seen(device, monkeypatch):
    def losses(**options) -> list[float]:
        temperature = torch.tensor(1.0)
        if device.type == "cpu":
            monkeypatch.setattr(EmulatedRecorder, "numbers_on_host", [temperature])
            is_number = lambda tensor, _: tensor is temperature  # noqa: E731
            monkeypatch.setattr(cuda_graph, "_is_number_on_host", is_number)
        problem = tempered(temperature, device)
        optim = Adam({"lr": 0.01})
        svi = CapturedSVI(problem.model, problem.guide, optim, Trace_ELBO(), **options)
        found = []
        for step in range(20):
            temperature.fill_(1.0 / (1 + step))
            found.append(svi.step(*problem.batches[0]))
        assert (GRAPHS in svi.explain()) == bool(options)
        return found

    assert losses(compile=True) == pytest.approx(losses(), rel=1e-5)


def test_the_emulation_shows_what_a_graph_would_get_wrong(monkeypatch):
    """A number that is left on the host, and arguments at other addresses."""
    number, x = torch.tensor(2.0), torch.ones(3)
    monkeypatch.setattr(EmulatedRecorder, "numbers_on_host", [number])
    results, replay = EmulatedRecorder(x.device)(
        lambda inputs: [inputs[0] * inputs[1]], [number, x]
    )
    assert results[0].isnan().all(), "recording computes nothing"
    number.fill_(5.0)
    replay()
    assert results[0].tolist() == [2.0] * 3
    x.fill_(7.0)
    replay()
    assert results[0].tolist() == [14.0] * 3


def test_gradients_of_one_replay_outlast_the_next(device):
    problem = build("weights", device)
    pyro.set_rng_seed(1)
    svi = CapturedSVI(
        problem.model, problem.guide, Adam({"lr": 0.01}), TraceMeanField_ELBO(), compile=True
    )
    batch = problem.batches[0]
    svi.capture(*batch)
    svi.backward(*batch)  # compared with the eager step once more
    svi.backward(*batch)
    kept = {name: one.grad for name, one in svi.parameters.items()}
    values = {name: one.clone() for name, one in kept.items()}
    for parameter in svi.parameters.values():
        parameter.grad = None
    svi.backward(*batch)
    for name, gradient in kept.items():
        assert torch.equal(gradient, values[name]), name
        assert not torch.equal(gradient, svi.parameters[name].grad), name


def test_a_parameter_given_other_memory_is_recorded_anew(device):
    problem = build("point", device)
    options = {"compile": True}
    svi, *_ = train(problem, 8, **options)
    before = EmulatedRecorder.recorded
    batch = problem.batches[0]
    with torch.no_grad():
        for parameter in svi.parameters.values():
            parameter.data = parameter.data.clone().mul_(0.5)
    torch.manual_seed(3)
    loss = svi.evaluate_loss(*batch)
    torch.manual_seed(3)
    assert svi.step(*batch) == pytest.approx(loss, rel=1e-5)
    assert device.type == "cuda" or EmulatedRecorder.recorded == before + 1


@pytest.mark.parametrize("fault", ["raises", "wrong", "wrong later"])
def test_what_cannot_be_replayed_runs_without_and_says_so(fault, monkeypatch):
    emulate(monkeypatch)
    made_wrong = False

    class Broken(EmulatedRecorder):
        def __call__(self, run, inputs):
            if fault == "raises":
                raise RuntimeError("operation not permitted when stream is capturing")
            results, replay = super().__call__(run, inputs)

            def spoiled():
                replay()
                if fault == "wrong" or made_wrong:
                    results[0].mul_(1.01)

            return results, spoiled

    monkeypatch.setattr(compilation, "CudaRecorder", Broken)
    problem = build("weights", torch.device("cpu"))
    reason = "RuntimeError: operation not permitted" if fault == "raises" else "differs in the loss"
    if fault == "wrong later":
        monkeypatch.setattr("pyrosparse.captured.gradients.CHECK_EVERY", 10)
        svi, *_ = train(problem, 6, compile=True)
        made_wrong = True
        with pytest.warns(UserWarning, match=reason) as caught:
            for _ in range(10):
                svi.step(*problem.batches[0])
    else:
        with pytest.warns(UserWarning, match=reason) as caught:
            svi, *_ = train(problem, compile=True)
    assert [str(one.filename) for one in caught] == [__file__]
    assert "runs without being" in str(caught[0].message) and GRAPHS in str(caught[0].message)
    assert svi.fallback is None
    assert GRAPHS not in svi.explain().split("\n\n")[0]


# What is refused, on tensors that only pretend to lie on a GPU.

GPU = torch.device("cuda", 0)


def graph_of(target: Callable, *, kwargs: dict | None = None, write: bool = False) -> StepGraph:
    """A step that takes a parameter and an argument."""
    graph = Graph()
    parameter, argument = graph.placeholder("parameter"), graph.placeholder("argument")
    if write:
        graph.call_function(torch.ops.aten.add_.Tensor, (argument, 1.0))
    arguments = (parameter, argument) if kwargs is None else ((3,),)
    graph.output((graph.call_function(target, arguments, kwargs or {}),))
    return StepGraph(graph, [], [], 1)


REFUSED = {
    "work on the host": (
        graph_of(torch.ops.aten.rand.default, kwargs={"device": torch.device("cpu")}),
        {},
        r"works on cpu \(aten.rand.default\)",
    ),
    "a tensor on the host": (
        graph_of(torch.ops.aten.add.Tensor),
        {"parameter": "cpu"},
        r"reads a tensor \(3,\) on cpu",
    ),
    "another GPU": (
        graph_of(torch.ops.aten.add.Tensor),
        {"parameter": "cuda:1"},
        r"reads a tensor \(3,\) on cuda:1",
    ),
    "an argument that is written to": (
        graph_of(torch.ops.aten.add.Tensor, write=True),
        {},
        "writes to its arguments",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_graph_cannot_hold_is_refused(case):
    step, devices, reason = REFUSED[case]
    with FakeTensorMode():
        inputs = [
            torch.empty(3, device=devices.get(name, GPU)) for name in ("parameter", "argument")
        ]
        with pytest.raises(ValueError, match=reason):
            FixedInputs(step, inputs, [1], GPU)


def test_an_expanded_argument_is_refused():
    step = graph_of(torch.ops.aten.add.Tensor)
    with FakeTensorMode():
        inputs = [torch.empty(3, device=GPU), torch.empty(1, device=GPU).expand(3)]
        with pytest.raises(ValueError, match=r"an argument \(3,\) is expanded"):
            FixedInputs(step, inputs, [1], GPU)


def test_arguments_and_numbers_of_the_host_get_memory_on_the_gpu():
    step = graph_of(torch.ops.aten.add.Tensor)
    with FakeTensorMode():
        inputs = [torch.empty((), device="cpu"), torch.empty(4, 3, device="cpu").T]
        fixed = FixedInputs(step, inputs, [1], GPU)
    assert [one.device for one in fixed.tensors] == [GPU, GPU]
    assert fixed.tensors[1].stride() == (1, 3)
    assert fixed.addresses() == []


def test_a_constant_on_the_host_is_copied_once(monkeypatch):
    monkeypatch.setattr(cuda_graph, "_is_number_on_host", lambda tensor, _: tensor.dim() == 0)
    constant, cpu = torch.tensor(2.0), torch.device("cpu")
    step = dataclasses.replace(graph_of(torch.ops.aten.mul.Tensor), constants=[constant])
    fixed = FixedInputs(step, [torch.ones(3), constant], [], cpu)
    assert fixed.tensors[1] is not constant and fixed.tensors[1] == 2.0
    fixed.fill([torch.ones(3), torch.tensor(5.0)])
    assert fixed.tensors[1] == 2.0
