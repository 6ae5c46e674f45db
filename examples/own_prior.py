"""A prior of one's own in one function, beside the horseshoe that ships.

    python examples/own_prior.py --epochs 20

A prior that is not in the package has no name on the command line: this is a job for the library.
"""

from __future__ import annotations

import argparse

import pyro
import pyro.distributions as dist
import torch

import pyrosparse as ps
from pyrosparse.evidence import evaluate


def laplace(target: ps.Target) -> torch.Tensor:
    """Draw a weight from independent Laplace priors; one event, as large as the weight."""
    zeros = torch.zeros_like(target.value)
    prior = dist.Laplace(zeros, 0.1).to_event(zeros.dim())
    return pyro.sample(target.site, prior)


def main(epochs: int = 20, hidden: int = 32, seed: int = 0) -> dict[str, float]:
    data = ps.data.load("digits", seed=seed)
    result = {}
    for name, method in {"laplace": ps.from_pyro(laplace), "horseshoe": ps.Horseshoe()}.items():
        torch.manual_seed(seed)
        net = ps.networks.fcn(data.image_shape, hidden=(hidden, hidden))
        bnn = ps.lift(net, method)
        model = ps.classifier(bnn, n=len(data.train))
        ps.fit(
            model,
            bnn.guide,
            data.train,
            epochs=epochs,
            kl_warmup=epochs // 2,  # else the prior wins before the data are heard
            learning_rate={"guide.*": 1e-2, "*": 3e-3},
            seed=seed,
            progress=False,
        )
        masks = bnn.masks(threshold=1.0, at_least=1)  # |loc| / scale of the posterior
        bnn.freeze(masks)
        test = evaluate(model, bnn.guide, data.test)
        print(f"{name}: test accuracy {test['accuracy']:.3f} at sparsity {masks.sparsity:.2f}")
        result[f"{name}_accuracy"] = test["accuracy"]
        result[f"{name}_sparsity"] = masks.sparsity
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
