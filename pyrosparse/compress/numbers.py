"""Which numbers a compression run can be asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyrosparse.compress.settings import Settings

_POSITIVE = ("learning_rate", "scale", "gate_rate", "kl_scale", "beta_start", "beta_end")
_EPOCHS = {
    "epochs": 1,
    "second_epochs": 1,
    "pretrain": 0,
    "kl_warmup": 0,
    "warmup": 0,
    "fine_tune": 0,
}
_SMALLEST, _LARGEST = 1e-15, 1e30  # what float32 can square, divide by and add to
_MOST = 2**31 - 1


def check_numbers(settings: Settings) -> None:
    """Refuse what is no number where one is asked for, NaN and infinity, and what is out of range.

    Raises ValueError, with the name of the option.
    """
    for field in fields(settings):
        value = getattr(settings, field.name)
        for one in value.values() if isinstance(value, Mapping) else [value]:
            _check_finite(field.name, one)
    for name in _POSITIVE:
        value = getattr(settings, name)
        for one in value.values() if isinstance(value, Mapping) else [value]:
            if one is not None and not (_is_number(one) and _SMALLEST <= one <= _LARGEST):
                raise ValueError(
                    f"{name} must be positive, from {_SMALLEST:g} to {_LARGEST:g}; got {one!r}"
                )
    for name, least in _EPOCHS.items():
        value = getattr(settings, name)
        if value is not None and not _is_whole(value, least):
            raise ValueError(f"{name} is a number of epochs, {least} or more; got {value!r}")
    if not _is_whole(settings.batch_size, 1):
        raise ValueError(f"batch_size is a number of data, 1 or more; got {settings.batch_size!r}")
    if not _is_whole(settings.seed, -(2**63), 2**63 - 1):
        raise ValueError(
            f"seed is a whole number of at most 64 bits, from -2^63 to 2^63 - 1; got "
            f"{settings.seed!r}"
        )


def _check_finite(name: str, value: Any) -> None:
    if not isinstance(value, float) or math.isfinite(value):
        return
    if name == "threshold" and not math.isnan(value):  # always, or never
        return
    raise ValueError(f"{name} must be a finite number, got {value}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: Any, least: int, most: int = _MOST) -> bool:
    return _is_number(value) and int(value) == value and least <= value <= most
