"""Tiny networks of every architecture that must work, with data that fit them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

CLASSES = 3


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES))


def cnn() -> nn.Module:
    """Convolution and batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, bias=False),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(12, CLASSES),
    )


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, padding=1)
        self.branch = nn.Sequential(
            nn.Tanh(), nn.Conv2d(3, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 3, 1)
        )
        self.head = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.branch(x)
        return self.head(x.mean(dim=(2, 3)))


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 1),
        nn.Tanh(),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Tanh(),
        nn.Conv2d(4, 3, 1),
        nn.Flatten(),
        nn.Linear(12, CLASSES),
    )


class Tied(nn.Module):
    """Two layers share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


NETS: dict[str, Callable[[], nn.Module]] = {
    "mlp": mlp,
    "cnn": cnn,
    "residual": Residual,
    "depthwise": depthwise,
}


def batch(name: str, n: int = 7) -> tuple[Tensor, Tensor]:
    """Inputs and labels for a network of ``NETS``."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, *((4,) if name == "mlp" else (1, 4, 4)), generator=generator)
    return x, torch.randint(CLASSES, (n,), generator=generator)
