"""What a pruned network is worth with and without freezing, on digits: a table.

    python docs/figures/regrowth.py

prunes to 95 % after every epoch and looks at the network twice in the last one: as training left
it, and as it is handed over, at the sparsity asked for. Writes ``regrowth.md`` beside itself. Less
than a minute on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import nn

import pyrosparse as ps
from pyrosparse.infer import Callback, Evaluation, Fit, schedules
from pyrosparse.prune.criteria import Criterion

ROWS = [(criterion, freeze) for criterion in ("magnitude", "random") for freeze in (False, True)]


class Zeros(Callback):
    """Records the fraction of zeros as training left it: to be called before the pruner."""

    def on_epoch_end(self, run: Fit) -> dict[str, Any]:
        weights = [target.value for target in run.lifted.targets]
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        return {"trained_sparsity": zeros / sum(weight.numel() for weight in weights)}


def measure(criterion: str, freeze: bool, epochs: int, sparsity: float) -> dict[str, Any]:
    """The last epoch's record of one run on digits."""
    data = ps.data.load("digits")
    torch.manual_seed(0)
    net = ps.networks.fcn(data.image_shape, hidden=(128, 128))
    # As many steps an epoch as so few data allow.
    return train(net, data, criterion, freeze, sparsity, epochs=epochs, batch_size=8)


def train(
    net: nn.Module,
    data: ps.data.DataSet,
    criterion: str | Criterion,
    freeze: bool,
    sparsity: float,
    *,
    epochs: int,
    batch_size: int,
) -> dict[str, Any]:
    """Train and prune a network; the record of the last epoch, before and after its pruning."""
    bnn = ps.lift(net, ps.Gaussian(scale=1.0))
    ramp = schedules.cubic(end=0.6) if freeze else schedules.constant
    callbacks = [
        Zeros(),
        Evaluation("trained", data.validation),
        ps.prune.Pruner(criterion, sparsity, ramp=ramp, freeze=freeze),
    ]
    model = ps.classifier(bnn, n=len(data.train))
    run = ps.fit(
        model,
        bnn.guide,
        data.train,
        epochs=epochs,
        batch_size=batch_size,
        callbacks=callbacks,
        validation=data.validation,
        progress=False,
    )
    return run.history[-1]


def main(
    epochs: int = 15, sparsity: float = 0.95, folder: Path = Path(__file__).parent
) -> list[dict[str, Any]]:
    lines = [
        "| criterion | pruned weights | sparsity after the last epoch | accuracy then "
        "| sparsity handed over | accuracy then |",
        "|:--|:--|---:|---:|---:|---:|",
    ]
    records = []
    for criterion, freeze in ROWS:
        record = measure(criterion, freeze, epochs, sparsity)
        records.append(record)
        lines.append(
            f"| {criterion} | {'frozen, cubic ramp' if freeze else 'grow back'} "
            f"| {record['trained_sparsity']:.2f} | {record['trained_accuracy']:.3f} "
            f"| {record['sparsity']:.2f} | {record['validation_accuracy']:.3f} |"
        )
    (folder / "regrowth.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return records


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--sparsity", type=float, default=0.95)
    main(**vars(parser.parse_args()))
