"""Search a recipe's knob with Optuna: accuracy on validation data against units left.

    pip install optuna && python examples/optuna_recipe.py --trials 20

A unit must be worth `price` of accuracy. A trial that does worse than half of those before it is
pruned in the epoch that shows it. All trials share one pretraining, which is trained once.
"""

from __future__ import annotations

import argparse
import tempfile

import optuna
import torch

import pyrosparse as ps


class Value(ps.infer.Callback):
    """Reports the value of each epoch with gates, and stops a trial that Optuna prunes."""

    def __init__(self, trial: optuna.Trial, validation: ps.data.Examples, price: float) -> None:
        self.trial = trial
        self.validation = validation
        self.price = price
        self.value = 0.0

    def on_epoch_end(self, run: ps.infer.Fit) -> None:
        if run.stage == "pretraining":
            return
        accuracy = ps.evidence.evaluate(run.model, run.guide, self.validation)["accuracy"]
        self.value = accuracy - self.price * sum(run.history[-1]["units"].values())
        self.trial.report(self.value, run.epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned


def main(
    trials: int = 20,
    pretrain: int = 20,
    epochs: int = 60,
    hidden: int = 64,
    price: float = 1e-3,
    seed: int = 0,
) -> dict[str, float]:
    torch.manual_seed(seed)
    data = ps.data.load("digits", validation=0.2)
    net = ps.networks.fcn(data.image_shape, hidden=(hidden, hidden))
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=epochs // 3),
    )
    with tempfile.TemporaryDirectory() as pool:

        def objective(trial: optuna.Trial) -> float:
            gamma = trial.suggest_float("kl_scale", 0.1, 10.0, log=True)
            recipe = ps.recipes.BetaBernoulli(kl_scale=gamma, pretrain=pretrain, epochs=epochs)
            value = Value(trial, data.validation, price)
            result = ps.compress(net, data, recipe, pool=pool, callbacks=[value], progress=False)
            left = sum(p.numel() for p in (result.small or result.net).parameters())
            trial.set_user_attr("accuracy", result.quality["accuracy"])
            trial.set_user_attr("parameters", left)
            return value.value

        study.optimize(objective, n_trials=trials)

    for trial in study.trials:
        print(f"gamma {trial.params['kl_scale']:6.3f}: {trial.state.name}, {trial.user_attrs}")
    best = study.best_trial
    return {
        "kl_scale": best.params["kl_scale"],
        "value": best.value,
        "accuracy": best.user_attrs["accuracy"],
        "parameters": best.user_attrs["parameters"],
        "pruned": sum(trial.state.name == "PRUNED" for trial in study.trials),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--pretrain", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--price", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    print(main(**vars(parser.parse_args())))
