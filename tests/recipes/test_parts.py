"""Recipes in their parts: rates by group, KL weights, schedules, and what is frozen when."""

import math
from typing import Any

import pytest
import torch
from torch import nn

import pyrosparse as ps
from pyrosparse import recipes
from pyrosparse.infer import Callback, Fit, schedules
from pyrosparse.prune import TurboPruner

X = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
N = 80  # a fifth is held out
# One batch an epoch: what is seen at an epoch's step is seen at its start.
ONE = 80


class Record(Callback):
    """What reached the optimizer at each step, and what was frozen at the end of each epoch."""

    def __init__(self) -> None:
        self.rates: dict[str, list[dict[str, float]]] = {}
        self.runs: dict[str, Fit] = {}
        self.frozen: dict[str, list[dict[str, float]]] = {}
        self.start: dict[str, dict[str, torch.Tensor]] = {}
        self.end: dict[str, dict[str, torch.Tensor]] = {}

    def on_start(self, run: Fit) -> None:
        entries = run.lifted.guide.entries
        self.start[run.stage] = {entry.target.key: entry.mask.clone() for entry in entries}

    def on_end(self, run: Fit) -> dict[str, Any]:
        self.end[run.stage] = dict(run.lifted.masks())
        return {}

    def on_step(self, run: Fit, progress: float) -> None:
        groups = run.optimizer.param_groups
        name_of = {id(tensor): name for name, tensor in run.parameters.items()}
        found = {
            name_of[id(one)]: group["lr"]
            for group in groups
            for one in group["params"]
            if id(one) in name_of
        }
        self.rates.setdefault(run.stage, []).append(found)

    def on_epoch_end(self, run: Fit) -> dict[str, Any]:
        self.runs[run.stage] = run
        entries = run.lifted.guide.entries
        kept = {entry.target.key: float(entry.mask.float().mean()) for entry in entries}
        self.frozen.setdefault(run.stage, []).append(kept)
        return {}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3))


def record(recipe: recipes.Recipe, **options: Any) -> tuple[Record, recipes.Result]:
    found = Record()
    options = {"dense": False, "progress": False} | options
    seen = [found, *options.pop("callbacks", ())]
    return found, ps.compress(net(), (X, Y), recipe, callbacks=seen, **options)


def rates(found: Record, stage: str, guide: bool = False) -> list[float]:
    """The rate of each step, of the network's parameters or of the guide's, which must be one."""
    result = []
    for step in found.rates[stage]:
        chosen = {rate for name, rate in step.items() if ("guide" in name) == guide}
        assert len(chosen) == 1, (stage, step)
        result.append(chosen.pop())
    return result


def along(schedule: Any, base: float, steps: int) -> Any:
    return pytest.approx([base * schedule(step / steps) for step in range(steps)])


COSINE = schedules.cosine(0.01)


@pytest.mark.usefixtures("whole")
def test_gates_have_a_rate_of_their_own_and_all_rates_fall_along_a_cosine() -> None:
    recipe = recipes.BetaBernoulli(
        pretrain=3, epochs=5, batch_size=ONE, learning_rate=0.004, gate_rate=0.3, kl_warmup=2
    )
    found, result = record(recipe)
    assert rates(found, "pretraining") == along(COSINE, 0.004, 3)
    assert rates(found, "beta-bernoulli") == along(COSINE, 0.004, 5)
    assert rates(found, "beta-bernoulli", guide=True) == along(COSINE, 0.3, 5)
    assert [entry["kl_scale"] for entry in result.history] == [0.0, 0.5, 1.0, 1.0, 1.0]
    assert [entry["kl_scale"] for entry in result.stages[0].history] == [1.0] * 3


