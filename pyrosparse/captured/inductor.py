"""Compiling a captured step with inductor."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule

from pyrosparse.captured.aliases import layout_of
from pyrosparse.captured.graph import Run


def compiled(graph: Graph, inputs: list[Tensor]) -> Run:
    """The program of a graph, with its elementwise operations fused into kernels by inductor.

    Draws stay ATen's, in their order, so that the random numbers are those of the graph.

    inputs: one set of inputs, for their shapes, types and devices.

    Raises the errors of inductor, for example if there is no C++ compiler.
    """
    from torch._inductor import compile_fx, config

    (output,) = [node for node in graph.nodes if node.op == "output"]
    results: list[Any] = list(output.args[0])
    given = [index for index, result in enumerate(results) if result is not None]
    output.args = (tuple(results[index] for index in given),)
    _sum_in_double(graph)
    module = GraphModule(torch.nn.Module(), graph)
    with torch.no_grad(), warnings.catch_warnings(), config.patch({"fallback_random": True}):
        warnings.simplefilter("ignore")
        function: Any = compile_fx.compile_fx(module, inputs)  # type: ignore[arg-type]

    def run(inputs: list[Tensor]) -> list[Tensor | None]:
        found = function(*inputs)
        every: list[Tensor | None] = [None] * len(results)
        for index, value in zip(given, found, strict=True):
            every[index] = value
        return every

    return run


_LONG = 4096
"""Elements whose sum loses digits where single-precision values are added one after another."""


def _sum_in_double(graph: Graph) -> None:
    # ATen sums in a tree; inductor's loops would differ by some 1e-5 of the loss.
    aten = torch.ops.aten
    for node in list(graph.nodes):
        product = node.target in (aten.dot.default, aten.vdot.default)
        if not product and node.target not in (aten.sum.default, aten.sum.dim_IntList):
            continue
        operand, result = layout_of(node.args[0]), layout_of(node)
        if operand is None or operand.dtype is not torch.float32 or node.kwargs:
            continue
        if result is None or operand.elements < _LONG * max(result.elements, 1):
            continue
        with graph.inserting_before(node):
            arguments = node.args
            if product:
                arguments = (graph.call_function(aten.mul.Tensor, node.args),)
            target = aten.sum.dim_IntList if len(arguments) > 1 else aten.sum.default
            double = graph.call_function(target, arguments, {"dtype": torch.float64})
            options: dict[str, Any] = {"dtype": torch.float32}
            single = graph.call_function(aten._to_copy.default, (double,), options)
        node.replace_all_uses_with(single)
        graph.erase_node(node)
