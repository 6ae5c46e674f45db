"""The settings of a run: what belongs to which method, and what is filled in."""

import json
from dataclasses import asdict

import pytest
from pyrosparse.compress import METHODS, Settings
from pyrosparse.compress.methods import beta_bernoulli, pruner


def test_settings_are_json_values_and_come_back() -> None:
    for method in METHODS:
        settings = Settings(method=method, network_options={"hidden": [8]})
        assert Settings.of(json.loads(json.dumps(asdict(settings)))) == settings
    gamma = {"conv1.*": 20, "*": 1}
    settings = Settings(network="lenet5_caffe", dataset="mnist", kl_scale=gamma)
    assert Settings.of(json.loads(json.dumps(asdict(settings)))) == settings


def test_options_of_another_method_are_none_and_refused() -> None:
    assert Settings().sparsity is None and Settings(method="magnitude").kl_scale is None
    with pytest.raises(ValueError, match=r"no option ramp: it is one of none, random"):
        Settings(ramp=0.5)
    with pytest.raises(ValueError, match=r"no option gate_rate: it is one of beta-bernoulli"):
        Settings(method="none", gate_rate=0.1)
    assert Settings(method="none", sparsity=0.5).level is None  # for suites of pruning


def test_results_from_before_there_were_gates_keep_their_settings() -> None:
    old = {
        "network": "fcn",
        "network_options": {},
        "dataset": "mnist",
        "method": "none",
        "sparsity": 0.9,
        "epochs": 25,
        "batch_size": 64,
        "learning_rate": 1e-3,
        "scale": 1.0,
        "ramp": 0.64,
        "freeze": True,
        "threshold": -0.105,
        "likelihood": "sum",
        "per_datum": True,
        "validation": 0.1,
        "seed": 0,
    }
    settings = Settings.of(old)
    assert {name: getattr(settings, name) for name in old} == old
    assert settings == Settings(method="none", dataset="mnist", epochs=25, ramp=0.64)


def test_the_recipe_is_the_sheets_on_mnist() -> None:
    settings = Settings(dataset="mnist").for_data(60_000)
    assert (settings.epochs, settings.pretrain, settings.kl_warmup) == (30, 20, 2)
    assert settings.scale == pytest.approx((1e-4 * 60_000) ** -0.5)
    gates = beta_bernoulli(settings)
    assert (gates.temperature, gates.pi, gates.initial) == (0.3, "collapsed", 0.95)
    assert (settings.batch_size, settings.learning_rate, settings.gate_rate) == (100, 2e-3, 0.05)


def test_what_is_said_is_not_filled_in() -> None:
    settings = Settings(epochs=3, pretrain=0, kl_warmup=0, scale=2.0)
    assert settings.for_data(100) == settings
    pruning = Settings(method="random")
    assert pruning.for_data(100) is pruning
    assert pruner(Settings(method="none")) is None


def test_the_level_tells_runs_apart() -> None:
    assert Settings(kl_scale=4).level == 4
    assert Settings(kl_scale={"fc1.*": 8.0, "*": 2.0}).level == 2.0
    assert Settings(method="random", sparsity=0.5).level == 0.5
