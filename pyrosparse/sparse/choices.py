"""The summary of sparse inference: the kernel of each layer, and the times of all kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """The kernel of one layer.

    name:    the name of the layer in the network.
    density: the share of non-zeros in its weight.
    input:   the shape of the activation on which the kernels were timed.
    kernel:  the kernel chosen; ``dense`` is the unchanged layer.
    seconds: the time of a call, the best of three medians, by kernel.

    >>> Choice("fc1", 0.05, (1, 784), "csr", {"dense": 4e-5, "csr": 1e-5}).speedup
    4.0
    """

    name: str
    density: float
    input: tuple[int, ...]
    kernel: str
    seconds: Mapping[str, float]

    @property
    def speedup(self) -> float:
        """Time of the dense layer divided by that of the chosen kernel."""
        return self.seconds["dense"] / self.seconds[self.kernel]


@dataclass(frozen=True)
class Choices:
    """The kernels of all layers that have zeros in their weights; print it.

    >>> print(Choices([Choice("fc1", 0.05, (1, 784), "csr", {"dense": 4e-5, "csr": 1e-5})]))
    layer  input    density  kernel  speed-up  milliseconds
    fc1    1 x 784  5.00 %   csr     4.00      csr 0.010, dense 0.040
    """

    layers: Sequence[Choice]

    def __str__(self) -> str:
        rows = [["layer", "input", "density", "kernel", "speed-up", "milliseconds"]]
        for layer in self.layers:
            fastest_first = sorted(layer.seconds.items(), key=lambda pair: pair[1])
            rows.append(
                [
                    layer.name,
                    " x ".join(map(str, layer.input)),
                    f"{100 * layer.density:.2f} %",
                    layer.kernel,
                    f"{layer.speedup:.2f}",
                    ", ".join(f"{kernel} {1e3 * time:.3f}" for kernel, time in fastest_first),
                ]
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )
