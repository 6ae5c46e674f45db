"""Networks as ONNX files, compared in onnxruntime before they are written."""

from __future__ import annotations

import copy
import importlib
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from pyrosparse.compaction.check import OTHERS, difference, random_like
from pyrosparse.compaction.in_place.called import tensors_in
from pyrosparse.compaction.other_sizes import larger, smaller
from pyrosparse.util.files import write_atomically

TOLERANCE = 1e-5
NOTHING: Mapping[int, str] = MappingProxyType({})
Place = tuple[int, int]  # the number of an input, and one of its dimensions
Axes = dict[str, list[Place]]


class ExportError(RuntimeError):
    """A network cannot be exported to an ONNX file with the same outputs."""


def export_onnx(
    net: nn.Module,
    path: str | os.PathLike[str],
    example: Tensor | Sequence[Any] | Mapping[str, Any],
    *,
    dynamic: Mapping[int, str] = NOTHING,
) -> Path:
    """Write a network to an ONNX file that accepts any batch size, and other sizes on request.

    The file computes what the network computes in evaluation mode. Before it is written,
    onnxruntime runs it on the example and on random inputs of two other batch sizes, and of a
    larger and a smaller size for each dimension in ``dynamic``; the outputs must agree within 1e-5
    times the largest output, or times 1e-3 if that is larger.

    net:     any module that torch.export supports; it is not changed.
    example: an input of the network: a tensor, a sequence of arguments, or a mapping of arguments
             by name, which become the names of the file's inputs. The batch is the first dimension
             of the first tensor, and of all tensors with the same length in it.
    dynamic: names of further dimensions that may vary, by their numbers: ``{1: "length"}`` for
             sequences, ``{2: "height", 3: "width"}`` for images. Each is a dimension of the first
             tensor that has it, and of all tensors with the same length in it.

    If the network returns an object with names, the file has its tensors in their order, without
    the cache.

    Raises ImportError if a package is missing; ExportError if the network or the example is in
    bfloat16 or float16, torch cannot export the network, onnxruntime cannot run it (it has no
    convolutions in float64), the outputs differ or the network does not accept other sizes of a
    dimension in ``dynamic``; ValueError if the example has no such dimension, or two dimensions
    have one name; OSError if the file cannot be written; an earlier file of this name is then
    still there.

    >>> export_onnx(nn.Linear(4, 2), "net.onnx", torch.ones(1, 4))  # doctest: +SKIP
    PosixPath('net.onnx')
    """
    _require("onnx", "onnxscript", "onnxruntime")
    names = list(example) if isinstance(example, Mapping) else None
    if isinstance(example, Mapping):
        example = tuple(example.values())
    inputs = (example,) if isinstance(example, Tensor) else tuple(example)
    inputs = tuple(x.detach().cpu() if isinstance(x, Tensor) else x for x in inputs)
    _refuse_half(net, inputs)
    net = _Positional(copy.deepcopy(net).cpu(), names).eval()
    axes = _axes(inputs, dynamic)
    size = _batch(inputs)
    others = [_resized(inputs, axes["batch"], n) for n in (size + 1, 2 * size + 3)]
    for name, places in axes.items():
        if name != "batch":
            others += _accepted(net, inputs, name, places)
    content = _exported(net, inputs, axes, names)
    generator = torch.Generator().manual_seed(OTHERS)
    compared = [inputs, *(random_like(one, generator) for one in others)]
    worst = max(_compared(net, content, one) for one in compared)
    if not worst <= TOLERANCE:
        raise ExportError(
            f"onnxruntime computes other outputs than the network, by {worst:.1e} of the largest "
            f"(at most {TOLERANCE:.0e} is allowed): no file was written. Networks in float32 agree "
            "best; net.float() makes one"
        )
    return write_atomically(path, content)


def _require(*packages: str) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(
                f"ONNX files need the package {package} ({error}): pip install 'pyrosparse[onnx]'"
            ) from error


def _refuse_half(net: nn.Module, inputs: tuple[Any, ...]) -> None:
    """onnxruntime lacks most operations in these, and what they round hides differences."""
    tensors = [*net.state_dict().items(), *(("the example", x) for x in inputs)]
    for name, value in tensors:
        if isinstance(value, Tensor) and value.is_floating_point() and value.itemsize < 4:
            dtype = str(value.dtype).removeprefix("torch.")
            raise ExportError(
                f"{name} is in {dtype}, which onnxruntime cannot compare with the network: export "
                "net.float(), with an example in float32"
            )


class _Positional(nn.Module):
    """A network called with its arguments in their order, which gives its tensors alone."""

    def __init__(self, net: nn.Module, names: list[str] | None) -> None:
        super().__init__()
        self.net, self.names = net, names

    def forward(self, *inputs: Any) -> tuple[Tensor, ...]:
        if self.names is None:
            return tuple(tensors_in(self.net(*inputs)))
        return tuple(tensors_in(self.net(**dict(zip(self.names, inputs, strict=True)))))


