"""Recipes whose noise decides: stages, rates, KL weights, thresholds and what is frozen when."""

import math
from typing import Any

import pytest
import torch
from torch import nn

import pyrosparse as ps
from pyrosparse import methods, recipes
from pyrosparse.recipes.information_bottleneck import positions
from tests.recipes.test_parts import COSINE, ONE, N, X, Y, along, net, rates, record

OPTIONS: dict[str, Any] = {
    "pretrain": 1,
    "epochs": 8,
    "kl_free": 2,
    "kl_warmup": 3,
    "fine_tune": 3,
    "batch_size": ONE,
    "learning_rate": 0.004,
    "noise_rate": 0.3,
    "kl_scale": 0.5,
}


def falling(progress: float) -> float:
    return 1.0 if progress < 0.5 else 2 - 2 * progress


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("name", ["variational-dropout", "group-variational-dropout"])
def test_the_path_of_variational_dropout(name: str) -> None:
    found, result = record(recipes.find(name).of(OPTIONS | {"log_alpha": -4.0}))
    stages = {stage.name: stage.history for stage in result.stages}
    assert list(stages) == ["pretraining", "noise", "training", "fine-tuning"]
    assert [entry["kl_scale"] for entry in stages["noise"]] == [0.0, 0.0]
    expected = [0.0, 0.5 / 3, 1 / 3, 0.5, 0.5, 0.5]
    assert [entry["kl_scale"] for entry in stages["training"]] == pytest.approx(expected)
    assert rates(found, "noise") == along(lambda _: 1.0, 0.004, 2)
    assert rates(found, "noise", guide=True) == along(lambda _: 1.0, 0.3, 2)
    assert rates(found, "training") == along(falling, 0.004, 6)
    assert rates(found, "training", guide=True) == along(falling, 0.3, 6)
    assert rates(found, "fine-tuning") == along(COSINE, 0.004, 3)
    seeds = {stage: run.seed for stage, run in found.runs.items()}
    assert (seeds["noise"], seeds["training"], seeds["fine-tuning"]) == (2, 0, 1)
    # Nothing is frozen while noise decides; then it is, and stays so.
    assert {value for e in found.frozen["training"] for value in e.values()} == {1.0}
    last = found.frozen["fine-tuning"]
    assert last[0] == last[-1] and min(last[0].values()) < 1.0


def test_weights_go_by_the_log_ratio_of_noise_to_signal_and_the_rest_is_trained_plainly() -> None:
    scores: dict[str, torch.Tensor] = {}

    class Scores(ps.infer.Callback):
        def on_end(self, run: Any) -> None:
            if run.stage == "training":
                scores.update(run.lifted.scores())

    limits = {"0.*": -6.0, "*": 1.0}
    recipe = recipes.VariationalDropout.of(OPTIONS | {"log_alpha": limits})
    found, result = record(recipe, callbacks=[Scores()])
    tuned = found.runs["fine-tuning"].lifted
    for key, limit in (("0.weight", -6.0), ("2.weight", 1.0)):
        stays = -2 * scores[key].log() <= limit
        assert 0 < int(stays.sum()) < stays.numel()
        assert torch.equal(result.net.get_parameter(key) != 0, stays)
    for entry in tuned.guide.entries:
        assert isinstance(entry.method, methods.Gaussian) and entry.method.posterior == "point"
        assert entry.method.scale == pytest.approx((1e-4 * N) ** -0.5)


def test_groups_go_by_their_gates_alone() -> None:
    recipe = recipes.GroupVariationalDropout.of(OPTIONS | {"log_alpha": 2.9, "noise_rate": 1e-3})
    found, result = record(recipe)
    lifted = found.runs["training"].lifted
    methods_of = {entry.target.key: entry.method for entry in lifted.guide.entries}
    assert list(methods_of) == ["0.weight", "2.weight", "0.input", "2.input"]
    gate, slab = methods_of["0.input"], methods_of["0.weight"]
    assert isinstance(gate, methods.VariationalDropout) and isinstance(slab, methods.Gaussian)
    assert gate.initial_scale == slab.initial_scale == pytest.approx(math.exp(-4.5))
    assert (slab.scale, slab.posterior, slab.estimator) == (1.0, "normal", "activations")
    assert result.compaction.units["0.input"] == (6, 6)
    found, result = record(recipes.GroupVariationalDropout.of(OPTIONS | {"log_alpha": -8.0}))
    assert result.compaction.units["2.input"][0] < 10
    assert found.frozen["fine-tuning"][-1]["0.weight"] == 1.0


def test_defaults_are_the_papers_schedule_in_shares() -> None:
    split = recipes.Split((X, Y), None, None, N)
    recipe = recipes.VariationalDropout(epochs=200).resolve(net(), split)
    assert (recipe.kl_free, recipe.kl_free + recipe.kl_warmup) == (5, 20)
    assert recipe.log_alpha == 3.0 and recipe.learning_rate == 1e-3
    assert recipes.GroupVariationalDropout().log_alpha == -3.0


