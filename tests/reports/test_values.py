"""The folder of a run that predicts values: its numbers, figures and page."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pyrosparse.cli import app


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("values") / "run"
    words = "compress magnitude --dataset linnerud --network fcn --epochs 3 --sparsity 0.5 --output"
    found = CliRunner().invoke(app, [*words.split(), str(folder)], env={"COLUMNS": "120"})
    assert found.exit_code == 0, found.output
    assert "test RMSE" in found.output and "accuracy" not in found.output
    return folder


def test_the_summary_has_the_scores_of_values(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["test_accuracy"] is None and summary["test_ece"] is None
    values = summary["values"]
    assert set(values) == {"rmse", "crps", "coverage_50", "coverage_80", "coverage_95"}
    after = summary["compaction"]["report"]["quality"][1]
    assert after["rmse"] == pytest.approx(values["rmse"], rel=1e-4)
    assert after["nll"] == pytest.approx(summary["test_nll"], rel=1e-4)


def test_the_page_says_how_good_it_is_in_their_terms(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    rmse = json.loads((folder / "summary.json").read_text())["values"]["rmse"]
    assert f"RMSE {rmse:.4f}" in page and "coverage of 50 % intervals" in page
    assert "accuracy" not in page and "classifies" not in page
    for name in ("pit_histograms", "interval_coverage"):
        assert (folder / f"{name}.png").stat().st_size > 1000
    assert "a U: the distributions are too narrow" in page
