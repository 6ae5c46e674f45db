"""The command ``compress``: a recipe on a network and data, evaluated and reported."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape

from pyrosparse.cli.app import app, log_on_stderr, say
from pyrosparse.cli.launch import process_group
from pyrosparse.cli.options import RecipeCommand, RecipeGroup, given, with_parameters
from pyrosparse.recipes import RECIPES
from pyrosparse.recipes.recipe import Recipe

_recipes = typer.Typer(cls=RecipeGroup, add_completion=False)
app.add_typer(
    _recipes,
    name="compress",
    help="Train a network, make it smaller, evaluate it, and leave a folder with a report.",
)


def _add(recipe: type[Recipe]) -> None:
    def command(
        weights: Path | None, output: Path | None, dense: bool, quiet: bool, **values: Any
    ) -> None:
        _compress(recipe, values, weights, output, dense, quiet)

    others = ", ".join(one.name for one in RECIPES if one is not recipe)
    command.__doc__ = (
        f"{recipe.summary()}.\n\nTrains a network, makes it smaller, evaluates it, and leaves a "
        "folder with a report. The same command goes on where it was interrupted.\n\n"
        f"Other recipes: {others}. `pyrosparse compress RECIPE --help` has the options of each."
    )
    _recipes.command(recipe.name, cls=RecipeCommand)(with_parameters(command, recipe))


for _recipe in RECIPES:
    _add(_recipe)


def _compress(
    recipe: type[Recipe],
    values: dict[str, Any],
    weights: Path | None,
    output: Path | None,
    dense: bool,
    quiet: bool,
) -> None:
    from pyrosparse.recipes.setup import Setup
    from pyrosparse.reports import folder as run_folder
    from pyrosparse.reports import tables
    from pyrosparse.reports.costs import costs
    from pyrosparse.reports.remarks import remarks

    setup = Setup.of(given(values, recipe) | {"recipe": recipe.name})
    folder = output or run_folder.default_folder(setup)
    with process_group() as first:
        silent = quiet or not first
        with nullcontext() if silent else log_on_stderr():
            summary = run_folder.run(
                setup, folder, weights=weights, dense=dense, progress=False if silent else None
            )
    if not first:
        return
    if not quiet:
        say(tables.layers(summary))
        say(tables.numbers(summary))
        if costs(summary):
            say(tables.compact(summary))
        for one in remarks(summary):
            say(escape(one))
    typer.echo(folder / "report.html")
