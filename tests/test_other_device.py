"""What the package does on the CPU it does on another device, with the same results."""

import copy
import inspect
import multiprocessing
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pyro
import pytest
import torch
from pyro.infer import Predictive, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import pyrosparse as ps
from pyrosparse import bench, recipes
from pyrosparse.captured import gradients
from pyrosparse.distributions import (
    BipartiteGibbsMask,
    GibbsMask,
    GridSupport,
    IsingMask,
    TreeSupport,
)
from pyrosparse.infer import schedules
from pyrosparse.measure import active_features
from pyrosparse.prune import (
    Annealing,
    BayesFactorPruner,
    Pruner,
    ReductionPruner,
    TurboPruner,
    TurboVBI,
)
from pyrosparse.recipes.setup import Setup
from pyrosparse.reports import folder as run_folder
from pyrosparse.robustness import adversarial_fine_tune, fgsm
from pyrosparse.supports import Chain, Grid, Tree, UnitFactor
from tests.other_device import OTHER, available, other_device, register
from tests.short import short_runs

pytestmark = pytest.mark.skipif(not available(), reason="this torch has no devices in Python")

N = 20
Problem = tuple[nn.Module, ps.Lifted, Any, tuple[Tensor, Tensor]]


METHODS: dict[str, Callable[[], ps.Method]] = {
    "point": ps.Gaussian,
    "weights": lambda: ps.Gaussian(posterior="normal"),
    "activations": lambda: ps.Gaussian(posterior="normal", estimator="activations"),
    "horseshoe": ps.Horseshoe,
    "beta-bernoulli": ps.BetaBernoulli,
    "variational dropout": ps.VariationalDropout,
    "information bottleneck": ps.InformationBottleneck,
    "collapsed": lambda: ps.BetaBernoulli(pi="collapsed"),
    "independent": ps.GammaSpikeAndSlab,
    "grid": lambda: ps.GammaSpikeAndSlab(Grid(row=(0.4, 0.4), column=(0.4, 0.4))),
    "chain": lambda: ps.GammaSpikeAndSlab(Chain((0.4, 0.4))),
    "tree": lambda: ps.GammaSpikeAndSlab(Tree((0.4, 0.4))),
    "curvature": lambda: ps.GammaSpikeAndSlab(likelihood="curvature"),
    "gibbs": ps.GibbsPruning,
    "two-of-four": lambda: ps.GibbsPruning(0.5, "2:4"),
    "targeted-dropout": ps.TargetedDropout,
    "movement": ps.MovementPruning,
    "structured": ps.StructuredBayesianPruning,
    "structured by example": lambda: ps.StructuredBayesianPruning(noise="example"),
    "hard concrete": lambda: ps.HardConcrete(gain="expectation"),
    "generalized": ps.GeneralizedDropout,
    "concrete": ps.ConcreteDropout,
    "laplace": lambda: ps.LaplacePrior(posterior="normal"),
    "polarization": lambda: ps.Polarization(2.0),
    "spike-and-slab": ps.SpikeAndSlab,
    "group-spike-and-slab": ps.GroupSpikeAndSlab,
    "group-horseshoe": lambda: ps.GroupHorseshoe(N),
}


def build(method: ps.Method, place: Callable[[Any], Any]) -> Problem:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    layers = (
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 3),
    )
    net = place(nn.Sequential(*layers))
    x, y = torch.randn(N, 1, 6, 6), torch.randint(3, (N,))
    bnn = ps.lift(net, method)
    return net, bnn, ps.classifier(bnn, N), (place(x), place(y))


def there(thing: Any) -> Any:
    return thing.to(OTHER)


def train(problem: Problem, **options: Any) -> list[float]:
    _, bnn, model, data = problem
    fixed = {"epochs": 2, "batch_size": 10, "capture": False, "progress": False}
    run = ps.fit(model, bnn.guide, data, **{**fixed, **options})
    return [entry["loss"] for entry in run.history]


def posterior(problem: Problem) -> Any:
    """All that a trained network says of itself, and what is left of it."""
    net, bnn, _, (x, _) = problem
    masks = bnn.masks()
    bnn.freeze(masks)
    losses = train(problem, epochs=1)
    try:
        compact = ps.compact(net, bnn.masks(), x[:1])(x)
    except ValueError as error:  # nothing is left of a layer
        compact = str(error)
    return masks.table(), losses, compact, bnn.mean_forward(x)


