"""The rate at which Gibbs masks remove, against the inverse temperature: a figure.

    python docs/figures/gibbs_phase.py

writes ``gibbs_phase.svg`` beside itself and prints what it shows. To the left the exact law of
single Gaussian weights, for several p. To the right the filters of a layer, at the coupling c = 1
of the paper and p = 0.75: the exact law, and what 50 sweeps make of either start. Some seconds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

from pyrosparse.distributions import BipartiteGibbsMask, GibbsMask
from pyrosparse.distributions.quantile import quantile
from pyrosparse.plots.style import BLUE, GREEN, GREY, INK, ORANGE, STYLE

RATES = (0.5, 0.75, 0.9)
FILTERS, WEIGHTS, DEVIATION = 32, 288, 0.05


def single_weights(betas: Tensor, points: int = 20_001) -> dict[float, list[float]]:
    """By p, the mean fraction removed of weights of standard deviation 1, at each beta."""
    places = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    squares = torch.special.ndtri(places).square()
    return {
        p: [
            float(1 - GibbsMask(quantile(squares, p) - squares, beta).mean.mean()) for beta in betas
        ]
        for p in RATES
    }


def filters(betas: Tensor, sweeps: int, draws: int) -> dict[str, list[float]]:
    """The mean fraction removed of a layer's weights, by how it was come by, at each beta."""
    torch.manual_seed(0)
    spread = 0.7 + 0.6 * torch.rand(FILTERS, 1)
    squares = (DEVIATION * spread * torch.randn(FILTERS, WEIGHTS)).square()
    field = quantile(squares.mean(1), 0.75) - squares
    found: dict[str, list[float]] = {"exact law": [], "from magnitude": [], "from random": []}
    for beta in betas:
        for start in ("magnitude", "random"):
            law = BipartiteGibbsMask(field, beta, 1.0, sweeps=sweeps, start=start)  # type: ignore[arg-type]
            found[f"from {start}"].append(float(1 - law.sample((draws,)).mean()))
        found["exact law"].append(float(1 - law.mean.mean()))
    return found


def draw(
    u: Tensor,
    single: dict[float, list[float]],
    betas: Tensor,
    block: dict[str, list[float]],
    file: Path,
) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(STYLE):
        figure, (left, right) = pyplot.subplots(
            1, 2, figsize=(8, 3.4), sharey=True, layout="constrained"
        )
        for (p, rates), colour in zip(single.items(), (BLUE, ORANGE, GREEN), strict=True):
            left.plot(u, rates, color=colour, label=f"p = {p:g}")
        left.set(xscale="log", ylim=(0, 1), title="Single weights")
        left.set(xlabel=r"$\beta \sigma^2$", ylabel="fraction removed")
        left.legend()
        lines = ((INK, "-"), (BLUE, "o-"), (ORANGE, "s-"))
        for (name, rates), (colour, line) in zip(block.items(), lines, strict=True):
            right.plot(betas, rates, line, color=colour, label=name)
        right.axhline(0.75, color=GREY, linewidth=0.8)
        title = rf"Filters, $c = 1$, $\sigma = {DEVIATION}$"
        right.set(xscale="log", xlabel=r"$\beta$", title=title)
        right.legend()
        figure.savefig(file, metadata={"Date": None})
        pyplot.close(figure)


def main(sweeps: int = 50, draws: int = 20, folder: Path = Path(__file__).parent) -> None:
    u = torch.logspace(-3, 2, 60, dtype=torch.float64)
    betas = torch.logspace(-3, 0, 16, dtype=torch.float64)
    single, block = single_weights(u), filters(betas, sweeps, draws)
    draw(u, single, betas, block, folder / "gibbs_phase.svg")
    at = (0, 8, 15)
    print("beta          ", *(f"{float(betas[i]):8.4f}" for i in at))
    for name, rates in block.items():
        print(f"{name:14}", *(f"{rates[i]:8.3f}" for i in at))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", type=int, default=50)
    parser.add_argument("--draws", type=int, default=20)
    main(**vars(parser.parse_args()))
