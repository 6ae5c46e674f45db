"""Data of two classes for the networks of this folder."""

import pytest
import torch
from torch import Tensor


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(30, 4)
    return x, (x[:, 0] > 0).long()
