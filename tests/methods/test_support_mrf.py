from typing import ClassVar

import torch

import pyrosparse as ps
from tests.method_case import MethodCase


class TestSupportMRF(MethodCase):
    bad: ClassVar = [
        {"slab_rate": 0.0, "spike_rate": 0.1},
        {"slab_rate": 0.1},
        {"slab_rate": 0.1, "spike_rate": 0.2},
        {"contrast": 1.0},
        {"inactive": 1.0},
        {"posterior": "factorised"},
        {"likelihood": "taylor"},
        {"initial_scale": -1.0},
        {"magnitude": -1.0},
    ]
    recovery_threshold = 0.0
    capture_dtype = torch.float64  # large precisions: losses are small differences

    def make(self, **options):
        return ps.SupportMRF(**options)
