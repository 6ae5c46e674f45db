"""As far as the evidence goes: settings, resumed runs, and what is left of a run."""

from pathlib import Path
from typing import Any

import pytest

from pyrosparse.recipes import ModelReduction, Split
from pyrosparse.recipes.setup import Setup
from pyrosparse.reports import folder as run_folder
from tests.stopped import stopped_after

VALUES = {
    "recipe": "model-reduction",
    "network_options": {"hidden": [8]},
    "epochs": 4,
    "warmup": 1,
    "batch_size": 647,
    "learning_rate": 0.01,
}


def tiny(**changes: Any) -> Setup:
    return Setup.of(VALUES | changes)


TINY = tiny()


def test_a_stopped_run_ends_like_a_whole_one(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    summary = run_folder.run(TINY, whole, progress=False)
    assert summary.sparsity > 0
    with stopped_after(2):
        run_folder.run(TINY, stopped, progress=False)
    run_folder.run(TINY, stopped, progress=False)
    for name in ("weights.safetensors", "compact.safetensors"):
        assert (whole / name).read_bytes() == (stopped / name).read_bytes()
    page = (whole / "report.html").read_text()
    assert "its standard error" in page and "model-reduction pruning" in page


def test_mean_field_is_the_same_without_pruning() -> None:
    plain = tiny(recipe="mean-field").run(progress=False)
    late = tiny(warmup=4).run(progress=False)
    assert plain.sparsity == late.sparsity == 0
    assert plain.quality == late.quality


def test_rows_make_a_network_that_is_really_smaller() -> None:
    outcome = tiny(rows=True, fraction=0.3).run(progress=False)
    report = outcome.report
    assert report is not None
    before, after = report.total_macs
    assert after < before


@pytest.mark.parametrize(("n", "expected"), [(1294, (308, 77, 10)), (54_000, (30, 8, 1))])
def test_epochs_and_batches_follow_the_data(n: int, expected: tuple[int, int, int]) -> None:
    data = Split((), None, None, n)
    recipe = ModelReduction().resolve(None, data)
    (pruner,) = recipe.callbacks(data)
    assert (recipe.epochs, pruner.warmup, pruner.every) == expected
    assert recipe.resolve(None, None) == recipe


@pytest.mark.parametrize("wrong", [{"fraction": 1.0}, {"warmup": -1}, {"warmup": 0.5}])
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ModelReduction(**wrong)