def fitted(problem: Problem) -> Any:
    _, bnn, model, data = problem
    losses = train(problem, kl_warmup=1, validation=data)
    draws = Predictive(model, guide=bnn.guide, num_samples=2)(data[0])["y"]
    elbo = TraceMeanField_ELBO().loss(model, bnn.guide, *data)
    return (
        losses,
        elbo,
        ps.evidence.elbo(model, bnn.guide, data, draws=3).draws,
        draws,
        posterior(problem),
    )


def exchanged(problem: Problem) -> Any:
    _, bnn, _, _ = problem
    turbo = TurboPruner(
        units=UnitFactor(cost=3.0),
        active=schedules.logarithmic(0.5, 0.2, until=0.5),
        strength=lambda progress: min(1.0, progress / 0.3),
        at_least=2,
    )
    losses = train(problem, epochs=1, callbacks=[turbo])
    messages = {name: one for name, one in bnn.guide.named_buffers() if "messages" in name}
    train(problem, epochs=1, callbacks=[turbo])
    posterior(problem)
    # What is kept may hang on the last bit of a message: the CPU has kernels of its own for them.
    return losses, messages


def exchanged_by_hand(problem: Problem) -> Any:
    _, bnn, model, data = problem
    adam = torch.optim.Adam(bnn.parameters(), lr=1e-3)
    turbo = TurboVBI(model, bnn, adam, units=UnitFactor(cost=3.0))
    losses = [turbo.step(*data) for _ in range(3)]
    return losses, turbo.exchange()


def annealed(problem: Problem) -> Any:
    annealing = Annealing(schedules.logarithmic(0.7, 1e4, until=0.64))
    return train(problem, epochs=3, callbacks=[annealing]), posterior(problem)


def shrunk(problem: Problem) -> Any:
    _, bnn, _, _ = problem
    gates = {"guide.*": 0.5, "*": 1e-2}
    losses = train(problem, epochs=4, learning_rate=gates, compact_every=1, kl_scale=20.0)
    return losses, bnn.masks().table(), posterior(problem)


def gated_by_the_input(problem: Problem) -> Any:
    net, bnn, _, data = problem
    dependent = ps.lift(net, ps.DependentBetaBernoulli(bnn))
    second = net, dependent, ps.classifier(dependent, N), data
    losses = train(second)
    active = active_features(dependent, data, classes=3)
    return losses, {name: (one.frequency, one.class_mean) for name, one in active.items()}


def resumed(problem: Problem, folder: Path) -> Any:
    file = folder / "run.safetensors"
    train(problem, checkpoint=file)
    return train(problem, epochs=2, checkpoint=file)


def pruned(problem: Problem) -> Any:
    _, bnn, model, data = problem
    found = []
    for pruner in (
        Pruner("magnitude", 0.5),
        BayesFactorPruner("random", 0.7),
        Pruner("movement", 0.7, at="end"),
        Pruner("snip", 0.8, at="start", freeze=True),
    ):
        train(problem, callbacks=[pruner])
        found.append(bnn.masks().table())
    gains = ps.prune.thinet(bnn.net, data, 0.5, on=ps.inputs(bnn.net)[-1:])
    return found, dict(gains), ps.evidence.log_posterior(model, bnn.guide, data)


def reduced(problem: Problem) -> Any:
    _, bnn, model, data = problem
    train(problem, callbacks=[ReductionPruner(warmup=1, draws=2)])
    batches = ps.prune.reduce_model(model, bnn, data, draws=2)
    return [(batch.masks.table(), batch.accepted) for batch in batches]


def diagnosed(problem: Problem) -> Any:
    _, bnn, model, data = problem
    train(problem)
    tree = ps.to_datatree(bnn, model, data, draws=5, var_names="*.weight")
    return (
        [float(values.sum()) for name in tree.children for values in tree[name].values()],
        str(ps.compare_models({"one": (bnn, model), "two": (bnn, model)}, data, draws=5)),
        ps.diagnostics.khat(model, bnn.guide, data, draws=30).k,
        str(ps.diagnostics.predictive_quality({"it": bnn}, data, angles=(30.0,), draws=3)),
        ps.diagnostics.predictive_check(tree, lambda y: float((y == 0).mean())).observed,
    )


