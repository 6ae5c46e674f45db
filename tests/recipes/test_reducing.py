"""Compression as far as the evidence goes: settings, resumed runs, and what is left of a run."""

from pathlib import Path
from typing import Any

import pytest
from pyrosparse.compress import Settings, compress
from pyrosparse.compress.methods import reduction_pruner

from pyrosparse import run_folder
from tests.stopped import stopped_after

TINY = Settings(
    method="model-reduction",
    network_options={"hidden": [8]},
    epochs=4,
    warmup=1,
    batch_size=647,
    learning_rate=0.01,
)


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
    plain = compress(Settings(**{**TINY.__dict__, "method": "mean-field"}), progress=False)
    late = compress(Settings(**{**TINY.__dict__, "warmup": 4}), progress=False)
    assert plain.sparsity == late.sparsity == 0
    assert plain.test == late.test


def test_rows_make_a_network_that_is_really_smaller() -> None:
    outcome = compress(Settings(**{**TINY.__dict__, "rows": True, "fraction": 0.3}), progress=False)
    report = outcome.compaction.report
    assert report is not None
    before, after = report.total_macs
    assert after < before


def test_epochs_and_batches_follow_the_data() -> None:
    few = Settings(method="model-reduction").for_data(1294)
    assert (few.epochs, few.warmup) == (308, 77)
    many = Settings(method="model-reduction").for_data(54_000)
    assert (many.epochs, many.warmup) == (30, 8)
    for settings, every in ((few, 10), (many, 1)):
        pruner = reduction_pruner(settings)
        assert pruner is not None
        assert (pruner.warmup, pruner.every) == (settings.warmup, every)
    assert few.for_data(10) == few


@pytest.mark.parametrize("wrong", [{"fraction": 1.0}, {"warmup": -1}, {"warmup": 0.5}])
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(method="model-reduction", **wrong)


def test_options_of_other_methods_are_refused() -> None:
    with pytest.raises(ValueError, match="no option sparsity"):
        Settings(method="model-reduction", sparsity=0.5)
    with pytest.raises(ValueError, match="one of mean-field, model-reduction"):
        Settings(method="magnitude", rows=True)
