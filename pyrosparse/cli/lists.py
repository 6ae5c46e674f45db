"""The commands that list what there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyrosparse.cli.app import app, say

if TYPE_CHECKING:
    from rich.table import Table

_DATASETS = {
    "digits": "8 x 8 grey images of digits, 10 classes; comes with scikit-learn",
    "mnist": "28 x 28 grey images of digits, 10 classes",
    "fashion-mnist": "28 x 28 grey images of clothes, 10 classes",
    "cifar10": "32 x 32 colour images, 10 classes",
    "diabetes": "442 patients, 10 inputs, 1 value; comes with scikit-learn",
    "linnerud": "20 men, 3 inputs, 3 values; comes with scikit-learn",
    "friedman1": "500 generated data, 10 inputs of which 5 count, 1 value",
    "friedman2": "500 generated data, 4 inputs, 1 value",
    "friedman3": "500 generated data, 4 inputs, 1 value",
}


@app.command()
def recipes() -> None:
    """List the recipes, each with the option that trades size for accuracy."""
    from pyrosparse.recipes import RECIPES

    rows = [(one.name, one.knob.replace("_", "-"), one.summary()) for one in RECIPES]
    say(_listing("recipe", "knob", "what it does", rows=rows))


@app.command()
def datasets() -> None:
    """List the data sets."""
    from pyrosparse import data

    rows = [(name, _DATASETS.get(name, "")) for name in data.names()]
    say(_listing("data set", "what it is", rows=rows))
    say(f"kept in {data.default_root()}; any folder of images in one folder a class will do too")


@app.command()
def networks() -> None:
    """List the networks, with their parameters for 3 x 32 x 32 images of 10 classes."""
    import torch

    from pyrosparse import networks as known_networks

    rows = []
    for name in known_networks.names():
        with torch.device("meta"):  # shapes alone: no time and no memory
            net = known_networks.create(name, (3, 32, 32), 10)
        count = sum(parameter.numel() for parameter in net.parameters())
        rows.append((name, f"{count:,}", known_networks.describe(name)))
    say(_listing("network", "parameters", "what it is", rows=rows))
    say("parameters are for 3 x 32 x 32 images; torchvision:<model> names torchvision's own")


def _listing(*columns: str, rows: Sequence[Sequence[str]]) -> Table:
    """A plain table of names and what they mean."""
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table
