"""A description in words of the captures of a step."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyrosparse.captured.capture import Captured
    from pyrosparse.captured.gradients import CapturedGradients


def explain(gradients: CapturedGradients) -> str:
    """One paragraph for each captured step, or the reason why steps run eagerly."""
    eager = f"{gradients.eager_steps} steps ran eagerly."
    if gradients.fallback is not None:
        return f"All steps run eagerly from now on: {gradients.fallback}.\n{eager}"
    captured = [one for several in gradients.captured.values() for one in several]
    if not captured:
        return f"Nothing is captured yet; the second step on arguments of a kind is.\n{eager}"
    return "\n\n".join([*map(_describe, captured), eager])


def _describe(captured: Captured) -> str:
    operations = captured.graph.operations
    counts = Counter(operations).most_common()
    outside = [tuple(tensor.shape) for tensor in captured.graph.outside]
    _, leaves, *_ = captured.signature
    how = "".join(f", {way}," for way in captured.ways)
    lines = [
        f"Captured{how} for ({', '.join(map(_argument, leaves))}); ran {captured.runs} times.",
        f"  operations: {len(operations)}, of {captured.graph.traced} traced: "
        + ", ".join(f"{count} {name}" for name, count in counts),
        f"  parameters: {', '.join(captured.parameters)}",
        f"  reads and writes besides: {len(outside)} tensors of shapes {outside}",
        f"  holds while {len(captured.guards)} values, objects and types stay as they are",
        f"  compared with the eager step {captured.checks} times",
    ]
    return "\n".join(lines)


def _argument(leaf: tuple[Any, ...]) -> str:
    if len(leaf) == 2:
        return repr(leaf[1])
    dtype, shape, _, device = leaf
    return f"{str(dtype).removeprefix('torch.')} {tuple(shape)} on {device}"
