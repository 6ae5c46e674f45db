"""Hard concrete gates against Monte Carlo, a fine integral and known answers."""

import pytest
import torch

from pyrosparse.distributions import hard_concrete, hard_concrete_logits, hard_concrete_moments
from tests.monte_carlo import assert_mean

LINE = torch.tensor([-6.0, -2.3979, -1.0, 0.0, 0.5, 2.3979, 6.0], dtype=torch.float64)


@pytest.mark.parametrize("shape", [(), (0.5, -0.2, 1.3)])
def test_probabilities_and_moments_equal_monte_carlo(shape: tuple[float, ...]) -> None:
    torch.manual_seed(0)
    z = hard_concrete(LINE, *shape, sample_shape=(200_000,))
    assert bool(((z >= 0) & (z <= 1)).all())
    passing, full = hard_concrete_logits(LINE, *shape)
    first, second = hard_concrete_moments(LINE, *shape)
    assert_mean((z != 0).double(), passing.sigmoid())
    assert_mean((z == 1).double(), full.sigmoid())
    assert_mean(z, first)
    assert_mean(z.square(), second)


def test_known_answers() -> None:
    at = torch.tensor([0.0, -2.3979], dtype=torch.float64)
    passing, full = hard_concrete_logits(at)
    first, second = hard_concrete_moments(at)
    assert 1 - float(passing[0].sigmoid()) == pytest.approx(0.16818, abs=5e-6)
    assert float(full[0].sigmoid()) == pytest.approx(0.16818, abs=5e-6)
    assert float(second[0]) == pytest.approx(0.39802, abs=5e-6)
    assert float(passing[1].sigmoid()) == pytest.approx(0.3102, abs=5e-5)
    assert float(first[1]) == pytest.approx(0.1027, abs=5e-5)


def test_moments_equal_a_fine_integral() -> None:
    t = (torch.arange(2_000_000, dtype=torch.float64) + 0.5) / 2_000_000
    odds = torch.log((t + 0.1) / (1.1 - t)) * 2 / 3
    for log_alpha, first, second in zip(LINE, *hard_concrete_moments(LINE), strict=True):
        above = torch.sigmoid(log_alpha - odds)
        assert float(first) == pytest.approx(float(above.mean()), abs=3e-11)
        assert float(second) == pytest.approx(float((2 * t * above).mean()), abs=3e-11)


def test_gradients_reach_what_is_neither_0_nor_1() -> None:
    torch.manual_seed(1)
    log_alpha = torch.zeros(1000, requires_grad=True)
    z = hard_concrete(log_alpha)
    z.sum().backward()
    assert log_alpha.grad is not None
    inside = (z > 0) & (z < 1)
    assert torch.equal(log_alpha.grad != 0, inside) and 600 < int(inside.sum()) < 730
