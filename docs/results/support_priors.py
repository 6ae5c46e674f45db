"""Support priors and likelihoods of Turbo-VBI on one network, all else the same.

    python docs/results/support_priors.py --seeds 1

trains LeNet-5 on Fashion-MNIST (10 % of the training data held out), takes 98 % of its weights
under each support prior and each way to take the likelihood, fine-tunes what is left, and writes
beside itself ``support-priors.jsonl``, a line a run, and ``support-priors.md``. Runs that have a
line are not repeated.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.data import DataSet
from pyrosparse.infer import schedules
from pyrosparse.measure.quality import quality
from pyrosparse.recipes import TurboVBI
from pyrosparse.supports import Chain, Grid, SupportPrior, UnitFactor
from pyrosparse.util import machine
from pyrosparse.util.files import write_atomically

FOLDER = Path(__file__).parent
ACTIVE = 0.02
INDEPENDENT = (0.3, 0.7)  # p01 = 1 - p10: no weight hears another
TRAINING: dict[str, Any] = {"batch_size": 128, "learning_rate": 1.5e-3, "progress": False}


@dataclass(frozen=True)
class LongChain(Chain):
    """One chain through all the weights of a unit; with 1 / p10 = 20, as long as twenty of them."""

    def messages(self, log_odds: Tensor) -> Tensor:
        return super().messages(log_odds.flatten(1)).view(log_odds.shape)

    def sample(self, name: str, weight: Tensor) -> Tensor:
        return super().sample(name, weight.flatten(1)).view(weight.shape)


PRIORS: dict[str, tuple[SupportPrior, UnitFactor | None]] = {
    "independent": (Grid(INDEPENDENT, INDEPENDENT), None),
    "a grid for each kernel": (Grid(), None),
    "one grid for each layer": (Grid(layout="tiled"), None),
    "grids of channels": (Grid(layout="channel"), None),
    "a long chain for each unit": (LongChain((0.02, 0.05)), None),
    "unit factor alone, 300 nats": (Grid(INDEPENDENT, INDEPENDENT), UnitFactor(cost=300.0)),
    "a grid for each kernel, unit factor, 300 nats": (Grid(), UnitFactor(cost=300.0)),
    "a grid for each kernel, unit factor, 100 nats": (Grid(), UnitFactor(cost=100.0)),
}
LIKELIHOODS = ("point", "curvature", "activations")
RUNS = [
    *((prior, "point") for prior in PRIORS),
    *(
        ("a grid for each kernel, unit factor, 300 nats", likelihood)
        for likelihood in LIKELIHOODS[1:]
    ),
]


def trained(net: nn.Module, data: DataSet, epochs: int, seed: int) -> None:
    """Train what is not frozen at zero, under a weight decay of 1e-4."""
    n = len(data.train)
    bnn = ps.lift(net, ps.Gaussian(scale=(1e-4 * n) ** -0.5))
    bnn.freeze({one.key: net.get_parameter(one.name) != 0 for one in bnn.targets})
    ps.fit(
        ps.classifier(bnn, n),
        bnn.guide,
        data.train,
        epochs=epochs,
        schedule=schedules.cosine(0.01),
        seed=seed,
        **TRAINING,
    )


def run(
    dense: nn.Module, data: DataSet, prior: str, likelihood: Any, seed: int, epochs: int
) -> dict[str, Any]:
    """One line: a copy of the dense network under one prior and likelihood."""
    assert data.validation is not None
    net, n = copy.deepcopy(dense), len(data.train)
    support, units = PRIORS[prior]
    method = ps.GammaSpikeAndSlab(support=support, likelihood=likelihood, contrast=100.0)
    bnn = ps.lift(net, method, ps.weights(net, "*.weight"))
    path = TurboVBI(active=ACTIVE, epochs=epochs).turbo()
    path.units = units
    ps.fit(
        ps.classifier(bnn, n),
        bnn.guide,
        data.train,
        epochs=epochs,
        kl_scale=min(1.0, n / sum(math.prod(one.shape) for one in bnn.targets)),
        callbacks=[path],
        seed=seed,
        **TRAINING,
    )
    masks = bnn.masks()
    for key, mask in masks.items():
        net.get_parameter(key).data.mul_(mask)
    cut = quality(net, data.validation).accuracy
    trained(net, data, epochs // 2, seed + 1)
    small = ps.compact(net, masks, data.train.x[:1])
    return {
        "prior": prior,
        "likelihood": likelihood,
        "seed": seed,
        "epochs": epochs,
        "held_out": len(data.validation),
        "left": 1 - masks.sparsity,
        "structure": small.account.structure,
        "cut": cut,
        "fine_tuned": quality(net, data.validation).accuracy,
        "version": ps.__version__,
        "torch": torch.__version__,
        "machine": machine.describe(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def table(lines: list[dict[str, Any]]) -> str:
    """The runs as Markdown, seeds side by side."""
    rows = [
        "| support prior | likelihood | left, % | structure | as cut, % | fine-tuned, % |",
        "| :-- | :-- | --: | :-- | --: | --: |",
    ]
    for prior, likelihood in RUNS:
        found = [one for one in lines if (one["prior"], one["likelihood"]) == (prior, likelihood)]
        columns = [
            [f"{100 * one['left']:.2f}" for one in found],
            [one["structure"] for one in found],
            [f"{100 * one['cut']:.1f}" for one in found],
            [f"{100 * one['fine_tuned']:.1f}" for one in found],
        ]
        rows.append(f"| {' | '.join([prior, likelihood, *map(', '.join, columns)])} |")
    first = lines[0]
    seeds = sorted({one["seed"] for one in lines})
    note = (
        f"Accuracy on the {first['held_out']:,} training images held out; {first['epochs']} epochs "
        f"with exchanges, {first['epochs'] // 2} of fine-tuning; seed "
        f"{', '.join(map(str, seeds))}; pyrosparse {first['version']}, torch {first['torch']}; "
        f"{first['machine']}, 1 thread; {first['date']}."
    )
    return "\n".join([*rows, "", note, ""])


def main(seeds: int, epochs: int) -> None:
    torch.set_num_threads(1)
    file = FOLDER / "support-priors.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(one["prior"], one["likelihood"], one["seed"]) for one in lines}
    for seed in range(seeds):
        missing = [pair for pair in RUNS if (*pair, seed) not in done]
        if not missing:
            continue
        data = ps.data.load("fashion-mnist", validation=0.1)
        torch.manual_seed(seed)
        dense = ps.networks.lenet5(data.image_shape)
        trained(dense, data, 20, seed)
        for prior, likelihood in missing:
            lines.append(run(dense, data, prior, likelihood, seed, epochs))
            write_atomically(file, "".join(f"{json.dumps(one)}\n" for one in lines))
            print(lines[-1], flush=True)
    write_atomically(FOLDER / "support-priors.md", table(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=20, help="with exchanges")
    options = parser.parse_args()
    main(options.seeds, options.epochs)
