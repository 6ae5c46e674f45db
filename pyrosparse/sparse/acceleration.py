"""The acceleration table: the time of a forward pass, from the dense network to the sparse one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from torch import Tensor, nn

from pyrosparse.compaction import compact
from pyrosparse.compaction.masked import masked
from pyrosparse.compaction.read_elsewhere import read_elsewhere
from pyrosparse.sparse.choices import Choices
from pyrosparse.sparse.inference import sparse_inference
from pyrosparse.util.modes import evaluating
from pyrosparse.util.threads import threads
from pyrosparse.util.timing import batch_of, best_latency


@dataclass(frozen=True)
class Acceleration:
    """Times of a forward pass; ``rich.print`` it.

    seconds: best of three medians, by batch size and network: ``dense``, the original; ``masked``,
             with zeros among its weights; ``compact``; and ``compact, sparse``, with kernels for
             the remaining zeros.
    kernels: the kernel of each layer with remaining zeros, by batch size.

    >>> times = {"dense": 4e-3, "masked": 4e-3, "compact": 2e-3, "compact, sparse": 1e-3}
    >>> Acceleration({1: times}, {1: Choices([])}).rows()[-1]
    ('compact, sparse', '1.000 ms', '4.0')
    """

    seconds: Mapping[int, Mapping[str, float]]
    kernels: Mapping[int, Choices]

    def speedup(self, network: str, batch_size: int) -> float:
        """Time of the dense network divided by that of another."""
        times = self.seconds[batch_size]
        return times["dense"] / times[network]

    def rows(self) -> list[tuple[str, ...]]:
        """One row for each network: its name, and for each batch size the time and the speed-up."""
        networks = next(iter(self.seconds.values()), {})
        return [
            (
                network,
                *(
                    cell
                    for size, times in self.seconds.items()
                    for cell in (
                        f"{1e3 * times[network]:.3f} ms",
                        f"{self.speedup(network, size):.1f}",
                    )
                ),
            )
            for network in networks
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table("network", caption="best of three medians, on one thread")
        for size in self.seconds:
            table.add_column(f"batch of {size}", justify="right")
            table.add_column("times faster", justify="right")
        for row in self.rows():
            table.add_row(*row)
        yield table


def acceleration(
    net: nn.Module,
    masks: Mapping[str, Tensor] | None,
    example: Tensor | Sequence[Any],
    *,
    gates: Mapping[str, nn.Module] | None = None,
    at_least: int | None = None,
    batch_sizes: Sequence[int] = (1, 128),
    repeats: int = 30,
) -> Acceleration:
    """Time the dense, the masked, the compact, and the compact network with sparse kernels.

    net:         the dense network; it does not change.
    masks, gates, at_least: as for ``compact``. Without masks, the zeros in the weights are used.
    example:     an input of the network; its first datum is repeated to the batch sizes.
    batch_sizes: for each of them, kernels are chosen separately.
    repeats:     the number of timings of each network in each of three rounds, in turns; the
                 smallest of the three medians is reported.

    The measurement uses one thread, on the device of the network; torch's number of threads is
    restored afterwards.

    Raises ValueError as ``compact`` does, if there is no batch size, and if repeats is not
    positive.

    Source: the table is that in Fig. 9 of Xia, Tsang, Lau, "Structured Bayesian Compression for
    Deep Neural Networks Based on the Turbo-VBI Approach".

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 2))
    >>> net[0].weight.data[10:] = 0
    >>> measured = acceleration(net, None, torch.ones(1, 40), batch_sizes=(1,), repeats=3)
    >>> list(measured.seconds[1])
    ['dense', 'masked', 'compact', 'compact, sparse']
    """
    if not batch_sizes:
        raise ValueError("acceleration needs at least one batch size, got none")
    if repeats < 1:
        raise ValueError(f"repeats must be 1 or more, got {repeats}")
    inputs = (example,) if isinstance(example, Tensor) else tuple(example)
    with_zeros = masked(net, masks, gates, unfolded=read_elsewhere(net, inputs))
    small = compact(net, masks, example, gates=gates, at_least=at_least).eval()
    seconds: dict[int, dict[str, float]] = {}
    kernels: dict[int, Choices] = {}
    with threads(1), evaluating(net):
        for size in batch_sizes:
            batch = batch_of(inputs, size)
            sparse, kernels[size] = sparse_inference(small, batch, repeats=repeats)
            networks = {
                "dense": net, "masked": with_zeros, "compact": small, "compact, sparse": sparse,
            }  # fmt: skip
            times = best_latency([*networks.values()], *batch, repeats=repeats)
            seconds[size] = dict(zip(networks, times, strict=True))
    return Acceleration(seconds, kernels)
