"""Data as tensors, arrays, tables, data sets or loaders, and minibatches of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from pyrosparse.util.arguments import arguments
from pyrosparse.util.arrays import as_tensor, is_array, rows
from pyrosparse.util.errors import UsageError

Batch = tuple[Any, ...]

FORMS = (
    "Examples, a tuple of tensors or arrays with one datum a row, a dict of them by the names of "
    "the model's arguments, a torch Dataset, or an iterable of batches (a DataLoader)"
)


def batches(data: Any, size: int, model: Callable[..., Any] | None = None) -> Iterator[Batch]:
    """Minibatches in order, each as the positional arguments of a model.

    data:  as for ``prepared``.
    size:  the batch size, if data are not already batches.
    model: the model whose argument names are the keys of a dict; needed only for dicts.
    """
    data = prepared(data, model)
    if hasattr(data, "batches"):
        yield from data.batches(size)
    elif isinstance(data, tuple):
        for start in range(0, len(data[0]), size):
            yield tuple(tensor[start : start + size] for tensor in data)
    else:
        for batch in data:
            yield as_batch(batch, model)


def prepared(data: Any, model: Callable[..., Any] | None = None) -> Any:
    """Data as a tuple of tensors, or as an object whose ``batches`` makes minibatches; an iterable
    of batches stays as it is.

    data: ``Examples``; a tuple of columns with one datum a row, each a tensor, an array, a
          ``DataFrame``, a ``Series`` or a list of numbers; one such column; a dict of columns by
          the names of the model's arguments; a ``Dataset``; or an iterable of batches.

    Tensors do not change. In columns of other kinds, floating-point numbers become torch's default
    dtype and integers int64.

    Raises ValueError if columns differ in length, have no rows, or hold anything but numbers;
    TypeError if the data are of another kind.

    >>> import numpy as np
    >>> x, y = prepared((np.zeros((5, 2)), [0, 1, 0, 1, 1]))
    >>> x.dtype, y.dtype
    (torch.float32, torch.int64)
    >>> prepared((np.zeros((5, 2)), [0, 1]))
    Traceback (most recent call last):
    ValueError: the tensors of the data have different numbers of rows: [5, 2]
    """
    if hasattr(data, "batches"):
        return data
    if isinstance(data, TensorDataset) and type(data).__getitem__ is TensorDataset.__getitem__:
        data = data.tensors
    if isinstance(data, tuple):
        return _columns({f"tensor {number}": column for number, column in enumerate(data)})
    if is_array(data):
        return _columns({"tensor 0": data})
    if isinstance(data, Mapping):
        return ordered(columns(data), model)
    if isinstance(data, IterableDataset):
        raise UsageError(
            f"{type(data).__name__} gives one datum at a time, but batches are needed: give "
            "DataLoader(dataset, batch_size=...)"
        )
    if is_map_style(data):
        return _Rows(data, model)
    if isinstance(data, str | bytes) or not isinstance(data, Iterable):
        parts = [part for part in ("train", "test") if hasattr(data, part)]
        hint = f"; give one of its parts, such as data.{parts[0]}" if parts else ""
        raise UsageError(f"data must be {FORMS}; got {type(data).__name__}{hint}")
    if isinstance(data, list) and data and all(map(is_array, data)):
        raise UsageError(
            f"a list of {len(data)} {type(data[0]).__name__} may be columns or batches: give the "
            "columns as a tuple, (x, y), and batches as a list of tuples"
        )
    return data


def gathered(data: Any, model: Callable[..., Any] | None = None) -> Batch:
    """All data at once, as the positional arguments of a model; arguments and errors as for
    ``batches``.

    Raises ValueError if there are no data.

    >>> [len(one) for one in gathered([(torch.zeros(3, 2), torch.arange(3))] * 2)]
    [6, 6]
    """
    found = prepared(data, model)
    if isinstance(found, tuple):
        return found
    if hasattr(found, "x") and hasattr(found, "y"):
        return found.x, found.y
    parts = list(batches(found, 1000, model))
    if not parts:
        raise ValueError("there are no data: the batches are empty (an iterator is read once)")
    return tuple(
        torch.cat(column) if isinstance(column[0], Tensor) else column[0]
        for column in zip(*parts, strict=True)
    )


def inputs_and_targets(data: Any, model: Callable[..., Any] | None = None) -> tuple[Tensor, Tensor]:
    """All inputs and all targets, of a model with one input; arguments and errors as for
    ``batches``.

    Raises ValueError if there are other parts.

    >>> inputs_and_targets({"y": [0, 1], "x": [[1.0], [2.0]]}, lambda x, y: None)[1]
    tensor([0, 1])
    """
    found = gathered(data, model)
    if len(found) != 2:
        raise ValueError(f"data must be (x, y); got {len(found)} parts")
    return found[0], found[1]


def columns(data: Mapping[str, Any]) -> dict[str, Tensor]:
    """Columns by name, as tensors; arguments and errors as for ``prepared``.

    >>> columns({"x": [[0.5], [1.0]], "y": [0, 1]})["y"]
    tensor([0, 1])
    """
    parts = [name for name, column in data.items() if is_map_style(column)]
    if parts:
        raise UsageError(
            f"the data are in parts, {', '.join(map(repr, parts))}: give one of them, such as "
            f"data[{parts[0]!r}]"
        )
    tensors = _columns({f"{name!r}": column for name, column in data.items()})
    return dict(zip(data, tensors, strict=True))


def is_map_style(data: Any) -> bool:
    """Whether data return each datum by its index: a torch ``Dataset``, or a table of Hugging
    Face's datasets, which do not subclass ``Dataset``.

    >>> is_map_style(TensorDataset(torch.zeros(3))), is_map_style([(torch.zeros(3),)])
    (True, False)
    """
    if isinstance(data, Dataset):
        return not isinstance(data, IterableDataset)
    return hasattr(data, "column_names") and hasattr(data, "__getitem__")


def as_batch(batch: Any, model: Callable[..., Any] | None = None) -> Batch:
    """One minibatch of an iterable as the positional arguments of a model: arrays become tensors,
    a dict is put in the order of the arguments, and a batch that is not a sequence is the only
    argument."""
    if isinstance(batch, Mapping):
        return arguments({name: _converted(part, name) for name, part in batch.items()}, model)
    if not isinstance(batch, tuple | list):
        batch = (batch,)
    return tuple(_converted(part, f"tensor {place}") for place, part in enumerate(batch))


class Columns:
    """The positional arguments of a model for all data: columns with one datum a row, and between
    them arguments that are the same for every datum, such as defaults.

    parts: the positional arguments; each tensor is a column.

    Raises ValueError if columns differ in length, and if there are none.

    >>> columns = Columns((torch.eye(3), None, torch.arange(3)))
    >>> len(columns), next(columns.batches(2))[1:]
    (3, (None, tensor([0, 1])))
    """

    def __init__(self, parts: tuple[Any, ...]) -> None:
        self.parts = parts
        lengths = [len(one) for one in self.tensors]
        if len(set(lengths)) != 1:
            raise ValueError(
                f"the tensors of the data have different numbers of rows: {lengths}"
                if lengths
                else "there are no data: nothing that the model is called with is a tensor"
            )

    @property
    def tensors(self) -> list[Tensor]:
        """The columns, in the order of the arguments."""
        return [one for one in self.parts if isinstance(one, Tensor)]

    def __len__(self) -> int:
        return len(self.tensors[0])

    def subset(self, indices: Tensor) -> Columns:
        """The data at some indices, (M,) int64.

        >>> Columns((torch.arange(5), None)).subset(torch.tensor([3, 1])).parts
        (tensor([3, 1]), None)
        """
        return Columns(
            tuple(
                one[indices.to(one.device)] if isinstance(one, Tensor) else one
                for one in self.parts
            )
        )

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """Minibatches in order, or shuffled by a CPU generator."""
        for index in _order(len(self), generator).split(size):
            yield self.subset(index).parts


def ordered(named: Mapping[str, Tensor], model: Callable[..., Any] | None) -> Any:
    """Columns by name in the order of a model's arguments: a tuple of tensors, or ``Columns`` if
    the model has other arguments between them."""
    columns = Columns(arguments(named, model))
    return columns.parts if len(columns.tensors) == len(columns.parts) else columns


class Loader:
    """A loader of batches by name, which returns each as the positional arguments of a model.

    All other attributes, such as its data set and its sampler, are the loader's.

    >>> loader = Loader([{"y": 2, "x": 1}], lambda x, mask=None, y=None: None)
    >>> list(loader), len(loader)
    ([(1, None, 2)], 1)
    """

    def __init__(self, loader: Any, model: Callable[..., Any]) -> None:
        self._loader = loader
        self._model = model

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            yield as_batch(batch, self._model)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copy and pickle ask for these before there is a loader
            raise AttributeError(name)
        return getattr(self._loader, name)


class _Rows:
    """A map-style ``Dataset``, whose rows are stacked into minibatches."""

    def __init__(self, dataset: Any, model: Callable[..., Any] | None) -> None:
        if not hasattr(dataset, "__len__"):
            raise UsageError(
                f"{type(dataset).__name__} has no length: give DataLoader(dataset, batch_size=...) "
                "with a sampler"
            )
        if not len(dataset):
            raise ValueError("there are no data: the Dataset is empty")
        self.dataset = dataset
        self.model = model

    def __len__(self) -> int:
        return len(self.dataset)

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        for index in _order(len(self), generator).split(size):
            yield self._stacked(self._fetched(index.tolist()))

    def _fetched(self, places: list[int]) -> list[Any]:
        # As a DataLoader does: many rows at once where the data set knows how.
        if hasattr(self.dataset, "__getitems__"):
            return self.dataset.__getitems__(places)
        return [self.dataset[place] for place in places]

    def _stacked(self, rows: list[Any]) -> Batch:
        if isinstance(rows[0], Mapping):
            named = {name: _stack([row[name] for row in rows], name) for name in rows[0]}
            return arguments(named, self.model)
        if not isinstance(rows[0], tuple | list):
            rows = [(row,) for row in rows]
        columns = zip(*rows, strict=True)
        return tuple(_stack(column, f"tensor {place}") for place, column in enumerate(columns))


def _order(n: int, generator: torch.Generator | None) -> Tensor:
    return torch.arange(n) if generator is None else torch.randperm(n, generator=generator)


def _stack(values: Any, name: str) -> Tensor:
    values = list(values)
    if isinstance(values[0], Tensor):
        if len({one.shape for one in values}) > 1:
            shapes = ", ".join(str(tuple(one.shape)) for one in values[:3])
            raise ValueError(
                f"{name} of the data has rows of different shapes, {shapes}, ...: give rows of one "
                "shape, or DataLoader(dataset, collate_fn=...) that pads them"
            )
        return torch.stack(values)
    return rows(values, name)


def _converted(value: Any, name: str) -> Any:
    """An array as a tensor; anything else unchanged."""
    return as_tensor(value, name) if is_array(value) else value


def _columns(columns: Mapping[str, Any]) -> tuple[Tensor, ...]:
    if not columns:
        raise ValueError("there are no data: the tuple or dict is empty")
    tensors = tuple(rows(column, name) for name, column in columns.items())
    lengths = [len(tensor) for tensor in tensors]
    if len(set(lengths)) > 1:
        raise ValueError(f"the tensors of the data have different numbers of rows: {lengths}")
    if not lengths[0]:
        raise ValueError("there are no data: the tensors have no rows")
    return tensors
