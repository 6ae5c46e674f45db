"""Every example runs, and gives figures that are finite."""

import importlib.util
import math
import re
import runpy
import warnings
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

import pyrosparse as ps

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

TINY = {
    "lift_and_svi": {"epochs": 1, "draws": 2, "hidden": 8},
    "fit_and_prune": {"epochs": 2, "hidden": 8},
    "own_prior": {"epochs": 1, "hidden": 8},
    "own_support_prior": {"epochs": 2, "series": 16, "kernel": 9},
    "compare_with_nuts": {"epochs": 2, "samples": 3, "warmup": 3, "hidden": 2},
    "compress_any_network": {"epochs": 1, "hidden": 8, "images": 40},
    "compress_hugging_face": {"epochs": 1, "count": 40},
    "compress_resnet": {"pretrain": 1, "epochs": 1, "size": 16, "digits": 60},
    "evidence": {"epochs": 1, "draws": 2, "hidden": 8},
    "prune_by_evidence": {"epochs": 2, "draws": 2, "hidden": 4},
    "arviz_gallery": {"epochs": 4, "hidden": 2, "draws": 30},
    "predict_with_uncertainty": {"epochs": 1, "draws": 3, "hidden": 8},
    "diagnose": {"epochs": 40, "draws": 30, "hidden": 8},
    "sharded_gates": {"epochs": 1, "hidden": 8},
    "train_on_ranks": {"epochs": 1, "hidden": 8},
    "optuna_recipe": {"trials": 2, "pretrain": 1, "epochs": 1, "hidden": 8},
    "lightning_module": {"epochs": 1, "hidden": 8},
    "accelerate_loop": {"epochs": 1, "hidden": 8},
}
# What an example needs beside the package.
NEEDS = {
    "compress_hugging_face": "transformers",
    "optuna_recipe": "optuna",
    "lightning_module": "lightning",
    "accelerate_loop": "accelerate",
}


# The parameters of the tutorials' scripts, which run from top to bottom.
TUTORIALS = {
    "tutorial_sparse_posterior": {"epochs": 6, "hidden": 16},
    "tutorial_own_pyro_model": {"steps": 3, "samples": 2},
    "tutorial_regression": {"epochs": 3, "draws": 40},
    "tutorial_vision_deployment": {"epochs": 1, "images": 100},
    "tutorial_own_prior_and_recipe": {"epochs": 1, "hidden": 8},
    "tutorial_which_method": {"epochs": 1, "pretrain": 1, "hidden": 8},
    "tutorial_several_processes": {"epochs": 1, "hidden": 8},
    "tutorial_transformer": {"epochs": 1, "images": 100},
}


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_are_listed():
    names = {file.stem for file in EXAMPLES.glob("*.py")}
    assert names == {*TINY, *TUTORIALS, "compress_sentence_encoder", "compress_imagenet_classifier"}


@pytest.mark.slow
@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorial_runs(name):
    pytest.importorskip("matplotlib.pyplot").switch_backend("Agg")
    text = (EXAMPLES / f"{name}.py").read_text()
    for parameter, value in TUTORIALS[name].items():
        text, changed = re.subn(rf"^{parameter} = .*$", f"{parameter} = {value}", text, flags=re.M)
        assert changed == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ArviZ and NUTS, at so few draws
        exec(compile(text, f"{name}.py", "exec"), {"__name__": name})


def test_the_scripts_of_the_tutorials_are_those_of_the_pages():
    scripts = runpy.run_path(str(ROOT / "docs" / "tutorials" / "scripts.py"))
    pages = scripts["pages"]()
    assert {Path(scripts["name"](page)).stem for page in pages} == set(TUTORIALS)
    for page in pages:
        assert (EXAMPLES / scripts["name"](page)).read_text() == scripts["script"](page)


# Those that train torchvision's networks, or for long.
SLOW = {"compress_any_network", "compress_resnet", "diagnose", "arviz_gallery"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in TINY]
)
def test_runs(name):
    with warnings.catch_warnings():
        if name in NEEDS:
            warnings.simplefilter("ignore")  # of other packages
            pytest.importorskip(NEEDS[name])
        result = load(name).main(**TINY[name])
    assert result and all(math.isfinite(value) for value in result.values())