def kept_in_files(problem: Problem, folder: Path) -> Any:
    net, _, _, (x, y) = problem
    net.eval()
    with torch.no_grad():
        net[4].weight[:, ::2] = 0
    small = ps.compact(net, example=x[:1])
    ps.save(folder / "small.safetensors", small)
    back = ps.load(folder / "small.safetensors")
    fast, _ = ps.sparse_inference(small, x[:1], repeats=1)
    report = ps.report(net, small, x[:1], data=(x, y), repeats=1)
    return back(x.cpu()), fast(x), small(x), report.macs


def compacted_and_predicted(problem: Problem, folder: Path) -> Any:
    _, bnn, _, (x, y) = problem
    half = {
        key: torch.arange(mask.numel(), device=mask.device).view(mask.shape) % 2 == 0
        for key, mask in bnn.masks().items()
        if key.endswith("put")
    }
    small = ps.compact(bnn, half, x[:1], at_least=1)
    found = ps.predict(ps.save(folder / "small.safetensors", small), x.cpu(), draws=3)
    again = ps.predict(small, x, draws=1)
    calibrated = ps.conformal(again, y, coverage=0.5)
    return found.probabilities, again.probabilities, calibrated(again), list(small.masks().values())


def drawn_from_the_prior(problem: Problem) -> Any:
    """All three layers of a support prior."""
    _, bnn, _, (x, _) = problem
    with ps.generative():
        return bnn(x), Predictive(bnn, num_samples=2)(x)


def distilled(problem: Problem) -> Any:
    net, bnn, _, data = problem
    return train((net, bnn, ps.distill(bnn, copy.deepcopy(net), N), data))


def attacked(problem: Problem) -> Any:
    net, bnn, _, data = problem
    masks = {"0.weight": bnn.scores()["0.weight"] > 0.1}
    bounds = (-4.0, 4.0)
    options: dict[str, Any] = {"epsilon": 0.1, "epochs": 1, "bounds": bounds, "progress": False}
    adversarial_fine_tune(net, masks, data, **options)
    return fgsm(net, data, [0.0, 0.1], bounds=bounds).accuracies


def exported(problem: Problem, folder: Path) -> Any:
    net, _, _, (x, _) = problem
    ps.export_onnx(net.eval(), folder / "net.onnx", x[:2])
    return sorted(file.name for file in folder.iterdir())


def laws_of_masks(problem: Problem) -> Any:
    """The distributions of binary states."""
    field = problem[3][0][:2, 0, 0]  # (2, 6)
    line = torch.diag(torch.ones(5), 1).to(field.device)
    colours = (torch.arange(6) % 2).to(field.device)
    parents = (torch.arange(6) - 1).to(field.device)
    laws = [
        GibbsMask(field, beta=0.5, coupling=0.1),
        BipartiteGibbsMask(field, beta=0.5, coupling=0.1),
        IsingMask(field, 0.5, line + line.T, colours),
        TreeSupport(parents, (0.2, 0.3), field=field),
        TreeSupport(parents, (0.2, 0.3)),
        GridSupport((0.2, 0.3), (0.2, 0.3), (2, 6), field=field),
        GridSupport((0.2, 0.3), None, (2, 6), field=field),
    ]
    for law in laws:
        law.log_prob(law.sample((3,)))  # by samplers of the CPU's own
    scores = [law.log_prob((field > 0).to(field)) for law in laws]
    states = [law.enumerate_support() for law in laws if law.has_enumerate_support]
    return scores, [law.mean for law in laws], states


def compressed(method: str, problem: Problem) -> Any:
    """What ``pyrosparse compress`` does, where the problem is."""
    result = _setup(method, problem).run(progress=False)
    structure = result.report.structure if result.report is not None else result.account
    return result.quality["accuracy"], result.quality["nll"], result.sparsity, structure


def reported(method: str, problem: Problem, folder: Path) -> Any:
    """And what it writes."""
    run_folder.run(_setup(method, problem), folder, progress=False)
    return sorted(file.name for file in folder.iterdir())


SUITE = """
title = "A suite"
source = "none"
outside = "digits"
[settings]
network_options = {hidden = [8]}
epochs = 1
batch_size = 647
dataset = "digits"
network = "fcn"
[[grid]]
recipe = "model-reduction"
[[grid]]
recipe = "beta-bernoulli"
pretrain = 1
"""


def benchmarked(problem: Problem, folder: Path) -> Any:
    """A run of a suite."""
    device = problem[3][0].device.type
    (folder / "suite.toml").write_text(SUITE)
    suite = bench.load(str(folder / "suite.toml"), device=device)
    lines = bench.run(suite, results=folder / "suite.jsonl", scratch=folder)
    return [(line["test_nll"], line["predictive"]["network"]["ood_auroc"]) for line in lines]


