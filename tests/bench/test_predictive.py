"""Suites with outside data: what a run's line gains, and the table of it."""

import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from pyrosparse import bench, data
from pyrosparse.bench.predictive import outside_inputs, packed
from pyrosparse.cli import app
from pyrosparse.recipes.setup import Setup
from tests.short import short_runs

REFERENCES = ["ensemble", "swag", "sgld"]
if find_spec("laplace"):  # of laplace-torch, an extra
    REFERENCES.append("last-layer-laplace")

# Of the packages that laplace-torch imports.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")

SUITE = """
title = "Tiny"
source = "nobody"
outside = "digits"
[settings]
dataset = "digits"
network_options = { hidden = [8] }
epochs = 2
batch_size = 647
[[grid]]
recipe = ["none", "mean-field", "model-reduction"]
scale = 0.3
[[grid]]
recipe = ["ensemble", "swag", "sgld"]
scale = 0.3
members = 2
iterates = 2
samples = 2
[[grid]]
recipe = "gibbs"
sparsity = 0.85
augment = false
""".replace('["ensemble", "swag", "sgld"]', json.dumps(REFERENCES))


def declared(folder: Path, text: str = SUITE) -> bench.Suite:
    file = folder / "tiny.toml"
    file.write_text(text)
    return bench.load(str(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predictive")
    with pytest.MonkeyPatch.context() as patch, short_runs():
        patch.setattr("pyrosparse.bench.predictive.DRAWS", 3)
        list(bench.run(declared(folder), results=folder / "tiny.jsonl", scratch=folder))
    return folder


def lines(folder: Path) -> dict[str, dict[str, Any]]:
    return {line["settings"]["recipe"]: line for line in bench.read(folder / "tiny.jsonl")}


def test_a_line_gains_the_predictive_quality_of_network_and_posterior(folder: Path) -> None:
    n = len(data.load("digits").test)
    for method, line in lines(folder).items():
        found = line["predictive"]
        posterior = method in ("mean-field", "model-reduction", *REFERENCES)
        assert found["outside"] == "digits" and ("posterior" in found) == posterior
        for figure in ("accuracy", "nll", "ece"):
            assert found["network"][figure] == pytest.approx(line[f"test_{figure}"], rel=1e-6)
        for one in (found[name] for name in ("network", "posterior") if name in found):
            # Nothing tells data from themselves.
            assert one["ood_auroc"] == pytest.approx(0.5, abs=1e-3)
            assert list(one["rotated"]) == ["15", "30", "45", "60"]
            assert all(turned["nll"] > 0 for turned in one["rotated"].values())
            assert one["elpd"] == pytest.approx(-n * one["nll"])
            densities = bench.unpacked(one["log_density"])
            assert 0.8 < one["conformal_coverage"] <= 1 and 1 <= one["conformal_size"] <= 10
            assert densities.sum() == pytest.approx(one["elpd"], rel=1e-3)
            assert math.sqrt(n) * densities.std() == pytest.approx(one["elpd_se"], rel=1e-3)
        if posterior:
            assert found["posterior"]["draws"] == 3
            assert found["posterior"]["nll"] != found["network"]["nll"]


def test_runs_are_resumed_and_refused_under_other_outside_data(
    folder: Path, tmp_path: Path
) -> None:
    results = folder / "tiny.jsonl"
    assert not list(bench.run(declared(folder), results=results, scratch=folder))
    other = declared(tmp_path, SUITE.replace('outside = "digits"', 'outside = "mnist"'))
    with pytest.raises(ValueError, match="outside was 'digits', is 'mnist'"):
        list(bench.run(other, results=results, scratch=folder))
    with pytest.raises(ValueError, match="did you mean 'mnist'"):
        declared(tmp_path, SUITE.replace('outside = "digits"', 'outside = "mnis"'))


def test_the_command_prints_the_table(folder: Path) -> None:
    words = ["table", str(folder / "tiny.toml"), "--results", str(folder / "tiny.jsonl")]
    text = CliRunner().invoke(app, [*words, "--markdown"]).output
    assert text.startswith("| cell | predicts | seeds | accuracy, % | NLL | ECE | OOD AUROC | 90 %")
    assert "| digits-fcn-model-reduction-0.3 | posterior | 1 |" in text
    assert "| digits-fcn-gibbs-85 | network | 1 |" in text


def test_lines_without_it_are_read_as_before(folder: Path, tmp_path: Path) -> None:
    old = [{k: v for k, v in one.items() if k != "predictive"} for one in lines(folder).values()]
    results = tmp_path / "old.jsonl"
    results.write_text("".join(json.dumps(one) + "\n" for one in old))
    suite = declared(tmp_path)
    assert not list(bench.run(suite, results=results, scratch=tmp_path))
    assert all(cell.predicts == "network" for cell in bench.table(suite, results))
    output = CliRunner().invoke(
        app,
        ["table", str(tmp_path / "tiny.toml"), "--results", str(results)],
        env={"COLUMNS": "200"},
    )
    assert output.exit_code == 0 and "digits-fcn-none" in output.output


def test_outside_images_have_the_units_of_the_runs_own(tmp_path: Path) -> None:
    for name, shade in (("dark", 20), ("light", 200)):
        for index in range(20):
            file = tmp_path / name / ("cat", "dog")[index % 2] / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (6, 4), (shade + index, shade, 2 * index)).save(file)
    settings = Setup(dataset=str(tmp_path / "dark"))
    pixels = data.load(tmp_path / "dark", normalise="unit", seed=settings.seed).train.x
    deviation, mean = torch.std_mean(pixels, dim=(0, 2, 3), correction=0, keepdim=True)
    light = data.load(tmp_path / "light", normalise="unit", validation=0).test.x
    expected = (light - mean) / deviation.where(deviation > 0, 1.0)
    found = outside_inputs(settings, str(tmp_path / "light"))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="must be images"):
        outside_inputs(settings, "digits")