def test_what_leaves_no_epoch_or_names_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="kl_free leaves no epoch"):
        recipes.VariationalDropout(epochs=3, kl_free=3)
    with pytest.raises(ValueError, match=r"log_alpha has no number for '2\.weight'"):
        record(recipes.VariationalDropout.of(OPTIONS | {"log_alpha": {"0.*": 3.0}}))


def test_empirical_bayes_reaches_the_method() -> None:
    for recipe in (recipes.VariationalDropout, recipes.GroupVariationalDropout):
        for chosen in (False, True):
            prior = recipe(empirical_bayes=chosen).priors(net(), (X[:1],))[0][0]
            assert prior.empirical_bayes is chosen


def test_the_bottleneck_weighs_each_gate_by_data_and_positions() -> None:
    torch.manual_seed(0)
    own = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(12, 3),
    )  # fmt: skip
    x = torch.randn(100, 1, 6, 6)
    own[3].train()
    assert positions(own, ps.gates(own), (x[:1],)) == {"1.output": 16, "5.input": 1}
    assert own.training and not own[0]._forward_hooks
    seen: list[Any] = []

    class Methods(ps.infer.Callback):
        def on_start(self, run: Any) -> None:
            seen.append((run.stage, {e.target.key: e.method for e in run.lifted.guide.entries}))

    recipe = recipes.InformationBottleneck(
        pretrain=1, epochs=2, fine_tune=1, batch_size=ONE, gamma=1e-2
    )
    result = ps.compress(own, (x, Y), recipe, callbacks=[Methods()], dense=False, progress=False)
    names, found = [name for name, _ in seen], dict(seen)["training"]
    assert names == ["pretraining", "training", "fine-tuning"]
    assert found["1.output"].kl_scale == pytest.approx({"1.output": 12.8, "5.input": 0.8})
    assert found["0.weight"].scale == pytest.approx((1e-4 * N) ** -0.5)
    assert "units" in result.stages[1].history[-1]


@pytest.mark.usefixtures("whole")
def test_the_bottleneck_falls_along_a_cosine_and_closes_more_gates_for_more_gamma() -> None:
    options = {"pretrain": 1, "epochs": 40, "batch_size": ONE, "gate_rate": 0.5}
    found, result = record(recipes.InformationBottleneck.of(options | {"gamma": 10.0}))
    assert rates(found, "training") == along(COSINE, 1e-3, 40)
    assert rates(found, "training", guide=True) == along(COSINE, 0.5, 40)
    _, more = record(recipes.InformationBottleneck.of(options | {"gamma": 1e-6}))
    kept = [one.compaction.units["0.input"][0] for one in (result, more)]
    assert kept[0] < kept[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["variational-dropout", "group-variational-dropout", "information-bottleneck"]
)
def test_digits_stay_right_in_a_smaller_network(name: str) -> None:
    from pyrosparse.recipes.setup import Setup

    chosen = {"gamma": 1e-3} if name == "information-bottleneck" else {"kl_scale": 0.1}
    result = Setup.of({"recipe": name, "epochs": 100, "pretrain": 30, **chosen}).run(progress=False)
    report = result.report
    assert report is not None
    assert result.quality["accuracy"] > 0.93
    before, after = report.total_macs
    assert result.sparsity > 0.5
    assert before > 2 * after


class Decoder(nn.Module):
    """A transposed convolution, and a layer that acts twice."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose1d(1, 2, 3)
        self.hidden, self.again, self.last = nn.Linear(16, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.hidden(self.up(x.unsqueeze(1)).relu().flatten(1)).relu()
        return self.last(self.again(self.again(hidden).relu()))


class Estimators(ps.infer.Callback):
    """Records where each weight has its noise, by stage; None for a point."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []

    def on_start(self, run: Any) -> None:
        entries = [e for e in run.lifted.guide.entries if e.target.kind == "weight"]
        self.found.append({e.target.key: getattr(e.method, "estimator", None) for e in entries})


@pytest.mark.parametrize(
    "recipe",
    [
        recipes.MeanField,
        recipes.VariationalDropout,
        recipes.GroupVariationalDropout,
        recipes.GroupHorseshoe,
    ],
)
def test_noise_is_drawn_where_each_layer_allows_it(recipe: Any) -> None:
    options = {"pretrain": 0, "epochs": 2, "fine_tune": 1}
    chosen = recipe(**{k: v for k, v in options.items() if k in recipe.options()})
    seen = Estimators()
    ps.compress(Decoder(), (X, Y), chosen, callbacks=[seen], progress=False)
    at_weights = {"up.weight": "weights", "again.weight": "weights"}
    at_activations = {"hidden.weight": "activations", "last.weight": "activations"}
    assert at_weights | at_activations in seen.found


def test_spike_and_slab_leaves_what_has_no_noise_at_the_activations() -> None:
    recipe, seen = recipes.SpikeAndSlab(pretrain=0, epochs=1, fine_tune=0), Estimators()
    with pytest.warns(UserWarning, match=r"leaves up.weight, again.weight as they are"):
        ps.compress(Decoder(), (X, Y), recipe, callbacks=[seen], progress=False)
    assert seen.found[0].keys() == {"hidden.weight", "last.weight"}