def _setup(recipe: str, problem: Problem) -> Setup:
    # Two steps an epoch, and as few trainings as a recipe can do with.
    values: dict[str, Any] = {"epochs": 1, "network_options": {"hidden": (8,)}, "batch_size": 647}
    values |= {"pretrain": 1, "second_epochs": 1, "unit_epochs": 1, "active": 0.3}
    values |= {"cuts": 2, "fraction": 0.7}
    if recipe != "dependent-beta-bernoulli":
        values["fine_tune"] = 1
    return Setup.of(values | {"recipe": recipe, "device": problem[3][0].device.type})


SUPPORTS = ("independent", "grid", "chain", "tree", "curvature")

CASES: dict[str, tuple[str, Callable[..., Any]]] = {
    **{f"{method} fitted": (method, fitted) for method in METHODS},
    **{f"{method} exchanged": (method, exchanged) for method in SUPPORTS},
    "exchanged by hand": ("grid", exchanged_by_hand),
    "annealed": ("gibbs", annealed),
    "shrunk": ("beta-bernoulli", shrunk),
    "gated by the input": ("beta-bernoulli", gated_by_the_input),
    "resumed": ("weights", resumed),
    "pruned": ("weights", pruned),
    "reduced": ("weights", reduced),
    "diagnosed": ("weights", diagnosed),
    "kept in files": ("point", kept_in_files),
    "compacted and predicted": ("beta-bernoulli", compacted_and_predicted),
    **{f"compress {name}": ("point", partial(compressed, name)) for name in recipes.names()},
    "drawn from the prior": ("grid", drawn_from_the_prior),
    "drawn from chains": ("chain", drawn_from_the_prior),
    "drawn from trees": ("tree", drawn_from_the_prior),
    "distilled": ("weights", distilled),
    "attacked": ("point", attacked),
    "exported": ("point", exported),
    "laws of masks": ("point", laws_of_masks),
    "suite": ("point", benchmarked),
    "report of gates": ("point", partial(reported, "dependent-beta-bernoulli")),
    "report of weights": ("point", partial(reported, "turbo-vbi")),
}


def compare(case: str, folder: Path) -> None:
    """Run a case on the CPU and on the other device; raises where they differ."""
    method, run = CASES[case]

    def results(place: Callable[[Any], Any], folder: Path) -> Any:
        problem = build(METHODS[method](), place)
        takes_folder = "folder" in inspect.signature(run).parameters
        return run(problem, folder=folder) if takes_folder else run(problem)

    # No step is captured: tensors of that device have no address.
    eager = mock.patch.object(gradients, "trace", side_effect=RuntimeError("not here"))
    with eager, short_runs(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="CapturedSVI takes eager steps")
        expected = results(lambda thing: thing, folder / "cpu")
        with other_device():
            found = pytree.tree_map(on_cpu, results(there, folder / "other"))
    (numbers, texts), (expected_numbers, expected_texts) = split(found), split(expected)
    assert texts == expected_texts
    torch.testing.assert_close(numbers, expected_numbers, rtol=1e-4, atol=1e-5)


def on_cpu(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value


def split(results: Any) -> tuple[list[Any], list[str]]:
    """What is compared up to rounding, and what as text."""
    leaves = pytree.tree_leaves(results)
    is_number = [isinstance(one, Tensor | float) for one in leaves]
    numbers = [one for one, number in zip(leaves, is_number, strict=True) if number]
    return numbers, [str(one) for one, number in zip(leaves, is_number, strict=True) if not number]


@pytest.fixture(scope="module")
def fresh_process() -> Iterator[ProcessPoolExecutor]:
    # Autograd counts the devices at the first backward pass of a process.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=register) as pool:
        yield pool


@pytest.mark.parametrize("case", CASES)
def test_results_are_those_of_the_cpu(case, fresh_process, tmp_path):
    if case == "exported":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason="needs pyrosparse[onnx]")
    for name in ("cpu", "other"):
        (tmp_path / name).mkdir()
    fresh_process.submit(compare, case, tmp_path).result()


def mix() -> None:
    with other_device() as device:
        torch.ones(3, device=device) + torch.ones(3)


def test_the_other_device_refuses_tensors_of_the_cpu(fresh_process):
    with pytest.raises(RuntimeError, match="of the other device and of the CPU"):
        fresh_process.submit(mix).result()