def _exported(
    net: nn.Module, inputs: tuple[Any, ...], axes: Axes, names: list[str] | None
) -> bytes:
    # torch.export takes a size of 1 for one that never changes.
    several = _resized(inputs, axes["batch"], max(_batch(inputs), 2))
    sizes = {name: torch.export.Dim(name) for name in axes}
    named = {place: sizes[name] for name, places in axes.items() for place in places}
    shapes = (
        tuple(
            {dim: one for (n, dim), one in named.items() if n == number}
            if isinstance(x, Tensor)
            else None
            for number, x in enumerate(inputs)
        ),
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they warn of is looked at by running the result
            program = torch.onnx.export(
                net,
                several,
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=names,
                verbose=False,
            )
        assert program is not None
        content: bytes = program.model_proto.SerializeToString()
    except Exception as error:
        # Whatever torch and onnxscript raise on what they have no translation for.
        raise ExportError(f"torch cannot export the network as ONNX: {error}") from error
    return content


def _compared(net: nn.Module, content: bytes, inputs: tuple[Any, ...]) -> float:
    """The largest difference between the network and onnxruntime's."""
    onnxruntime = importlib.import_module("onnxruntime")
    try:
        with torch.no_grad():
            expected = list(net(*inputs))
    except Exception as error:
        raise ExportError(
            f"the network does not accept {_batch(inputs)} examples ({error}), but an ONNX file "
            "must accept any number of examples"
        ) from error
    arrays = [x.numpy() for x in inputs if isinstance(x, Tensor)]
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]
        actual = session.run(None, dict(zip(names, arrays, strict=True)))
    except Exception as error:
        # Its exceptions have no common class but this one.
        raise ExportError(
            f"onnxruntime cannot run the exported network: {error}. In float64 it lacks many "
            "operations; net.float() makes a network in float32"
        ) from error
    return difference(expected, [torch.from_numpy(array) for array in actual])


def _batch(inputs: tuple[Any, ...]) -> int:
    first = next((x for x in inputs if isinstance(x, Tensor) and x.dim()), None)
    if first is None or not len(first):
        raise ValueError("export_onnx needs an example with a batch: export_onnx(net, path, x[:1])")
    return len(first)


def _axes(inputs: tuple[Any, ...], dynamic: Mapping[int, str]) -> Axes:
    """By name, the dimensions of the inputs that may vary."""
    _batch(inputs)
    fit = all(isinstance(dim, int) and dim > 0 for dim in dynamic)
    names = [*dynamic.values(), "batch"]
    if not fit or len(set(names)) < len(names) or not all(map(str.isidentifier, names)):
        raise ValueError(
            "dynamic has dimensions behind the batch, 1 or more, each with a name of its own that "
            f"is an identifier and not 'batch'; got {dict(dynamic)}"
        )
    axes = {}
    for dim, name in {0: "batch", **dynamic}.items():
        lengths = [x.shape[dim] if _has(x, dim) else None for x in inputs]
        size = next((length for length in lengths if length is not None), None)
        if size is None or (dim and size < 2):
            what = "none" if size is None else "length 1 in it, which could stand for any length"
            raise ValueError(
                f"dynamic names dimension {dim} {name!r}, and the example has {what}: give an "
                "example of two or more"
            )
        axes[name] = [(number, dim) for number, length in enumerate(lengths) if length == size]
    return axes


def _has(x: Any, dim: int) -> bool:
    return isinstance(x, Tensor) and x.dim() > dim


def _resized(inputs: tuple[Any, ...], places: Iterable[Place], size: int) -> tuple[Any, ...]:
    """The inputs with another size in some dimensions, the same values again."""
    found = list(inputs)
    for number, dim in places:
        rows = torch.arange(size) % found[number].shape[dim]
        found[number] = found[number].index_select(dim, rows)
    return tuple(found)


def _accepted(
    net: nn.Module, inputs: tuple[Any, ...], name: str, places: list[Place]
) -> list[tuple[Any, ...]]:
    """Inputs of a larger and of a smaller size that the network accepts.

    Raises ExportError if there is neither."""
    size = inputs[places[0][0]].shape[places[0][1]]
    found, said = [], ""
    for sizes in (larger(size), smaller(size)):
        for other in sizes:
            try:
                with torch.no_grad():
                    net(*_resized(inputs, places, other))
            except Exception as error:  # a network may raise anything
                said = str(error)
                continue
            found.append(_resized(inputs, places, other))
            break
    if not found:
        raise ExportError(
            f"the network does not accept another {name} than {size} ({said}): leave it out of "
            "dynamic"
        )
    return found
