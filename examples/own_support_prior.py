"""A support prior of one's own, beside chains: where in time does a convolution listen?

    python examples/own_support_prior.py --noise 6

A sensor's answer to its inputs comes after some delay and lasts for some time: in each kernel of
the convolution that made the data, a window in time is active, and nothing else. Three priors look
for these windows in the same noisy series: one that takes each weight by itself, Markov chains
along time, and ``Window``, which is written out here and says that a kernel has one window.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyrosparse as ps


@dataclass(frozen=True)
class Window(ps.supports.SupportPrior):
    """One window of active weights along the last dimension, or none, all equally probable.

    There are T (T + 1) / 2 windows in T places, few enough to sum over all of them.
    """

    def messages(self, log_odds: Tensor) -> Tensor:
        windows = every_window(log_odds.shape[-1]).to(log_odds)
        scores = (log_odds @ windows.T).unsqueeze(-1)  # (out, in, windows, 1)
        inside = (scores + windows.log()).logsumexp(-2)  # over the windows that hold the place
        outside = (scores + (1 - windows).log()).logsumexp(-2)
        return inside - outside - log_odds  # what the weight itself said is not told to it again

    def sample(self, name: str, weight: Tensor) -> Tensor:
        windows = every_window(weight.shape[-1]).to(weight)
        prior = dist.Categorical(logits=weight.new_zeros(*weight.shape[:-1], len(windows)))
        return windows[pyro.sample(name, prior.to_event(weight.dim() - 1))]


def every_window(places: int) -> Tensor:
    """All windows in so many places and the empty one, zeros and ones, (windows, places)."""
    start, end = torch.triu_indices(places + 1, places + 1, offset=1)
    place = torch.arange(places)
    windows = (start[:, None] <= place) & (place < end[:, None])
    return torch.cat([torch.zeros(1, places), windows.float()])


def planted(kernel: int, seed: int) -> nn.Conv1d:
    """A convolution of two inputs and three outputs: in each kernel a window of +-0.5."""
    generator = torch.Generator().manual_seed(seed)
    truth = nn.Conv1d(2, 3, kernel, bias=False)
    with torch.no_grad():
        signs = torch.randint(2, truth.weight.shape, generator=generator) * 2 - 1
        truth.weight.copy_(0.5 * signs)
        for series in truth.weight.flatten(0, 1):
            length = int(torch.randint(kernel // 6, kernel // 2, (), generator=generator))
            start = int(torch.randint(kernel - length, (), generator=generator))
            series[:start] = 0
            series[start + length :] = 0
    return truth


def main(
    epochs: int = 60, series: int = 64, kernel: int = 31, noise: float = 6.0, seed: int = 0
) -> dict[str, float]:
    truth = planted(kernel, seed)
    support = truth.weight != 0
    generator = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(series, 2, 2 * kernel, generator=generator)
    with torch.no_grad():
        y = truth(x).flatten(1)
    y = y + noise * torch.randn(y.shape, generator=generator)

    result = {}
    for name, prior in {
        "independent": ps.supports.Chain((0.3, 0.7)),  # p01 = 1 - p10: neighbours say nothing
        "chain": ps.supports.Chain((0.05, 0.1)),  # windows of 10 places, 20 apart
        "window": Window(),
    }.items():
        torch.manual_seed(seed)
        layer = nn.Conv1d(2, 3, kernel, bias=False)
        net = nn.Sequential(layer, nn.Flatten())
        bnn = ps.lift(net, ps.GammaSpikeAndSlab(prior, slab_rate=0.25, spike_rate=0.0025))
        ps.fit(
            ps.regressor(bnn, n=series, noise=noise),
            bnn.guide,
            (x, y),
            epochs=epochs,
            batch_size=16,
            learning_rate=2e-2,
            schedule=ps.infer.schedules.cosine(0.01),
            kl_warmup=epochs // 2,  # else the prior wins before the data are heard
            callbacks=[ps.prune.TurboPruner(prune_from=1.0)],  # what is inactive goes at the end
            seed=seed,
            progress=False,
        )
        found = bnn.masks()["0.weight"]
        right = float((found == support).float().mean())
        error = float((layer.weight - truth.weight).detach().square().mean().sqrt())
        print(f"{name:<12} {right:.1%} of the support right, weights {error:.3f} off")
        print(picture(found[0, 0], support[0, 0]))
        result |= {f"{name}_support": right, f"{name}_error": error}
    return result


def picture(found: Tensor, support: Tensor) -> str:
    """The first kernel's support, found above true."""
    rows = ("".join("#" if on else "." for on in row.tolist()) for row in (found, support))
    return "  found {}\n  true  {}".format(*rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--series", type=int, default=64)
    parser.add_argument("--kernel", type=int, default=31)
    parser.add_argument("--noise", type=float, default=6.0)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
