"""The summary of a compaction: the removed features of each layer, and why others stayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Layer:
    """One dense or convolutional layer, before and after.

    inputs, outputs, parameters: (before, after); (.., 0) if the whole layer was removed.
    note: why dead features stayed, or "".

    >>> Layer("fc1", "Linear", (4, 2), (3, 3), (15, 9)).note
    ''
    """

    name: str
    kind: str
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    parameters: tuple[int, int]
    note: str = ""


@dataclass(frozen=True)
class Account:
    """The summary of what ``compact`` did; print it.

    layers:     dense and convolutional layers, in the order in which they run.
    barriers:   operations that block cuts, by name, with the reason.
    parameters: of the whole network, (before, after).
    error:      the largest difference from the masked network in the final check, divided by the
                largest output, or by 1e-3 if that is larger.
    kept_class: the name of the network's class if it was cut in place; "" if torch.fx traced it.
    round_to:   widths are multiples of this number, if there are enough features.
    times:      with ``round_to="fastest"``: for each number tried, the time of a forward pass
                divided by that with exact widths.

    >>> layer = Layer("fc1", "Linear", (4, 2), (3, 3), (15, 9))
    >>> print(Account([layer], {}, (15, 9), 0.0))
    layer  kind    inputs  outputs  parameters
    fc1    Linear  4 -> 2  3        15 -> 9
    all                             15 -> 9
    largest difference to the masked network: 0.0e+00
    """

    layers: Sequence[Layer]
    barriers: dict[str, str]
    parameters: tuple[int, int]
    error: float
    kept_class: str = ""
    round_to: int = 1
    times: Mapping[int, float] = field(default_factory=dict)

    @property
    def structure(self) -> str:
        """The numbers of outputs of the remaining layers: ``288-114-10``."""
        return "-".join(str(layer.outputs[1]) for layer in self.layers if layer.outputs[1])

    def __repr__(self) -> str:
        return (
            f"Account of {len(self.layers)} layers, {self.structure}: "
            f"{_change(self.parameters)} parameters, largest difference {self.error:.1e}"
        )

    def __str__(self) -> str:
        rows = [["layer", "kind", "inputs", "outputs", "parameters", ""]]
        for layer in self.layers:
            pairs = (layer.inputs, layer.outputs, layer.parameters)
            rows.append([layer.name, layer.kind, *map(_change, pairs), layer.note])
        rows.append(["all", "", "", "", _change(self.parameters), ""])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        by_reason: dict[str, list[str]] = {}
        for name, why in self.barriers.items():
            by_reason.setdefault(why, []).append(name)
        lines += [
            f"barrier, keeps all that it reads: {', '.join(names)} ({why})"
            for why, names in by_reason.items()
        ]
        if self.parameters[1] > self.parameters[0]:
            lines.append(
                "larger than before: folding the gains added more parameters (own copies of shared "
                "weights, biases) than were cut"
            )
        if self.kept_class:
            lines.append(
                f"cut in place, the class is still {self.kept_class}; checked only on the "
                "code that the example runs"
            )
        if self.times:
            chosen = f"multiples of {self.round_to}" if self.round_to > 1 else "exact"
            tried = [f"{n}: {time:.2f}" for n, time in self.times.items()]
            lines.append(
                f"widths: {chosen}, the fastest of those measured here (relative time by round_to: "
                f"{', '.join(tried)})"
            )
        lines.append(f"largest difference to the masked network: {self.error:.1e}")
        return "\n".join(lines)


def _change(pair: tuple[int, int]) -> str:
    before, after = pair
    if before == after:
        return f"{before:,}"
    return f"{before:,} -> {after:,}" if after else f"{before:,} -> gone"
