"""Training images that are shifted and flipped anew in every epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrosparse.data.examples import Examples


@dataclass(frozen=True)
class Augmented:
    """Training images for ``ps.fit`` that are changed at random in every shuffled pass.

    Each image is shifted by whole pixels, vertically and horizontally, all shifts with the same
    probability, and with ``flip`` half of them are mirrored. New pixels at an edge repeat the edge.

    examples: images, (N, C, H, W).
    shift:    the largest shift, as a fraction of height and width, rounded to pixels.
    flip:     mirror left and right with probability 0.5; for images that keep their class when
              mirrored, such as photographs, but not digits (``DataSet.flip``).

    ``batches`` with a generator uses only that generator, so that its seed determines all changes;
    without a generator, images come unchanged and in order: evaluation sees no augmentation.

    Raises ValueError if the examples are not images, and if a shift is outside [0, 1).

    >>> images = Examples(torch.arange(9.0).view(1, 1, 3, 3), torch.tensor([0]))
    >>> augmented = Augmented(images, shift=0.4)
    >>> batches = augmented.batches(1, torch.Generator().manual_seed(0))
    >>> next(iter(batches))[0].shape
    torch.Size([1, 1, 3, 3])
    """

    examples: Examples
    shift: float = 0.1
    flip: bool = False

    def __post_init__(self) -> None:
        if self.examples.x.dim() != 4:
            raise ValueError(
                f"only images can be shifted, (N, C, H, W); got {tuple(self.examples.x.shape)}"
            )
        if not 0 <= self.shift < 1:
            raise ValueError(f"shift is a fraction of the image, in [0, 1), got {self.shift}")

    def __len__(self) -> int:
        """Number of data."""
        return len(self.examples)

    def batches(
        self, size: int, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Minibatches as for ``Examples.batches``; augmented if a generator shuffles them."""
        plain = self.examples.batches(size, generator)
        if generator is None:
            return plain
        return ((self._moved(x, generator), y) for x, y in plain)

    def _moved(self, x: Tensor, generator: torch.Generator) -> Tensor:
        n, _, height, width = x.shape

        def places(side: int) -> Tensor:
            largest = round(self.shift * side)
            shifts = torch.randint(-largest, largest + 1, (n, 1), generator=generator)
            return (torch.arange(side) + shifts).clamp_(0, side - 1)

        rows, columns = places(height), places(width)
        if self.flip:
            mirrored = torch.randint(2, (n, 1), generator=generator, dtype=torch.bool)
            columns = torch.where(mirrored, width - 1 - columns, columns)
        rows, columns = rows.to(x.device), columns.to(x.device)
        images = torch.arange(n, device=x.device).view(n, 1, 1)
        # Channels last, so that a pixel's channels move together.
        pixels = x.permute(0, 2, 3, 1)[images, rows.unsqueeze(2), columns.unsqueeze(1)]
        return pixels.permute(0, 3, 1, 2)
