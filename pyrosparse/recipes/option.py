"""An option of a recipe: name, type, default, range and help, written once."""

from __future__ import annotations

import functools
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

T = TypeVar("T")

POSITIVE = "(0, inf)"
INT64 = "64 bits"
ANY = "[-inf, inf]"
_SMALLEST, _LARGEST = 1e-15, 1e30  # what float32 can square, divide by and add to

if TYPE_CHECKING:
    Auto = Annotated[T, "or a rule"]
else:

    class Auto:
        """An option whose default follows from the network and the data: ``Auto[int]``."""

        def __class_getitem__(cls, kind: Any) -> Any:
            return Annotated[kind, "or a rule"]


@dataclass(frozen=True, repr=False)
class Rule:
    """A default that follows from the rest.

    text:  what it comes to, for people: ``as in the first stage``.
    value: from the recipe (whose earlier options have their values), the network and the data.

    >>> Rule("twice the epochs", lambda recipe, net, data: 2 * recipe.epochs)
    twice the epochs
    """

    text: str
    value: Callable[[Any, Any, Any], Any]

    def __repr__(self) -> str:
        return self.text


def option(default: Any, help: str, *, within: str = "", share: bool = False) -> Any:
    """A field of a recipe.

    default: a value, or a ``Rule``.
    help:    what it is, with its unit.
    within:  the range of a number, ``(0, 1)``, ``[0, 1)``, ``1..``, ``POSITIVE``; it is checked.
             By default any finite number.
    share:   whether it is a share, which names of cells give in %.

    >>> option(0.9, "share of the weights that is pruned", within="[0, 1)").metadata["within"]
    '[0, 1)'
    """
    metadata = {"help": help, "within": within, "share": share}
    if isinstance(default, dict):
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Option:
    """What is known of one option; ``kind`` is its type, None aside."""

    name: str
    kind: Any
    default: Any
    help: str
    within: str
    share: bool

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values of a ``Literal``; none of other types."""
        return typing.get_args(self.kind) if typing.get_origin(self.kind) is Literal else ()

    @property
    def by_name(self) -> bool:
        """Whether it also takes numbers by glob on names."""
        return any(typing.get_origin(one) is Mapping for one in self._kinds)

    @property
    def number(self) -> type | None:
        """``int`` or ``float`` where it is a number, or numbers by name."""
        return next((one for one in self._kinds if one in (int, float)), None)

    @property
    def _kinds(self) -> tuple[Any, ...]:
        return (self.kind, *typing.get_args(self.kind))

    @property
    def is_size(self) -> bool:
        """Whether it is a height and a width."""
        return any(typing.get_origin(one) is tuple for one in self._kinds)

    def check(self, value: Any) -> None:
        """Raise ValueError where a value is not one of this option's."""
        if isinstance(value, Rule):
            return
        if isinstance(value, Mapping) and self.by_name and self.number is not None:
            if not value:
                raise ValueError(f"{self.name} by name has no entry: give at least one number")
            for one in value.values():
                self.check(one)
            return
        if self.choices:
            if value not in self.choices:
                known = " or ".join(repr(one) for one in self.choices)
                raise ValueError(f"{self.name} must be {known}, got {value!r}")
        elif self.is_size:
            return
        elif self.kind is bool:
            if not isinstance(value, bool):
                raise ValueError(f"{self.name} must be True or False, got {value!r}")
        elif self.number is not None:
            self._check_number(value)

    def _check_number(self, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{self.name} must be a number, got {value!r}")
        finite = math.isfinite(value) or (self.within == ANY and not math.isnan(value))
        if not finite:
            raise ValueError(f"{self.name} must be a finite number, got {value}")
        if self.number is int and int(value) != value:
            raise ValueError(f"{self.name} must be a whole number, got {value}")
        if not _inside(value, self.within):
            raise ValueError(f"{self.name} must be {_in_words(self.within)}, got {value}")


def _inside(value: float, within: str) -> bool:
    if within in ("", ANY):
        return True
    if within == POSITIVE:
        return _SMALLEST <= value <= _LARGEST
    if within == INT64:
        return -(2**63) <= value < 2**63
    if within.endswith(".."):
        return float(within[:-2]) <= value < 2**31
    low, high = (float(end) for end in within[1:-1].split(","))
    above = value > low if within[0] == "(" else value >= low
    return above and (value < high if within[-1] == ")" else value <= high)


def _in_words(within: str) -> str:
    if within == POSITIVE:
        return f"positive, from {_SMALLEST:g} to {_LARGEST:g}"
    if within == INT64:
        return "a whole number of at most 64 bits"
    return f"{within[:-2]} or more" if within.endswith("..") else f"in {within}"


def options(cls: Any) -> Mapping[str, Option]:
    """The options of a class, by name, in their order.

    >>> @dataclass(frozen=True)
    ... class Toy:
    ...     size: int = option(3, "how many", within="1..")
    >>> options(Toy)["size"].default
    3
    """
    return _options(cls)


@functools.cache  # a suite asks several times for each of its runs, and evaluates hints each time
def _options(cls: Any) -> Mapping[str, Option]:
    hints = typing.get_type_hints(cls)

    def of(one: Field[Any]) -> Option:
        default = one.default_factory() if callable(one.default_factory) else one.default  # type: ignore[misc]
        told = {key: one.metadata[key] for key in ("help", "within", "share")}
        return Option(one.name, hints[one.name], default, **told)

    found = {one.name: of(one) for one in fields(cls) if "help" in one.metadata}  # type: ignore[arg-type]
    return MappingProxyType(found)
