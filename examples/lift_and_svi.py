"""A Bayesian network by plain Pyro: lift, SVI, Predictive, masks.

    python examples/lift_and_svi.py --epochs 10

Nothing here is a loop of ours: the model is an ordinary Pyro program. From the command line there
is no equivalent; the library is for this, `pyrosparse compress` for pruning.
"""

from __future__ import annotations

import argparse

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Predictive, TraceMeanField_ELBO
from pyro.optim import Adam

import pyrosparse as ps


def main(epochs: int = 10, draws: int = 20, hidden: int = 64, seed: int = 0) -> dict[str, float]:
    pyro.set_rng_seed(seed)
    pyro.clear_param_store()
    data = ps.data.load("digits")
    net = ps.networks.fcn(data.image_shape, hidden=(hidden, hidden))
    bnn = ps.lift(net, ps.Gaussian(scale=0.3, posterior="normal", estimator="activations"))

    def model(x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        logits = bnn(x)
        with pyro.plate("data", len(data.train), subsample_size=len(x)):
            return pyro.sample("y", dist.Categorical(logits=logits), obs=y)

    svi = SVI(model, bnn.guide, Adam({"lr": 3e-3}), TraceMeanField_ELBO())
    generator = torch.Generator().manual_seed(seed)
    bnn.train()
    for epoch in range(epochs):
        losses = [svi.step(x, y) for x, y in data.train.batches(64, generator)]
        print(f"epoch {epoch + 1}: negative ELBO {sum(losses) / len(losses):.0f} nats")

    bnn.eval()  # draws of weights from here on, not of activations
    predict = Predictive(bnn, guide=bnn.guide, num_samples=draws, return_sites=("_RETURN",))
    logits = predict(data.test.x)["_RETURN"]  # (draws, n, classes)
    probabilities = logits.softmax(-1).mean(0)
    accuracy = (probabilities.argmax(-1) == data.test.y).float().mean().item()
    nll = -probabilities[range(len(data.test)), data.test.y].log().mean().item()
    print(f"test accuracy {accuracy:.3f}, negative log likelihood {nll:.3f} nats")

    # Keep what lies more than one posterior standard deviation from zero.
    masks = bnn.masks(threshold=1.0, at_least=1)
    print(masks.table())
    return {"accuracy": accuracy, "nll": nll, "sparsity": masks.sparsity}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
