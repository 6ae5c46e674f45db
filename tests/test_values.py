"""Data sets of values, and a suite on them."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from pyrosparse import bench, data
from pyrosparse.bench import tables
from pyrosparse.bench.predictive import unpacked
from pyrosparse.cli import app
from pyrosparse.evidence.given import AnyDraw
from pyrosparse.recipes.setup import Setup

SUITE = """
title = "Tiny"
source = "nobody"
[settings]
dataset = "linnerud"
network_options = { hidden = [3] }
model = "regressor"
validation = 0.0
[[grid]]
recipe = "mean-field"
epochs = 2
batch_size = 18
[[grid]]
recipe = "nuts"
samples = 5
warmup = 10
depth = 3
"""


@pytest.mark.parametrize("name", ["diabetes", "linnerud", "friedman1", "friedman2", "friedman3"])
def test_splits_are_by_the_seed_and_normalised_by_the_training_part(name: str) -> None:
    first, again, other = (data.load(name, validation=0.2, seed=seed) for seed in (1, 1, 2))
    n = sum(len(part) for part in (first.train, first.validation, first.test) if part is not None)
    assert len(first.test) == round(0.1 * n)
    assert first.validation is not None
    assert len(first.validation) == round(0.2 * (n - len(first.test)))
    assert torch.equal(first.test.x, again.test.x) and not torch.equal(first.test.x, other.test.x)
    for part in (first.train.x, first.train.y):
        assert torch.allclose(part.mean(0), torch.zeros(part.shape[1]), atol=1e-4)
        assert torch.allclose(part.std(0, correction=0), torch.ones(part.shape[1]), atol=1e-3)


def test_targets_come_back_in_their_own_unit() -> None:
    from sklearn.datasets import load_diabetes

    found = data.load("diabetes", validation=0)
    spread = found.test.y.max() - found.test.y.min()
    values = torch.from_numpy(load_diabetes().target)
    differences = (values[:, None] - values).abs().unique()
    nearest = (differences - float(spread) * found.target_scale).abs().min()
    assert float(nearest) < 1e-3  # targets are whole numbers, so that differences are
    with pytest.raises(ValueError, match="not a data set of images"):
        data.load("diabetes", normalise="unit")


def test_friedman_is_its_function_with_its_noise() -> None:
    from pyrosparse.data.values import VALUES

    x, y = VALUES["friedman1"]()
    truth = torch.from_numpy(x)
    mean = (
        10 * torch.sin(torch.pi * truth[:, 0] * truth[:, 1])
        + 20 * (truth[:, 2] - 0.5).square()
        + 10 * truth[:, 3]
        + 5 * truth[:, 4]
    )
    residuals = torch.from_numpy(y) - mean
    # 500 draws of N(0, 1): the standard error of their deviation is 0.03.
    assert float(residuals.std()) == pytest.approx(1.0, abs=0.13)


@pytest.mark.parametrize(
    ("model", "outputs"),
    [("", 1), ("regressor", 1), ("heteroscedastic", 2), ("counts", 1)],
)
def test_a_network_has_the_outputs_that_the_model_needs(model: str, outputs: int) -> None:
    from pyrosparse.recipes.named import load_data, load_network

    setup = Setup.of({"dataset": "diabetes", "network_options": {"hidden": [3]}, "model": model})
    assert load_network(setup, load_data(setup))[-1].out_features == outputs


def test_labels_of_images_have_one_output_a_class_or_one_in_order() -> None:
    from pyrosparse.recipes.named import load_data, load_likelihood, load_network

    for model, outputs in (("classifier", 10), ("ordinal", 1)):
        setup = Setup.of({"network_options": {"hidden": [3]}, "model": model})
        images = load_data(setup)
        net = load_network(setup, images)
        assert net[-1].out_features == outputs
        make = load_likelihood(setup, images, net)
        assert make is not None
        assert make(net, 5)(images.train.x[:5]).shape == (5,)
    with pytest.raises(ValueError, match="did you mean 'regressor'"):
        load_likelihood(Setup.of({"model": "regresor"}), images, net)


def test_a_suite_of_values_is_run_and_shown(tmp_path: Path) -> None:
    file = tmp_path / "tiny.toml"
    file.write_text(SUITE)
    suite = bench.load(str(file), seeds=2)
    results = tmp_path / "tiny.jsonl"
    assert len(list(bench.run(suite, results=results, scratch=tmp_path / "scratch"))) == 4
    lines = {line["cell"]: line for line in bench.read(results)}
    field, nuts = lines["linnerud-fcn-mean-field-0.3"], lines["linnerud-fcn-nuts-0.3"]
    assert set(nuts["predictive"]) == {"posterior"}
    assert set(field["predictive"]) == {"network", "posterior"}
    assert field["test_rmse"] == pytest.approx(field["predictive"]["network"]["rmse"])
    found = field["predictive"]["posterior"]
    assert float(unpacked(found["log_density"]).sum()) == pytest.approx(found["elpd"], rel=1e-2)
    assert list(bench.run(suite, results=results, scratch=tmp_path / "scratch")) == []
    shown = tables.markdown(bench.table(suite, results))
    assert "RMSE" in shown and "NLL less NUTS's" in shown and "± " in shown
    command = ["bench", str(file), "--results", str(results), "--seeds", "2"]
    assert "nothing is missing" in CliRunner().invoke(app, command).output
    json.dumps(lines)


def test_draws_of_a_sampler_are_each_as_probable() -> None:
    import pyro.poutine as poutine

    guide = AnyDraw({"a": torch.arange(4.0), "b": 10 * torch.arange(4.0)})
    torch.manual_seed(0)
    drawn = []
    for _ in range(400):
        trace = poutine.trace(guide).get_trace()
        assert trace.nodes["b"]["value"] == 10 * trace.nodes["a"]["value"]
        drawn.append(float(trace.nodes["a"]["value"]))
    counts = torch.tensor(drawn).long().bincount(minlength=4)
    assert float(((counts - 100) ** 2 / 100).sum()) < 16.3  # chi squared, 3 degrees, 0.1 %
