"""Examples in memory, and data sets with three parts."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyrosparse.util.arrays import as_tensor


@dataclass(frozen=True, eq=False, repr=False)
class Examples:
    """Inputs and their classes, or targets for regression, both in memory.

    x: (N, C, H, W) or (N, D) floating point, normally float32; y: (N,) int64 classes, or (N,) or
    (N, d) floating point. Arrays become tensors, of torch's default dtype or int64.
    Raises ValueError if there are no data, the lengths differ, a dtype is wrong, or x or y has a
    NaN or an infinity.

    >>> import torch
    >>> examples = Examples(torch.zeros(5, 2), torch.tensor([0, 1, 0, 1, 1]))
    >>> [len(y) for x, y in examples.batches(2)]
    [2, 2, 1]
    """

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        for name in ("x", "y"):
            object.__setattr__(self, name, as_tensor(getattr(self, name), name))
        if not self.x.is_floating_point() or self.x.ndim < 2:
            raise ValueError(
                f"x must be floating point, (N, ...); got {self.x.dtype} {tuple(self.x.shape)}"
            )
        classes = self.y.dtype == torch.int64 and self.y.ndim == 1
        if not classes and not (self.y.is_floating_point() and self.y.ndim in (1, 2)):
            raise ValueError(
                "y must be classes, int64 (N,), or values, floating point (N,) or (N, d); got "
                f"{self.y.dtype} {tuple(self.y.shape)}"
            )
        if len(self.x) != len(self.y):
            raise ValueError(f"x has {len(self.x)} data but y has {len(self.y)}")
        if not self.x.numel():
            raise ValueError("there are no data")
        for name, tensor in (("x", self.x), ("y", self.y)):
            # aminmax returns NaN if there is one and, unlike isfinite, needs no second tensor.
            if not torch.stack(tensor.aminmax()).isfinite().all():
                bad = ~tensor.isfinite()
                first = int(bad.view(len(bad), -1).any(1).nonzero()[0])
                raise ValueError(
                    f"{name} has {int(bad.sum())} values that are NaN or infinite, the first in "
                    f"{name}[{first}]"
                )

    def __len__(self) -> int:
        """Number of data."""
        return len(self.y)

    def __repr__(self) -> str:
        return f"Examples({len(self)} x {tuple(self.x.shape[1:])}, {self.x.dtype}, {self.x.device})"

    def to(self, device: torch.device | str) -> "Examples":
        """Return the same data on a device.

        >>> import torch
        >>> Examples(torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64)).to("cpu")
        Examples(5 x (2,), torch.float32, cpu)
        """
        return Examples(self.x.to(device), self.y.to(device))

    def subset(self, indices: Tensor) -> "Examples":
        """Return the data at some indices; indices: (M,) int64, or (N,) bool.

        Raises IndexError if an index is out of range, ValueError if there are none.

        >>> import torch
        >>> Examples(torch.zeros(5, 2), torch.arange(5)).subset(torch.tensor([3, 1])).y
        tensor([3, 1])
        """
        indices = indices.to(self.y.device)
        return Examples(self.x[indices], self.y[indices])

    def batches(
        self, size: int, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield minibatches (x, y) that cover every datum once; the last one may be smaller.

        x: (size, ...) like `self.x`; y: (size,) int64. In order, or shuffled by a CPU generator,
        whose state changes at the call. Raises ValueError if the size is not positive.

        >>> import torch
        >>> examples = Examples(torch.zeros(5, 2), torch.arange(5))
        >>> shuffled = examples.batches(2, torch.Generator().manual_seed(0))
        >>> sorted(torch.cat([y for x, y in shuffled]).tolist())
        [0, 1, 2, 3, 4]
        """
        if size < 1:
            raise ValueError(f"the batch size must be positive; got {size}")
        if generator is None:
            return zip(self.x.split(size), self.y.split(size), strict=True)
        order = torch.randperm(len(self), generator=generator).to(self.y.device)
        return ((self.x[index], self.y[index]) for index in order.split(size))


@dataclass(frozen=True, eq=False)
class DataSet:
    """A named data set in three parts; `validation` is None if nothing was held out.

    bounds: the values of pixels 0 and 1 in x, each (C, 1, 1), on the CPU; None if x has no pixels.
    flip:   whether an image keeps its class when mirrored left to right.
    target_scale: the standard deviation by which regression targets were divided; 1 for classes,
            and if there are several targets.
    Raises ValueError if the parts differ in shape or a label has no class.

    >>> import torch
    >>> part = Examples(torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]))
    >>> DataSet("Toy", part, None, part, classes=("cat", "dog")).image_shape
    (1, 8, 8)
    """

    name: str
    train: Examples
    validation: Examples | None
    test: Examples
    classes: tuple[str, ...]
    bounds: tuple[Tensor, Tensor] | None = None
    flip: bool = False
    target_scale: float = 1.0

    def __post_init__(self) -> None:
        for part in (self.train, self.validation, self.test):
            if part is None:
                continue
            if part.x.shape[1:] != self.train.x.shape[1:]:
                raise ValueError(f"{self.name}: the parts have data of different shapes")
            if part.y.is_floating_point():
                continue
            if part.y.min() < 0 or part.y.max() >= len(self.classes):
                raise ValueError(f"{self.name}: a label is outside 0..{len(self.classes) - 1}")

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one datum, (C, H, W) or (D,)."""
        return tuple(self.train.x.shape[1:])

    @property
    def shift(self) -> bool:
        """Whether the data are images of which a tenth is at least one pixel: smaller ones change
        too much with every shift.

        >>> from pyrosparse import data
        >>> data.load("digits").shift  # of 8 x 8
        False
        """
        return len(self.image_shape) == 3 and min(self.image_shape[1:]) >= 10

    def to(self, device: torch.device | str) -> "DataSet":
        """Return the same data set on a device.

        >>> from pyrosparse import data
        >>> data.load("digits", validation=0).to("cpu").train
        Examples(1438 x (1, 8, 8), torch.float32, cpu)
        """
        validation = None if self.validation is None else self.validation.to(device)
        train, test = self.train.to(device), self.test.to(device)
        return replace(self, train=train, validation=validation, test=test)