def test_gates_are_cut_every_five_hundred_steps() -> None:
    for steps, every in ((1, 500), (4, 125), (80, 7)):
        recipe = recipes.BetaBernoulli(pretrain=0, batch_size=-(-N // steps))
        job = recipes.Job(
            net(), recipes.Split((X[:N], Y[:N]), None, None, N), ps.classifier, recipe
        )
        bnn = ps.lift(job.net, ps.BetaBernoulli())
        assert recipe._epochs_between_cuts(job, bnn) == every


def test_gamma_is_the_weight_of_the_gates_divergence() -> None:
    recipe = recipes.BetaBernoulli(
        pretrain=1, epochs=1, batch_size=ONE, kl_scale={"0.*": 3.0, "*": 2.0}, temperature=0.4
    )
    _, result = record(recipe)
    methods = {e.target.key: e.method for e in result.posterior.guide.entries}
    gate = methods["0.input"]
    assert gate.kl_scale == {"0.*": 3.0, "*": 2.0} and gate.temperature == 0.4
    assert gate.pi == "collapsed" and gate.initial == 0.95
    assert methods["0.weight"].scale == pytest.approx((1e-4 * N) ** -0.5)


@pytest.mark.usefixtures("whole")
def test_the_second_stage_of_gates_has_no_warm_up_and_keeps_what_is_closed_closed() -> None:
    recipe = recipes.DependentBetaBernoulli(
        pretrain=1, epochs=40, second_epochs=3, batch_size=ONE, gate_rate=1.5, kl_scale=4.0
    )
    found, result = record(recipe)
    first = {stage.name: stage.history for stage in result.stages}["first/beta-bernoulli"]
    assert first[0]["kl_scale"] == 0.0 and first[-1]["kl_scale"] == 1.0
    assert [entry["kl_scale"] for entry in result.history] == [1.0, 1.0, 1.0]
    left = first[-1]["units"]
    assert left["0.input"] < 6  # some are closed
    for key in ("0.input", "2.input"):
        left_then = found.end["beta-bernoulli"][key] != 0
        assert torch.equal(found.start["dependent-beta-bernoulli"][key], left_then)
        assert result.compaction.units[key][0] <= left[key]
    assert rates(found, "dependent-beta-bernoulli", guide=True) == along(COSINE, 1.5, 3)


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("name", ["turbo-vbi", "independent-support"])
def test_the_path_of_turbo_vbi(name: str) -> None:
    recipe = recipes.find(name).of(
        {
            "pretrain": 2,
            "epochs": 40,
            "fine_tune": 4,
            "batch_size": ONE,
            "learning_rate": 0.01,
            "active": 0.05,
            "unit_cost": 7.0,
            "least_units": 2,
        }
    )
    (turbo,) = [recipe.resolve(net(), recipes.Split((X, Y), None, None, N)).turbo()]
    assert isinstance(turbo, TurboPruner) and turbo.strength is not None
    assert turbo.active is not None and turbo.contrast is not None
    # The support shrinks until 0.75, the unit factor grows until 0.3, nothing goes before 0.1.
    assert [turbo.strength(at) for at in (0.0, 0.15, 0.3, 1.0)] == pytest.approx([0, 0.5, 1, 1])
    assert [turbo.active(at) for at in (0.0, 0.75, 1.0)] == pytest.approx([0.12, 0.05, 0.05])
    assert turbo.active(0.7) > 0.05
    assert [turbo.contrast(at) for at in (0.0, 0.75, 1.0)] == pytest.approx([100, 1000, 1000])
    assert turbo.prune_from == 0.1 and turbo.every == 1
    coupled = name == "turbo-vbi"
    assert (turbo.at_least, turbo.units is not None) == ((2, True) if coupled else (1, False))
    assert turbo.units is None or turbo.units.cost_of("0") == 7.0

    found, result = record(recipe)
    support = {stage.name: stage.history for stage in result.stages}["support"]
    kept = [entry["kept"] for entry in support]
    assert kept[:3] == [1.0] * 3 and kept[3] <= 1.0 and kept[-1] < 0.2
    # The weight of the KL divergence is that of as many weights as data, at once.
    assert [entry["kl_scale"] for entry in support] == [pytest.approx(N / (60 + 30))] * 40
    assert rates(found, "pretraining") == along(COSINE, 0.01, 2)
    assert rates(found, "support") == along(schedules.constant, 0.01, 40)
    # What is left is fine-tuned along a cosine, under another seed, and what is gone stays so.
    assert rates(found, "fine-tuning") == along(COSINE, 0.01, 4)
    assert found.runs["fine-tuning"].seed == 1 and found.runs["support"].seed == 0
    for entry in found.frozen["fine-tuning"]:
        share = (60 * entry["0.weight"] + 30 * entry["2.weight"]) / 90
        assert share == pytest.approx(kept[-1])
    assert {entry["kl_scale"] for entry in result.history} == {1.0}


def test_turbo_vbi_takes_few_exchanges_where_epochs_are_many_and_its_own_grid() -> None:
    split = recipes.Split((X, Y), None, None, N)
    assert recipes.TurboVBI(epochs=400).resolve(net(), split).turbo().every == 10
    for recipe, pair in ((recipes.TurboVBI, (0.4, 0.4)), (recipes.IndependentSupport, (0.3, 0.7))):
        assert recipe.pair == pair


@pytest.mark.usefixtures("whole")
def test_a_normal_posterior_has_ten_times_the_rate_for_its_scales() -> None:
    found, _ = record(recipes.MeanField(epochs=4, batch_size=ONE, learning_rate=0.003))
    assert rates(found, "mean-field") == along(COSINE, 0.003, 4)
    assert rates(found, "mean-field", guide=True) == along(COSINE, 0.03, 4)


@pytest.mark.usefixtures("whole")
def test_model_reduction_waits_for_its_warm_up() -> None:
    recipe = recipes.ModelReduction(epochs=6, warmup=3, batch_size=ONE, learning_rate=0.05)
    found, result = record(recipe)
    shares = [entry["0.weight"] for entry in found.frozen["model-reduction"]]
    assert shares[:2] == [1.0, 1.0] and shares[-1] < 1.0
    first = next(entry["epoch"] for entry in result.history if "elbo_gain" in entry)
    assert first >= 3


@pytest.mark.usefixtures("whole")
def test_pruning_rises_along_its_ramp_and_is_frozen_or_not() -> None:
    recipe = recipes.Magnitude(epochs=5, batch_size=ONE, sparsity=0.8, ramp=0.6)
    found, result = record(recipe)
    ramp = schedules.cubic(end=0.6)
    expected = [0.8 * ramp(epoch / 5) for epoch in range(1, 6)]
    assert [entry["sparsity"] for entry in result.history] == pytest.approx(expected, abs=0.02)
    frozen = [(60 * e["0.weight"] + 30 * e["2.weight"]) / 90 for e in found.frozen["magnitude"]]
    assert frozen == pytest.approx([1 - one for one in expected], abs=0.02)
    assert rates(found, "magnitude") == along(schedules.constant, 1e-3, 5)
    at_once = recipes.Magnitude(epochs=3, batch_size=ONE, sparsity=0.5, ramp=0.0, freeze=False)
    found, result = record(at_once)
    assert result.history[0]["sparsity"] == pytest.approx(0.5, abs=0.02)
    assert {value for e in found.frozen["magnitude"] for value in e.values()} == {1.0}


def test_the_bayes_factor_gate_has_its_options() -> None:
    job: Any = None
    recipe = recipes.BayesianRandom(threshold=0.5, likelihood="mean", per_datum=False)
    pruner: Any = recipe.callback(job)
    assert (pruner.threshold, pruner.likelihood, pruner.per_datum) == (0.5, "mean", False)
    assert pruner.criterion is ps.prune.random_masks
    default: Any = recipes.BayesianMagnitude().callback(job)
    assert default.threshold == ps.prune.BayesFactorPruner().threshold
    assert default.criterion is ps.prune.magnitude and default.freeze


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("rate_schedule", ["steps", "cosine"])
def test_masks_are_annealed_by_the_step_and_the_rate_falls(rate_schedule: str) -> None:
    recipe = recipes.Gibbs(
        epochs=10, batch_size=ONE, rate_schedule=rate_schedule, annealed=0.5, sparsity=0.5
    )
    found, result = record(recipe)
    rise = schedules.logarithmic(0.7, 1e4, until=0.5)
    betas = [entry["beta"] for entry in result.history]
    assert betas == pytest.approx([rise(step / 10) for step in range(10)])
    falls = {"steps": schedules.steps(0.4, 0.6, 0.8), "cosine": COSINE}[rate_schedule]
    assert rates(found, "gibbs") == along(falls, 1e-3, 10)
    # Nothing is frozen while masks are drawn; the last one is.
    assert {value for e in found.frozen["gibbs"] for value in e.values()} == {1.0}
    assert result.sparsity == pytest.approx(0.5, abs=0.05)


def test_masks_are_annealed_by_the_step_within_an_epoch() -> None:
    _, result = record(recipes.Gibbs(epochs=4, batch_size=40, sparsity=0.5))
    rise = schedules.logarithmic(0.7, 1e4, until=0.64)
    # Two steps an epoch: what is recorded at its end is that of the second.
    betas = [entry["beta"] for entry in result.history]
    assert betas == pytest.approx([rise((epoch + 0.5) / 4) for epoch in range(4)])


@pytest.mark.parametrize(
    ("structure", "relative", "start", "end"),
    [
        ("kernel", False, 0.7, 1e4),
        ("filter", False, 0.003, 1.0),
        ("weight", True, 0.7 * 2 / 576, 1e4 * 2 / 576),
    ],
)
def test_the_temperatures_of_a_structure(
    structure: Any, relative: bool, start: float, end: float
) -> None:
    recipe = recipes.Gibbs(structure=structure, relative=relative)
    recipe = recipe.resolve(net(), recipes.Split((X, Y), None, None, N))
    assert (recipe.beta_start, recipe.beta_end) == pytest.approx((start, end))
    coupling = {"weight": 0.0, "kernel": 0.01, "filter": 1.0}[structure]
    assert recipe.coupling == pytest.approx(coupling * (288 if relative else 1))


def test_what_the_baselines_of_gibbs_freeze_and_when() -> None:
    options = {"epochs": 4, "batch_size": ONE, "sparsity": 0.5}

    def kept(name: str, **more: Any) -> list[float]:
        found, result = record(recipes.find(name).of(options | more))
        during = [e["0.weight"] for e in found.frozen[name]]
        return [*during, float((result.net[0].weight != 0).float().mean())]

    half = pytest.approx(0.5, abs=0.02)
    assert kept("dense") == [1.0] * 5
    assert kept("one-shot") == [1.0, 1.0, 1.0, 1.0, half]
    # `Record` sees the epoch after the cut has been made.
    assert kept("cut", annealed=0.5) == [1.0, half, half, half, half]
    assert kept("random-mask") == [half] * 5
    assert kept("reinitialised") == [half] * 5


def test_gradual_cuts_follow_the_cubic_and_never_give_back() -> None:
    def kept(**more: Any) -> list[float]:
        options = {"epochs": 8, "batch_size": ONE, "sparsity": 0.8, "every": 1} | more
        found, _ = record(recipes.GradualMagnitude(**options))
        return [e["0.weight"] for e in found.frozen["gradual-magnitude"]]

    rise = schedules.cubic(0.5)
    # An epoch has one step, which is cut before.
    expected = [1 - 0.8 * rise(step / 8) for step in range(8)]
    assert kept(ramp=0.5) == pytest.approx(expected, abs=1 / 60)
    # Every third step, and where the ramp has reached its end.
    at = [0, 0, 0, 3, 4, 4, 4, 4]
    assert kept(ramp=0.5, every=3) == pytest.approx([expected[i] for i in at], abs=1 / 60)
    # So small a rise that its quantile is a weight that is gone gives nothing back.
    steps = kept(ramp=0.99, sparsity=0.1)
    assert steps == sorted(steps, reverse=True)


def test_a_ramp_that_ends_with_training_is_as_sparse_as_asked_for() -> None:
    options = {"epochs": 3, "batch_size": ONE, "sparsity": 0.8, "ramp": 1.0}
    _, result = record(recipes.GradualMagnitude(**options))
    assert result.sparsity == pytest.approx(0.8, abs=0.02)


def test_gradual_cuts_have_no_2_4() -> None:
    with pytest.raises(ValueError, match="choose another structure"):
        recipes.GradualMagnitude(structure="2:4", sparsity=0.5)


@pytest.mark.parametrize("name", ["gibbs", "random-mask", "reinitialised", "han"])
def test_first_weights_are_from_the_law_of_he_where_the_recipe_says_so(name: str) -> None:
    options = {"epochs": 1, "sparsity": 0.5, "learning_rate": 1e-9, "initial_scale": 0.2}
    recipe = recipes.find(name).of(options | {"fine_tune_rate": 1e-9, "cuts": 1, "structure": None})
    torch.manual_seed(0)
    own = nn.Sequential(nn.Linear(6, 400), nn.ReLU(), nn.Linear(400, 3))
    results = [
        ps.compress(own, (X, Y), recipe, dense=False, progress=False, seed=seed)
        for seed in (0, 0, 1)
    ]
    first, again, other = (result.net[0].weight.detach() for result in results)
    if name in ("random-mask", "reinitialised"):  # what stays is chosen without a look at them
        left = first[first != 0]
        assert left.std().item() == pytest.approx(0.2 * (2 / 6) ** 0.5, rel=0.05)
        assert left.mean().item() == pytest.approx(0, abs=0.01)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.abs().max() < 6 * 0.2 * (2 / 6) ** 0.5 < own[0].weight.abs().max() * 2


def test_a_random_mask_is_not_that_of_the_largest_first_weights() -> None:
    options = {"epochs": 1, "batch_size": ONE, "sparsity": 0.5, "learning_rate": 1e-9}
    _, result = record(recipes.RandomMask(**options, initial_scale=1.0))
    left, gone = result.net[0].weight != 0, record(recipes.OneShot(**options, initial_scale=1.0))
    other = gone[1].net[0].weight != 0
    assert 0.2 < float((left & other).sum() / left.sum()) < 0.8


def test_recalibration_takes_the_statistics_anew() -> None:
    def statistics(name: str) -> torch.Tensor:
        torch.manual_seed(0)
        own = nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 3))
        recipe = recipes.find(name).of({"epochs": 2, "batch_size": 40, "sparsity": 0.8})
        result = ps.compress(own, (X, Y), recipe, dense=False, progress=False)
        x, layer = result.data.train.x, result.net[0]
        return (result.net[1].running_mean - layer(x).mean(0)).abs().max()

    assert statistics("one-shot-recalibrated") < 0.05 < statistics("one-shot")


def test_a_reinitialised_network_starts_from_other_weights_under_the_same_masks() -> None:
    options = {"epochs": 1, "batch_size": ONE, "sparsity": 0.5, "learning_rate": 1e-9}
    _, result = record(recipes.Reinitialised(**options))
    start = net()[0].weight
    left = result.net[0].weight != 0
    assert (result.net[0].weight - start)[left].abs().max() > 0.01
    _, first = record(recipes.Gibbs(**options))
    assert torch.equal(first.net[0].weight != 0, left)
    assert [stage.name for stage in result.stages] == ["first/gibbs", "reinitialised"]


def test_pretraining_has_as_many_epochs_as_make_a_thousand_steps() -> None:
    resolved = recipes.BetaBernoulli().resolve(net(), recipes.Split((X, Y), None, None, N))
    assert (resolved.pretrain, resolved.epochs) == (1000, 2000)
    assert resolved.kl_warmup == round(2000 / 15)
    assert math.isclose(resolved.scale, (1e-4 * N) ** -0.5)
