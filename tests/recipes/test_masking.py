"""Drawn masks and its baselines: resumed, as sparse as asked for, compact."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pyrosparse.bench import suite
from pyrosparse.lifting.method import Posterior
from pyrosparse.recipes import Gibbs, Split
from pyrosparse.recipes.setup import Setup
from pyrosparse.reports import folder as run_folder
from tests.stopped import stopped_after

TINY = {"network_options": {"hidden": [16]}, "epochs": 2, "batch_size": 647, "sparsity": 0.75}


MASKING = ("gibbs", "dense", "random-mask", "reinitialised", "cut", "one-shot")
MASKING += ("one-shot-recalibrated", "gradual-magnitude")


def tiny(**options: Any) -> Setup:
    return Setup.of(TINY | {"recipe": "gibbs"} | options)


def zeros(net: nn.Module) -> list[float]:
    return [
        float((one == 0).float().mean()) for name, one in net.named_parameters() if "weight" in name
    ]


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("method", MASKING)
def test_every_one_is_as_sparse_as_asked_for(method: str) -> None:
    outcome = tiny(recipe=method).run(progress=False)
    expected = 0.0 if method == "dense" else 0.75
    # The paper's end of annealing is cold, but not frozen: a draw has some odd weights.
    for sparsity in zeros(outcome.net):
        assert sparsity == pytest.approx(expected, abs=0.02)
    assert outcome.small is not None
    example = outcome.data.test.x[:9]
    assert torch.allclose(outcome.small(example), outcome.net.eval()(example), atol=1e-4)
    if method == "gibbs":
        betas = [entry["beta"] for entry in outcome.history]
        assert 0.7 < betas[0] < betas[1] == 1e4


def test_a_stopped_run_ends_like_a_whole_one(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    settings = tiny(recipe="reinitialised")
    run_folder.run(settings, whole, progress=False)
    with stopped_after(3):  # in the second of the two trainings
        run_folder.run(settings, stopped, progress=False)
    run_folder.run(settings, stopped, progress=False)
    for name in ("weights.safetensors", "compact.safetensors"):
        assert (whole / name).read_bytes() == (stopped / name).read_bytes()
    assert (whole / "first" / "checkpoint.safetensors").exists()


def test_reinitialised_has_the_masks_of_gibbs_and_weights_of_its_own() -> None:
    first = tiny().run(progress=False).net
    other = tiny(recipe="reinitialised").run(progress=False).net
    for one, new in zip(first.parameters(), other.parameters(), strict=True):
        if one.dim() > 1:
            assert torch.equal(one != 0, new != 0) and not torch.equal(one, new)


def test_filters_of_a_convolutional_network_leave_a_smaller_one() -> None:
    settings = tiny(
        network="cnn",
        network_options={"hidden": [8]},
        structure="filter",
        sparsity=0.5,
        epochs=1,
        beta_end=1e4,
        final="magnitude",
    )
    outcome = settings.run(progress=False)
    name = outcome.posterior.targets[0].name
    weight = outcome.net.get_parameter(name)
    assert name == "conv2.weight" and len(weight) == 64
    kept = weight.flatten(1).any(1)
    assert int(kept.sum()) == 32 and weight[kept].count_nonzero() == weight[kept].numel()
    assert outcome.small is not None and outcome.small.account.parameters[1] < (
        0.7 * outcome.small.account.parameters[0]
    )
    example = outcome.data.test.x[:5]
    assert torch.allclose(outcome.small(example), outcome.net.eval()(example), atol=1e-4)


def test_the_first_convolution_has_a_prior_and_no_mask() -> None:
    settings = tiny(network="cnn", network_options={}, epochs=1)
    outcome = settings.run(progress=False)
    kinds = {
        entry.target.name: type(entry.method).__name__ for entry in outcome.posterior.guide.entries
    }
    assert kinds == {"conv2.weight": "GibbsPruning", "conv1.weight": "Gaussian"}
    scale = outcome.recipe.scale
    assert scale == pytest.approx((2e-4 * outcome.data.n) ** -0.5)


@pytest.mark.parametrize(
    "bad",
    [
        {"sparsity": 1.0},
        {"beta_start": 0.0},
        {"final": "best"},
        {"coupling": 1.0},
        {"annealed": 1.1},
        {"rate_schedule": "step"},
        {"structure": "block"},
    ],
)
def test_options_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        tiny(**bad)


def test_labels_tell_structures_apart() -> None:
    def label(**options: Any) -> str:
        return tiny(**options).recipe.label

    assert label(structure="kernel") == "gibbs-kernel" and label() == "gibbs"
    assert label(structure="filter", relative=True) == "gibbs-filter-relative"
    assert label(recipe="cut", structure="filter") == "cut-filter"
    assert label(recipe="reinitialised", relative=True) == "reinitialised"


def test_annealing_and_rates_go_as_they_are_told() -> None:
    settings = tiny(epochs=5, annealed=0.4, rate_schedule="cosine")
    history = settings.run(progress=False).history
    assert [entry["beta"] == 1e4 for entry in history] == [False, False, True, True, True]
    rates = [entry["learning_rate"] for entry in history]
    assert rates == sorted(rates, reverse=True) and len(set(rates)) == 5


def test_cut_when_all_is_annealed_is_one_shot() -> None:
    def weight(method: str, **options: Any) -> torch.Tensor:
        return tiny(recipe=method, **options).run(progress=False).net.fc1.weight

    expected = weight("one-shot")
    assert torch.equal(weight("cut", annealed=1.0), expected)
    assert not torch.equal(weight("cut", annealed=0.5), expected)


@pytest.mark.parametrize("structure", ["weight", "kernel", "filter"])
def test_relative_or_not_it_is_the_same_law_where_the_variance_is_that_of_he(
    structure: str,
) -> None:
    torch.manual_seed(0)
    weight = torch.randn(8, 4, 3, 3).double()
    weight *= (2 / 576 / weight.square().mean()).sqrt()
    laws = []
    for relative in (False, True):
        recipe = Gibbs(structure=structure, relative=relative, scale=1.0)
        recipe = recipe.resolve(None, Split((weight, weight), None, None, 8))
        (annealing,) = recipe.callbacks([])
        method, beta = recipe.prior(), annealing.schedule(0.3)
        q = Posterior(loc=weight, _beta=torch.tensor(beta).double())
        laws.append(method.law(method.field(weight), q))
    masks = laws[0].sample()
    assert torch.allclose(laws[0].log_prob(masks), laws[1].log_prob(masks), rtol=1e-6)


def test_first_weights_are_not_drawn_where_they_are_trained() -> None:
    with pytest.raises(ValueError, match="leave out initial_scale or the start"):
        tiny(initial_scale=0.2, start={"epochs": 1})
    with pytest.raises(ValueError, match="leave out initial_scale or the weights"):
        tiny(initial_scale=0.2).run(weights={}, progress=False)


def test_the_small_suite_tells_both_recipes_apart_and_gives_all_the_same_terms() -> None:
    jobs = suite.load("gibbs-small").jobs
    # Six recipes at two sparsities and the dense network, on two data sets.
    assert len({job.id for job in jobs}) == len(jobs) == 2 * 13 * 3
    first = {
        job.setup.recipe.label: job.setup
        for job in jobs
        if job.setup.seed == 0
        and job.setup.dataset == "fashion-mnist"
        and getattr(job.setup.recipe, "sparsity", 0.9) == 0.9
    }
    paper = first.pop("gibbs")
    assert paper.recipe == Gibbs(epochs=paper.recipe.epochs, initial_scale=1.0, augment=True)
    for one in first.values():
        values = one.values()
        same = [values[key] for key in ("initial_scale", "rate_schedule", "epochs", "augment")]
        assert same == [0.2, "cosine", paper.recipe.epochs, True] and one.size == (14, 14)


def test_the_suite_has_a_cell_for_every_run_and_published_figure() -> None:
    grid = suite.load("gibbs")
    assert len({job.id for job in grid.jobs}) == len(grid.jobs) == 2 * 18 + 5
    assert set(grid.paper) <= {job.cell for job in grid.jobs}
    assert grid.paper["cifar10-resnet20-gibbs-90"] == {"accuracy": 0.875}
    cells = {job.cell for job in grid.jobs}
    assert {"cifar10-resnet20-dense", "cifar10-resnet20-gibbs-filter-75"} <= cells
    ends = ("90", "kernel-90", "filter-75")
    assert {f"cifar10-resnet20-targeted-dropout-{end}" for end in ends} <= cells
    once = {"han-90", "lottery-90", "l1-norm-kernel-90", "l1-norm-filter-75", "thinet-75"}
    assert {f"cifar10-resnet20-{one}" for one in {"laplace-90", *once}} <= cells
