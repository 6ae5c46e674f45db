"""Switches given how many are on, against enumeration."""

import math

import pytest
import torch
from torch import Tensor

from pyrosparse.distributions import ConditionalBernoulli
from pyrosparse.distributions.conditional_bernoulli import sample_by_tables
from tests.distributions.enumerated import assert_law, states


def logits(n: int, size: float = 1.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(n, dtype=torch.float64, generator=generator)


def enumerated(t: Tensor, count: int) -> Tensor:
    """The log weights of all states."""
    every = states(len(t))
    return torch.where(every.sum(1) == count, every @ t, -torch.inf)


@pytest.mark.parametrize("count", [0, 1, 2, 5, 8, 9])
@pytest.mark.parametrize("size", [0.1, 2.0, 40.0])
def test_the_law_is_the_enumerated_one(count: int, size: float) -> None:
    t = logits(9, size)
    law, weights = ConditionalBernoulli(t, count), enumerated(t, count)
    assert law.log_normalizer == pytest.approx(float(weights.logsumexp(0)), rel=1e-13, abs=1e-13)
    found = law.log_prob(states(9))
    assert torch.allclose(found, weights.log_softmax(0), rtol=1e-12, atol=1e-12)
    marginals = weights.softmax(0) @ states(9)
    assert (law.mean - marginals).abs().max() < 1e-14
    assert float(law.mean.sum()) == pytest.approx(count)
    assert torch.equal(law.mode, states(9)[weights.argmax()])


def test_two_of_four_by_hand() -> None:
    # r_1 (r_2 + r_3 + r_4) over the sum of all six pairs.
    law = ConditionalBernoulli(torch.tensor([1.0, 2.0, 3.0, 4.0]).double().log(), 2)
    assert float(law.log_normalizer.exp()) == pytest.approx(2 + 3 + 4 + 6 + 8 + 12)
    assert law.mean.tolist() == pytest.approx([9 / 35, 16 / 35, 21 / 35, 24 / 35])


@pytest.mark.parametrize("by_tables", [False, True])
@pytest.mark.parametrize("size", [0.7, 3.0])
def test_samples_are_at_the_multinomial_sampling_floor(by_tables: bool, size: float) -> None:
    torch.manual_seed(0)
    t = logits(6, size)
    if by_tables:
        uniforms = torch.rand(20_000, 6, dtype=torch.float64)
        draws = sample_by_tables(t.expand(20_000, 6), 2, uniforms)
    else:
        draws = ConditionalBernoulli(t, 2).sample((20_000,))
    assert_law(draws, enumerated(t, 2))


@pytest.mark.parametrize("size", [1.0, 100.0, 1e4, 1e8])
def test_compiled_draws_are_those_of_the_tables(size: float) -> None:
    t = logits(4000, size).view(1000, 4)
    torch.manual_seed(1)
    drawn = ConditionalBernoulli(t, 2).sample()
    torch.manual_seed(1)
    uniforms = torch.rand(1000, 4, dtype=torch.float64)
    assert torch.equal(drawn != 0, sample_by_tables(t, 2, uniforms))
    assert torch.equal(drawn.sum(1), torch.full((1000,), 2.0).double())
    if size == 1e8:
        assert torch.equal(drawn, ConditionalBernoulli(t, 2).mode)


def test_batches_dtypes_and_errors() -> None:
    t = logits(40).view(2, 5, 4).float()
    law = ConditionalBernoulli(t, 1)
    assert law.batch_shape == (2, 5) and law.event_shape == (4,)
    assert law.sample((3,)).shape == (3, 2, 5, 4) and law.sample().dtype == torch.float32
    assert law.expand((7, 2, 5)).mean.shape == (7, 2, 5, 4)
    assert torch.allclose(law.mean, t.softmax(-1)) and torch.allclose(
        law.variance, law.mean * (1 - law.mean)
    )
    # The flat law is uniform over all subsets.
    flat = ConditionalBernoulli(torch.zeros(8), 4)
    assert float(flat.log_normalizer) == pytest.approx(math.log(70))
    with pytest.raises(ValueError, match="count must be from 0 to 4"):
        ConditionalBernoulli(t, 5)
    with pytest.raises(ValueError, match="logits must be floating"):
        ConditionalBernoulli(torch.zeros(3, dtype=torch.int64), 1)
