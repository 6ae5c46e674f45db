"""The command ``compress``: a recipe on a network and data, evaluated and reported."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape

from pyrosparse.cli.app import Group, app, log_on_stderr, say
from pyrosparse.cli.launch import process_group

if TYPE_CHECKING:
    from pyrosparse.recipes.recipe import Recipe


class _Recipes(Group):
    """A command for each recipe, made when it is asked for; without the word, the default one."""

    def list_commands(self, ctx: Any) -> list[str]:
        from pyrosparse.recipes import names

        return list(names())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        from pyrosparse.recipes import RECIPES

        return next((_command(recipe) for recipe in RECIPES if recipe.name == cmd_name), None)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        from pyrosparse.recipes import find, names

        if not args or args[0].startswith("-"):
            args = [names()[0], *args]
        find(args[0])
        return super().parse_args(ctx, args)


app.add_typer(
    typer.Typer(cls=_Recipes, add_completion=False),
    name="compress",
    help="Train a network, make it smaller, evaluate it, and write a folder with a report.",
)


def _command(recipe: type[Recipe]) -> Any:
    from pyrosparse.cli.options import RecipeCommand, with_parameters
    from pyrosparse.recipes import names

    def command(
        weights: Path | None, output: Path | None, dense: bool, quiet: bool, **values: Any
    ) -> None:
        _compress(recipe, values, weights, output, dense, quiet)

    others = ", ".join(name for name in names() if name != recipe.name)
    command.__doc__ = (
        f"{recipe.summary()}.\n\nTrains a network, makes it smaller, evaluates it, and writes a "
        "folder with a report. The same command continues after an interruption.\n\n"
        f"Other recipes: {others}. `pyrosparse compress RECIPE --help` has the options of each."
    )
    alone = typer.Typer(add_completion=False)
    alone.command(recipe.name, cls=RecipeCommand)(with_parameters(command, recipe))
    return typer.main.get_command(alone)


def _compress(
    recipe: type[Recipe],
    values: dict[str, Any],
    weights: Path | None,
    output: Path | None,
    dense: bool,
    quiet: bool,
) -> None:
    from pyrosparse.cli.options import given
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
