"""A small network that says how sure it is: prune, keep the posterior, save, predict, calibrate.

    python examples/predict_with_uncertainty.py --sparsity 0.5

It trains gates with exact spikes on digits, cuts half of the units out of the lifted network, saves
the compact posterior to a file, predicts from the file, and compares the uncertainty on digits with
that on shuffled pixels. Conformal sets, calibrated on held-out digits, hold the right class as
often as asked. docs/prediction.md explains the figures.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

import pyrosparse as ps


def main(
    epochs: int = 60, sparsity: float = 0.5, draws: int = 50, hidden: int = 64, seed: int = 0
) -> dict[str, float]:
    data = ps.data.load("digits", seed=seed)
    torch.manual_seed(seed)
    net = ps.networks.fcn(data.image_shape, hidden=(hidden, hidden))
    bnn = ps.lift(
        net,
        [
            (ps.Gaussian(scale=0.3, posterior="normal"), ps.weights(net)),
            (ps.GroupSpikeAndSlab(), ps.inputs(net, ["fc2", "fc3"])),
        ],
    )
    rates = {"guide.*": 1e-2, "*": 3e-3}
    ps.fit(
        ps.classifier(bnn, n=len(data.train)), bnn.guide, data.train,
        epochs=epochs, learning_rate=rates, seed=seed, progress=False,
    )  # fmt: skip

    scores = {key: score for key, score in bnn.scores().items() if key.endswith("input")}
    masks = ps.prune.magnitude(scores, sparsity)
    small = ps.compact(bnn, masks, data.train.x[:1], at_least=1)
    print(small.net.account)

    with tempfile.TemporaryDirectory() as folder:
        path = ps.save(Path(folder) / "small.safetensors", small)
        size = path.stat().st_size
        found = ps.predict(path, data.test.x, draws=draws, seed=seed)
    accuracy = float((found.classes == data.test.y).double().mean())
    print(f"\n{size:,} bytes; accuracy {accuracy:.2%}\n{found}")

    order = torch.randperm(64, generator=torch.manual_seed(seed))
    shuffled = data.test.x.flatten(1)[:, order].view_as(data.test.x)
    outside = ps.predict(small, shuffled, draws=draws, seed=seed)
    print(f"on shuffled pixels: {outside}")

    held_out = ps.predict(small, data.validation.x, draws=draws, seed=seed)
    calibrated = ps.conformal(held_out, data.validation.y, coverage=0.9)
    coverage = float(calibrated.covers(found, data.test.y).double().mean())
    classes = float(calibrated(found).sum(1).double().mean())
    print(
        f"sets hold the right class in {coverage:.1%} of the data, with {classes:.2f} classes each"
    )
    return {
        "accuracy": accuracy,
        "epistemic": float(found.epistemic.mean()),
        "epistemic_outside": float(outside.epistemic.mean()),
        "coverage": coverage,
        "classes": classes,
        "bytes": float(size),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--draws", type=int, default=50)
    main(**vars(parser.parse_args()))
