"""The two parts of the log Bayes factor against sparsity, on digits: a figure and a table.

    python docs/figures/bayes_factor.py

trains a network of two hidden layers of 64 units, prunes copies of it by magnitude without training
again, and writes ``bayes_factor.svg`` and ``bayes_factor.md`` beside itself. A few seconds on one
core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch

import pyrosparse as ps
from pyrosparse.evidence import evaluate, log_bayes_factor, log_posterior
from pyrosparse.plots.style import BLUE, GREY, ORANGE, STYLE

SPARSITIES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99)


def measure(epochs: int) -> list[dict[str, float]]:
    """One row a sparsity: the Bayes factor's parts, nats, and the test accuracy."""
    data = ps.data.load("digits")
    torch.manual_seed(0)
    net = ps.networks.fcn(data.image_shape, hidden=(64, 64))
    bnn = ps.lift(net, ps.Gaussian(scale=1.0))
    model = ps.classifier(bnn, n=len(data.train))
    ps.fit(model, bnn.guide, data.train, epochs=epochs, progress=False)
    weights = {target.key: target.value for target in bnn.targets}
    trained = {name: tensor.clone() for name, tensor in bnn.state_dict().items()}
    before = log_posterior(model, bnn.guide, data.train)
    rows = [{"sparsity": 0.0, "likelihood": 0.0, "prior": 0.0, "mean": 0.0}]
    rows[0]["accuracy"] = evaluate(model, bnn.guide, data.test)["accuracy"]
    for sparsity in SPARSITIES:
        bnn.load_state_dict(trained)
        bnn.zero(ps.prune.magnitude(weights, sparsity))
        after = log_posterior(model, bnn.guide, data.train)
        factor = log_bayes_factor(before, after)
        rows.append(
            {
                "sparsity": sparsity,
                "likelihood": factor.likelihood,
                "prior": factor.prior,
                "mean": log_bayes_factor(before, after, likelihood="mean").total,
                "accuracy": evaluate(model, bnn.guide, data.test)["accuracy"],
            }
        )
    return rows


def table(rows: list[dict[str, float]]) -> str:
    lines = [
        "| sparsity | likelihood part | prior part | log BF, sum | log BF, mean | test accuracy |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        total = row["likelihood"] + row["prior"]
        lines.append(
            f"| {row['sparsity']:.2f} | {row['likelihood']:.1f} | {row['prior']:.1f} | "
            f"{total:.1f} | {row['mean']:.1f} | {row['accuracy']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def draw(rows: list[dict[str, float]], file: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    sparsity = [row["sparsity"] for row in rows]
    with matplotlib.rc_context(STYLE):
        figure, (parts, totals) = pyplot.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
        loss = [-row["likelihood"] for row in rows]
        parts.plot(sparsity, loss, "o-", color=ORANGE, label="loss of likelihood")
        gain = [row["prior"] for row in rows]
        parts.plot(sparsity, gain, "s-", color=BLUE, label="gain of prior")
        parts.set(xlabel="sparsity", ylabel="nats", yscale="symlog", title="The two parts")
        parts.legend()
        sums = [row["likelihood"] + row["prior"] for row in rows]
        totals.plot(sparsity, sums, "o-", color=ORANGE, label="likelihood summed")
        means = [row["mean"] for row in rows]
        totals.plot(sparsity, means, "s-", color=BLUE, label="likelihood averaged")
        totals.axhline(0, color=GREY, linewidth=0.8)
        totals.set(xlabel="sparsity", ylabel="nats", yscale="symlog", title="Log Bayes factor")
        totals.legend(loc="lower left")
        figure.savefig(file, metadata={"Date": None})
        pyplot.close(figure)


def main(epochs: int = 40, folder: Path = Path(__file__).parent) -> None:
    rows = measure(epochs)
    (folder / "bayes_factor.md").write_text(table(rows))
    draw(rows, folder / "bayes_factor.svg")
    print(table(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=40)
    main(**vars(parser.parse_args()))
