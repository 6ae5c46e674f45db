"""ArviZ's figures of a compressed Bayesian network for regression, with its noise learned.

    python examples/arviz_gallery.py --folder docs/figures

Two runs from different starts are trained and pruned as far as the evidence goes; then seven
figures of arviz-plots are drawn from them: forest, rank, ppc-pit, loo-pit, prior against posterior,
sensitivity to the prior, and k-hat. docs/arviz.md says how to read each.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import nn

import pyrosparse as ps
from pyrosparse.diagnostics import regression_qualities
from pyrosparse.prune import ReductionPruner


def run(seed: int, data: tuple[torch.Tensor, torch.Tensor], hidden: int, epochs: int) -> Any:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, 1))
    bnn = ps.lift(net, ps.Gaussian(scale=1.0, posterior="normal"), on=ps.weights(net, "*"))
    model = ps.regressor(bnn, n=len(data[0]))
    pruner = ReductionPruner(warmup=epochs // 2, every=max(1, epochs // 20), draws=16)
    ps.fit(
        model,
        model.guide,
        data,
        epochs=epochs,
        batch_size=len(data[0]),
        learning_rate=1e-2,
        callbacks=[pruner],
        seed=seed,
        progress=False,
    )
    return bnn, model


def draw(tree: Any, loo: Any, folder: Path) -> None:
    import arviz_plots as azp

    azp.style.use("arviz-variat")
    scalars = {"var_names": ["noise", "norm"]}
    figures = {
        "forest": azp.plot_forest(tree, **scalars),
        "rank": azp.plot_rank(tree, **scalars),
        "ppc-pit": azp.plot_ppc_pit(tree),
        "loo-pit": azp.plot_loo_pit(tree),
        "prior-posterior": azp.plot_prior_posterior(tree, **scalars),
        "psense": azp.plot_psense_dist(tree, var_names=["noise"]),
        "khat": azp.plot_khat(loo),
    }
    for name, figure in figures.items():
        figure.savefig(folder / f"arviz-{name}.svg", bbox_inches="tight")


def main(
    epochs: int = 400,
    hidden: int = 12,
    draws: int = 150,
    seed: int = 0,
    folder: str | None = None,
) -> dict[str, float]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(80, 1, generator=generator) * 4 - 2
    y = torch.sin(2 * x) + 0.2 * torch.randn(80, 1, generator=generator)
    runs = [run(seed + chain, (x, y), hidden, epochs) for chain in range(2)]
    bnns, models = [one[0] for one in runs], [one[1] for one in runs]
    tree = ps.to_datatree(bnns, models, (x, y), draws=draws, prior_draws=draws, seed=seed)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large k-hats, which the last figure shows
        from arviz_stats import loo_approximate_posterior

        stats = tree["sample_stats"]
        loo = loo_approximate_posterior(tree, stats["lp"], stats["log_q"], pointwise=True)
        if folder is not None:
            with matplotlib.rc_context({"svg.hashsalt": "pyrosparse", "svg.fonttype": "none"}):
                draw(tree, loo, Path(folder))
    qualities = regression_qualities({f"run {at}": one for at, one in enumerate(models)}, (x, y))
    print(qualities)
    scores = [bnn.masks() for bnn in bnns]
    kept = sum(int(mask.count_nonzero()) for mask in scores[0].values())
    print(f"weights and biases kept in the first run: {kept}")
    return {
        "noise": float(tree["posterior"]["noise"].mean()),
        "rmse": qualities["run 0"].rmse,
        "khat_bad": float((loo.pareto_k > loo.good_k).sum()),
        "kept": kept,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--hidden", type=int, default=12)
    parser.add_argument("--draws", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where the figures go; none without it")
    main(**vars(parser.parse_args()))
