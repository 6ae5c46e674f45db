"""A tiny network by NUTS and by mean-field SVI: the same model, two inferences.

    python examples/compare_with_nuts.py --samples 100

NUTS is too slow for real networks, and right on small ones: it shows how much narrower the
mean-field posterior is. The command line does not offer it; a lifted network is a Pyro program,
and any Pyro inference takes it.
"""

from __future__ import annotations

import argparse

import pyro
import torch
from pyro.infer import MCMC, NUTS, Predictive
from torch import nn

import pyrosparse as ps


def main(
    epochs: int = 300, samples: int = 100, warmup: int = 100, hidden: int = 4, seed: int = 0
) -> dict[str, float]:
    pyro.set_rng_seed(seed)
    x = torch.cat([torch.linspace(-1, -0.3, 20), torch.linspace(0.3, 1, 20)]).unsqueeze(1)
    y = torch.sin(3 * x) + 0.1 * torch.randn_like(x)
    where = torch.tensor([[-0.8], [0.0], [0.8], [1.5]])  # data, gap, data, beyond
    net = nn.Sequential(nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, 1))
    # All parameters are random, biases too: NUTS trains no parameter.
    bnn = ps.lift(net, ps.Gaussian(scale=1.5, posterior="normal"), on=ps.weights(net, "*"))
    model = ps.regressor(bnn, n=len(x), noise=0.1)

    ps.fit(
        model,
        bnn.guide,
        (x, y),
        epochs=epochs,
        batch_size=len(x),
        learning_rate=1e-2,
        seed=seed,
        progress=False,
    )
    bnn.eval()
    by_svi = Predictive(bnn, guide=bnn.guide, num_samples=samples, return_sites=("_RETURN",))

    nuts = MCMC(
        NUTS(model, max_tree_depth=6),
        num_samples=samples,
        warmup_steps=warmup,
        disable_progbar=True,
    )
    nuts.run(x, y)
    by_nuts = Predictive(bnn, posterior_samples=nuts.get_samples(), return_sites=("_RETURN",))

    result = {}
    print("   x     SVI mean (sd)    NUTS mean (sd)")
    draws = {"svi": by_svi(where)["_RETURN"], "nuts": by_nuts(where)["_RETURN"]}
    for row, position in enumerate(where[:, 0].tolist()):
        figures = []
        for name, values in draws.items():
            mean, deviation = values[:, row].mean().item(), values[:, row].std().item()
            result[f"{name}_sd_{position:g}"] = deviation
            figures.append(f"{mean:6.2f} ({deviation:.2f})")
        print(f"{position:5.1f}  {'   '.join(figures)}")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--hidden", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
