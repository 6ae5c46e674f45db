"""The options of recipes as parameters of commands, made from their fields."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from pyrosparse.recipes import RECIPES
from pyrosparse.recipes.option import ANY, INT64, POSITIVE, Option
from pyrosparse.recipes.recipe import Recipe
from pyrosparse.recipes.setup import Setup
from pyrosparse.util.errors import unknown_name


class RecipeCommand(TyperCommand):
    """Says of which recipes an option is that this one does not have."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            name = getattr(error, "option_name", None)
            if type(error).__name__ != "NoSuchOption" or not isinstance(name, str):
                raise
            raise _no_such_option(self, name) from None


def _no_such_option(command: Any, flag: str) -> ValueError:
    name = flag.removeprefix("--").removeprefix("no-").replace("-", "_")
    having = [recipe.name for recipe in RECIPES if name in recipe.options()]
    if having:
        return ValueError(
            f"{command.name} has no option {name}: it is one of {', '.join(having)}; leave it out, "
            "or choose another recipe"
        )
    known = [opt for parameter in command.params for opt in parameter.opts]
    return unknown_name("option", flag, known)


def with_parameters(function: Callable[..., None], recipe: type[Recipe]) -> Callable[..., None]:
    """The function with the options of a run and of a recipe as its parameters.

    >>> from pyrosparse.recipes import Magnitude
    >>> def command(**values): ...
    >>> "sparsity" in inspect.signature(with_parameters(command, Magnitude)).parameters
    True
    """
    own = [
        *(_parameter(one, "Options") for one in Setup.options().values()),
        _keyword("weights", Path | None, "start from a state dict: .safetensors, or of torch.save"),
        _keyword("output", Path | None, "folder of the run; by default a folder below runs/"),
        _keyword(
            "dense",
            bool,
            "if the recipe has no pretraining, train an unpruned network too, for comparison. "
            "Default: yes",
            True,
            show_default=False,
        ),
        _keyword("quiet", bool, "print only the report's path", False, flag="--quiet"),
        *(_parameter(one, f"Options of {recipe.name}") for one in recipe.options().values()),
    ]
    function.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
    function.__annotations__ = {one.name: one.annotation for one in own}
    return function


def _parameter(one: Option, panel: str) -> inspect.Parameter:
    kind: Any = str
    plain = one.kind is bool or (one.number is not None and not one.by_name)
    if plain and not one.is_size:
        kind = one.kind if one.kind is bool else one.number
    return _keyword(
        one.name,
        kind | None,
        _help(one),
        show_default=False,
        rich_help_panel=panel,
        metavar="|".join(one.choices) if one.choices else None,
    )


def _keyword(
    name: str, kind: Any, help: str, default: Any = None, flag: str = "", **options: Any
) -> inspect.Parameter:
    words = [flag] if flag else []
    told = typer.Option(*words, help=f"{help[:1].upper()}{help[1:]}.", **options)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, told]
    )


def _help(one: Option) -> str:
    text = one.help
    if one.within and one.within not in (POSITIVE, INT64, ANY):
        text += f", {one.within.replace('..', ' or more')}"
    if one.by_name and one.number:
        text += "; or by name, 'conv*=20,*=1'"
    return f"{text}. Default: {_shown(one.default)}" if _shown(one.default) else text


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, float):
        return f"{default:g}"
    return "" if default in ("", {}, None) else str(default)


def given(values: Mapping[str, Any], recipe: type[Recipe]) -> dict[str, Any]:
    """The options that a command was given, read as what they are.

    Raises ValueError if numbers by name, or JSON, cannot be read.

    >>> from pyrosparse.recipes import BetaBernoulli
    >>> given({"epochs": 3, "kl_scale": "conv*=20,*=1", "seed": None}, BetaBernoulli)
    {'epochs': 3, 'kl_scale': {'conv*': 20, '*': 1}}
    """
    known = {**Setup.options(), **recipe.options()}
    return {name: _read(known[name], value) for name, value in values.items() if value is not None}


def _read(one: Option, value: Any) -> Any:
    if not isinstance(value, str) or not (one.by_name or one.is_size):
        return value
    flag = f"--{one.name.replace('_', '-')}"
    if one.is_size:
        sides = value.split("x")
        if not (len(sides) <= 2 and all(side.isdecimal() for side in sides)):
            raise ValueError(
                f"{flag} is a number of pixels, 64, or height x width, 48x64; got {value}"
            )
        return int(sides[0]), int(sides[-1])
    if one.number is None:
        try:
            found = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"{flag} is not JSON: {error}") from error
        if not isinstance(found, dict):
            raise ValueError(f"{flag} must be a JSON object, got {value}")
        return found
    if "=" not in value:
        return _number(flag, value)
    pairs = [pair.rpartition("=") for pair in value.split(",")]
    return {name.strip(): _number(flag, text) for name, _, text in pairs}


def _number(flag: str, text: str) -> float:
    try:
        return int(text) if text.strip().isdecimal() else float(text)
    except ValueError:
        raise ValueError(
            f"{flag} is a number, or numbers by name, 'conv*=20,*=1'; got {text!r}"
        ) from None
