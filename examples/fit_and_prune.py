"""Prune while training, where the Bayes factor of the round before allows it.

    python examples/fit_and_prune.py --epochs 30 --sparsity 0.9

The command line does the same, and writes a folder of results:

    pyrosparse compress bayesian-magnitude --sparsity 0.9 --epochs 30
"""

from __future__ import annotations

import argparse

import torch

import pyrosparse as ps
from pyrosparse.evidence import evaluate
from pyrosparse.infer import schedules


def main(
    epochs: int = 30, sparsity: float = 0.9, hidden: int = 128, seed: int = 0
) -> dict[str, float]:
    data = ps.data.load("digits", seed=seed)
    torch.manual_seed(seed)
    net = ps.networks.fcn(data.image_shape, hidden=(hidden, hidden))
    bnn = ps.lift(net, ps.Gaussian(scale=1.0))  # a point estimate under a Gaussian prior
    model = ps.classifier(bnn, n=len(data.train))
    pruner = ps.prune.BayesFactorPruner(
        "magnitude",
        sparsity,
        likelihood="sum",  # the log posterior proper ...
        per_datum=True,  # ... divided by the number of data
        threshold=-0.1,  # nats: prune on unless a datum lost more than this
        ramp=schedules.cubic(end=0.6),
        freeze=True,
    )
    run = ps.fit(
        model,
        bnn.guide,
        data.train,
        epochs=epochs,
        callbacks=[pruner],
        validation=data.validation,
        seed=seed,
    )
    for entry in run.history:
        print(
            f"epoch {entry['epoch']:3}  sparsity {entry['sparsity']:.3f}  "
            f"log BF {entry['log_bayes_factor']:9.2f} = likelihood "
            f"{entry['log_bayes_factor_likelihood']:9.2f} + prior "
            f"{entry['log_bayes_factor_prior']:6.2f}  "
            f"validation accuracy {entry['validation_accuracy']:.3f}"
        )
    test = evaluate(model, bnn.guide, data.test)
    zeros = sum(int((target.value == 0).sum()) for target in bnn.targets)
    of = sum(target.value.numel() for target in bnn.targets)
    print(f"test accuracy {test['accuracy']:.3f} with {zeros} of {of} weights at zero")
    return {**test, "sparsity": zeros / of}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
