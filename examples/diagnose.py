"""Is a compressed posterior any good? The same questions to a network before and after pruning.

    python examples/diagnose.py --sparsity 0.75

It trains two runs of a small network on digits, prunes a copy of one, and asks: has training
converged, do the runs predict the same, which network predicts held-out data best, are its
probabilities right, does it notice data of another kind. docs/diagnostics.md says what each answer
is worth.
"""

from __future__ import annotations

import argparse
import copy

import torch

import pyrosparse as ps
from pyrosparse.diagnostics import elbo_trace, khat, predictive_quality, rhat


def train(
    bnn: ps.Lifted, model: ps.classifier, data: ps.data.DataSet, epochs: int, seed: int
) -> list[dict]:
    rates = {"guide.*": 1e-2, "*": 3e-3}
    options = {"epochs": epochs, "learning_rate": rates, "seed": seed, "progress": False}
    return ps.fit(model, bnn.guide, data.train, **options).history


def main(
    epochs: int = 80, sparsity: float = 0.75, draws: int = 50, hidden: int = 32, seed: int = 0
) -> dict[str, float]:
    data = ps.data.load("digits", seed=seed)
    runs, models = [], []
    for run in range(2):
        torch.manual_seed(seed + run)
        net = ps.networks.fcn(data.image_shape, hidden=(hidden, hidden))
        runs.append(ps.lift(net, ps.Gaussian(scale=0.3, posterior="normal")))
        models.append(ps.classifier(runs[-1], n=len(data.train)))
        history = train(runs[-1], models[-1], data, epochs, seed + run)
    trace = elbo_trace(history)
    state = "has stopped rising" if trace.converged else "still rises"
    print(f"the ELBO {state}: {trace.gain:.0f} +- {trace.standard_error:.0f} nats of late")

    tree = ps.to_datatree(runs, models, data.validation, draws=draws, seed=seed)
    agreement = rhat(tree)["y"].nanmedian().item()
    print(f"R-hat of two runs in function space, median over the validation data: {agreement:.2f}")
    joint = khat(models[0], runs[0].guide, data.train, draws=200, seed=seed).k
    print(f"joint k-hat {joint:.0f}, as high as for any such network: no reason to reject it")

    # Both are trained on for as long, so that pruning is all that they differ in.
    dense, pruned = runs[0], copy.deepcopy(runs[0])
    pruned.freeze(ps.prune.magnitude(pruned.scores(), sparsity))
    compared = {}
    for name, bnn in (("dense", dense), ("pruned", pruned)):
        compared[name] = (bnn, ps.classifier(bnn, n=len(data.train)))
        train(*compared[name], data, max(1, epochs // 2), seed)
    comparison = ps.compare_models(compared, data.validation, draws=draws, train=data.train)
    print(f"\n{comparison}\n")

    shuffled = data.test.x.flatten(1)[:, torch.randperm(64, generator=torch.manual_seed(seed))]
    table = predictive_quality(
        {"dense": dense, "pruned": pruned, "pruned, mean": pruned.net},
        data.test,
        outside=shuffled.view_as(data.test.x),
        angles=(15, 30),
        draws=draws,
        seed=seed,
    )
    print(table)
    return {
        "gain": trace.gain,
        "rhat": agreement,
        "khat": joint,
        "difference": comparison.rows[1].difference,
        "difference_se": comparison.rows[1].difference_se,
        "ece": table["pruned"].calibration.ece,
        "ood_auroc": table["pruned"].ood_auroc or 0.0,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--sparsity", type=float, default=0.75)
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