def line(job: bench.Job, densities: list[float]) -> dict[str, Any]:
    values = torch.tensor(densities, dtype=torch.float64)
    figures = {
        "accuracy": 0.75,
        "nll": -float(values.mean()),
        "ece": 0.01,
        "elpd": float(values.sum()),
        "elpd_se": 1.5,
        "ood_auroc": 0.9,
        "log_density": packed(values),
    }
    posterior = {"posterior": figures} if job.setup.recipe.name == "mean-field" else {}
    return {
        "id": job.id,
        "cell": job.cell,
        "seed": job.setup.seed,
        "sparsity": 0.8,
        "settings": {"dataset": "digits", "network": "fcn", "method": job.setup.recipe.name},
        "predictive": {"network": figures, **posterior},
    }


def test_differences_are_paired_by_seed_and_by_datum(tmp_path: Path) -> None:
    declared(tmp_path)
    suite = bench.load(str(tmp_path / "tiny.toml"), seeds=2)
    jobs = {(job.setup.recipe.name, job.setup.seed): job for job in suite.jobs}
    densities = {
        ("none", 0): [-1.0, -2.0, -3.0, -4.0],
        ("none", 1): [-2.0, -2.0, -3.0, -4.0],
        ("mean-field", 0): [-1.0, -1.0, -1.0, -1.0],
        ("model-reduction", 0): [-1.5, -2.0, -3.5, -5.0],
        ("model-reduction", 1): [-2.0, -3.0, -3.0, -4.0],
    }
    results = tmp_path / "results.jsonl"
    results.write_text(
        "".join(json.dumps(line(jobs[key], values)) + "\n" for key, values in densities.items())
    )
    rows = {(row.name, row.predicts): row for row in bench.table(suite, results)}
    assert list(rows) == [
        ("digits-fcn-none", "network"),
        ("digits-fcn-mean-field-0.3", "network"),
        ("digits-fcn-mean-field-0.3", "posterior"),
        ("digits-fcn-model-reduction-0.3", "network"),
    ]
    row = rows["digits-fcn-model-reduction-0.3", "network"]
    from_dense = row.against("none", "network")
    from_mean_field = row.against("mean-field", "posterior")
    assert from_dense is not None and from_mean_field is not None
    # By datum (0.5, 0, 0.5, 1) and (0, 1, 0, 0): their mean is (0.25, 0.5, 0.25, 0.5).
    assert from_dense.by_seed == pytest.approx([0.5, 0.25])
    assert from_dense.mean == pytest.approx(0.375)
    assert from_dense.se == pytest.approx(math.sqrt(4 * 0.125**2 / 3) / 2)
    # Only seed 0 has a mean field beside it; by datum (0.5, 1, 2.5, 4).
    assert from_mean_field.by_seed == pytest.approx([2.0])
    assert from_mean_field.se == pytest.approx(math.sqrt(7.5 / 3) / 2)
    assert bench.markdown([row]).splitlines()[-1] == (
        "| digits-fcn-model-reduction-0.3 | network | 2 | 75.00 ± 0.00 | 3.0000 ± 0.0000 "
        "| 0.0100 ± 0.0000 | 0.9000 ± 0.0000 | -12.0 (1.5) | 80.0 ± 0.0 "
        "| +0.3750 ± 0.1768 (0.0722) | +2.0000 (0.7906) |"
    )


def test_the_suite_has_every_method_once_before_a_second_seed() -> None:
    suite = bench.load("evidence", seeds=1)
    assert suite.outside == "mnist"
    methods = {job.setup.recipe.name for job in suite.jobs}
    assert methods >= {"none", "mean-field", "model-reduction", "magnitude", "gibbs"}
    assert "beta-bernoulli" in methods and len(suite.jobs) == 11
    assert len(bench.load("evidence").jobs) == 33
