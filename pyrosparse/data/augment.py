"""Training images that are shifted and flipped anew in every epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrosparse.data.examples import Examples


@dataclass(frozen=True)
class Augmented:
    """Images for training, of which every shuffled pass gives other versions; for ``ps.fit``.

    Each image is shifted by whole pixels, up and down and sideways, all shifts as probable, and
    with ``flip`` half of them are mirrored. What comes in at an edge repeats the edge.

    examples: images, (N, C, H, W).
    shift:    the largest shift, as a fraction of height and width, rounded to pixels.
    flip:     mirror left and right with probability 1/2; for images whose mirror images keep their
              class, such as photographs, and not digits (``DataSet.flip``).

    ``batches`` with a generator draws from it alone, so that its seed determines all versions;
    without one, images come as they are and in order: evaluation sees no augmentation.

    Raises ValueError where the examples are no images, and on a shift outside [0, 1).

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
        """Minibatches as of ``Examples.batches``; augmented where a generator shuffles them."""
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
        # Channels last, so that a pixel's channels are moved together.
        pixels = x.permute(0, 2, 3, 1)[images, rows.unsqueeze(2), columns.unsqueeze(1)]
        return pixels.permute(0, 3, 1, 2)