def test_optuna_stops_a_trial_that_does_worse_than_half_of_those_before_it():
    optuna = pytest.importorskip("optuna")
    example = load("optuna_recipe")
    study = optuna.create_study(
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=0),
    )
    data = ps.data.load("digits", validation=0.2)
    net = ps.networks.fcn(data.image_shape, hidden=(8,))
    prices = iter((0.0, 0.1))  # the second pays for its units

    def objective(trial):
        value = example.Value(trial, data.validation, next(prices))
        recipe = ps.recipes.BetaBernoulli(pretrain=0, epochs=2)
        ps.compress(net, data, recipe, callbacks=[value], progress=False)
        return value.value

    study.optimize(objective, n_trials=2)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED"]
    assert list(study.trials[1].intermediate_values) == [1]


@pytest.mark.slow
def test_a_sentence_encoder_is_cut():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        attn_implementation="eager",
    )

    def tokenizer(texts, **_):
        ids = torch.tensor([[len(word) % 50 for word in text.split()[:5]] for text in texts])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    rows = load("compress_sentence_encoder").main(
        keep=(0.5,),
        calibration=16,
        training=16,
        held_out=16,
        gate_epochs=1,
        epochs=1,
        repeats=1,
        transformer=transformers.BertModel(config, add_pooling_layer=False),
        tokenizer=tokenizer,
    )
    assert [row["way"] for row in rows] == ["original", "curvature", "gates", "distilled"]
    assert rows[0]["cosine"] == pytest.approx(1) and rows[0]["spearman"] == pytest.approx(1)
    layers = [row["of the layers"] for row in rows]
    # Half of 4 heads of 4 features and of 24 neurons, in two layers of width 16; biases behind
    # them and norms stay.
    assert len(set(layers[1:])) == 1
    assert layers[0] - layers[1] == 2 * (2 * 4 * (4 * 16 + 3) + 12 * (2 * 16 + 1))


@pytest.mark.slow
def test_an_imagenet_classifier_is_cut():
    def block(width):
        layers = {
            "expand": torch.nn.Conv2d(4, width, 1, bias=False),
            "_bn0": torch.nn.BatchNorm2d(width),
            "relu0": torch.nn.ReLU6(),
            "depthwise": torch.nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
            "_bn1": torch.nn.BatchNorm2d(width),
            "relu1": torch.nn.ReLU6(),
            "project": torch.nn.Conv2d(width, 4, 1, bias=False),
        }
        return torch.nn.Sequential(OrderedDict(layers))

    torch.manual_seed(0)
    layers = {
        "stem": torch.nn.Conv2d(1, 4, 3, padding=1),
        "blocks": torch.nn.Sequential(block(12), block(12)),
        "pool": torch.nn.AdaptiveAvgPool2d(1),
        "flat": torch.nn.Flatten(),
        "head": torch.nn.Linear(4, 10),
    }
    net = torch.nn.Sequential(OrderedDict(layers))
    for layer in net.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.weight.data *= 4  # so that the classes differ
    rows = load("compress_imagenet_classifier").main(
        "digits", keep=(1.0, 0.5), training=64, held_out=32, epochs=3, rate=1e-2, repeats=1,
        network=net,
    )  # fmt: skip
    whole, _, half, distilled = rows
    assert [row["way"] for row in rows] == ["one-shot", "distilled"] * 2
    assert whole["same class"] == 1 and whole["divergence"] == 0
    # A channel is a column and a row of 4, a filter of 9, and two norms of 2; the stem and the head
    # stay.
    assert whole["parameters"] - half["parameters"] == 12 * (4 + 4 + 9 + 4)
    assert half["parameters"] == distilled["parameters"] and half["macs"] < whole["macs"]
    assert distilled["divergence"] < half["divergence"]


def test_pruning_reaches_the_sparsity_asked_for():
    result = load("fit_and_prune").main(epochs=2, hidden=8, sparsity=0.75)
    assert result["sparsity"] == pytest.approx(0.75, abs=0.01)
