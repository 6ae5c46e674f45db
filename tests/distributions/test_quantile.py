"""Quantiles by selection, against torch's by sorting."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyrosparse.distributions import quantile as module
from pyrosparse.distributions.quantile import order_statistic, quantile


@given(st.integers(1, 60), st.floats(0, 1), st.integers(0, 10), st.integers(1, 60))
def test_it_is_that_of_torch(n: int, p: float, seed: int, levels: int) -> None:
    # Few levels make ties.
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(levels, (n,), generator=generator).double()
    assert torch.allclose(quantile(values, p), values.quantile(p), rtol=1e-12, atol=1e-12)
    place = int(p * (n - 1))
    on_cpu = module._select_on_cpu(values, place)
    assert torch.equal(on_cpu, module._select(values, place))
    assert torch.equal(on_cpu, values.sort().values[[place, min(place + 1, n - 1)]])


@pytest.mark.parametrize("n", [1000, 2304, 36864])
@pytest.mark.parametrize("p", [0.5, 0.75, 0.9, 0.999])
def test_so_many_are_strictly_below(n: int, p: float) -> None:
    values = torch.randn(n, generator=torch.Generator().manual_seed(0)).square()
    place = p * (n - 1)
    assert int((values < quantile(values, p)).sum()) == -int(-place // 1)


def test_any_shape_and_layout_and_dtype() -> None:
    weight = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    for values in (weight, weight.double(), weight[:, ::2], weight.transpose(0, 1)):
        assert quantile(values, 0.3).dtype == values.dtype
        assert torch.allclose(quantile(values, 0.3), values.flatten().quantile(0.3))


def test_a_fraction_outside_is_refused() -> None:
    with pytest.raises(ValueError, match="p must be in"):
        quantile(torch.ones(3), 1.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_order_statistics_of_rows_are_those_of_sorting(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = torch.randn(7, 30, dtype=dtype)
    values[2] = 1.0
    expected = values.sort(1).values
    before = values.clone()
    for place in range(30):
        found = order_statistic(values, torch.tensor(place))
        assert torch.equal(found, expected[:, place : place + 1])
        assert torch.equal(order_statistic(values.t().contiguous().t(), torch.tensor(place)), found)
    assert torch.equal(values, before)
