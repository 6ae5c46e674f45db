"""What speaks for a pruned network: log posterior, Bayes factor in its parts, ELBO difference.

    python examples/evidence.py --sparsity 0.5

`pyrosparse compress` records the Bayes factor of every round in metrics.jsonl; ELBO differences
are a job for the library.
"""

from __future__ import annotations

import argparse
import math

import torch

import pyrosparse as ps
from pyrosparse.evidence import elbo, elbo_difference, evaluate, log_bayes_factor, log_posterior


def main(
    epochs: int = 40, sparsity: float = 0.5, draws: int = 16, hidden: int = 32, seed: int = 0
) -> dict[str, float]:
    data = ps.data.load("digits", seed=seed)
    torch.manual_seed(seed)
    net = ps.networks.fcn(data.image_shape, hidden=(hidden, hidden))
    method = ps.Gaussian(scale=0.3, posterior="normal")
    bnn = ps.lift(net, method)
    model = ps.classifier(bnn, n=len(data.train))
    ps.fit(
        model,
        bnn.guide,
        data.train,
        epochs=epochs,
        learning_rate={"guide.*": 1e-2, "*": 3e-3},
        seed=seed,
        progress=False,
    )

    def measure() -> tuple:
        return (
            log_posterior(model, bnn.guide, data.train),
            elbo(model, bnn.guide, data.train, draws=draws, seed=seed),
            evaluate(model, bnn.guide, data.test),
        )

    point, bound, test = measure()
    print(f"log posterior at the mean: {point.likelihood:.0f} + {point.prior:.0f} nats")
    print(f"ELBO: {bound.mean:.0f} +- {bound.standard_error:.0f} nats")

    masks = ps.prune.magnitude(bnn.scores(), sparsity)  # smallest |mean| / sd first
    bnn.freeze(masks)
    forget(bnn, masks, method.scale)
    pruned_point, pruned_bound, pruned_test = measure()

    factor = log_bayes_factor(point, pruned_point)
    print(f"at sparsity {masks.sparsity:.2f}:")
    parts = f"likelihood {factor.likelihood:.1f} + prior {factor.prior:.1f}"
    print(f"  log BF {factor.total:.1f} = {parts}")
    gain = elbo_difference(bound, pruned_bound)
    print(f"  ELBO difference {gain.mean:.0f} +- {gain.standard_error:.0f} nats")
    print(f"  test accuracy {test['accuracy']:.3f} -> {pruned_test['accuracy']:.3f}")
    return {
        "log_bayes_factor": factor.total,
        "elbo_difference": gain.mean,
        "standard_error": gain.standard_error,
        "accuracy": pruned_test["accuracy"],
    }


def forget(bnn: ps.Lifted, masks: ps.Masks, scale: float) -> None:
    """Give frozen weights the prior as their posterior, so that they cost no KL divergence.

    A frozen weight is zero wherever the network uses it, but its site is still drawn and scored.
    Under the prior its two densities cancel: the ELBO is then that of the pruned model.
    """
    with torch.no_grad():
        for key, mask in masks.items():
            bnn.get_parameter(f"guide.posterior.{key}.log_scale")[~mask] = math.log(scale)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
