"""Gibbs masks of any neighbourhoods, against enumeration and the special cases."""

import pytest
import torch

from pyrosparse.distributions import BipartiteGibbsMask, IsingMask
from tests.distributions.enumerated import assert_law, bipartite, log_weights, states


def ring(n: int, c: float) -> torch.Tensor:
    index = torch.arange(n)
    couplings = torch.zeros(n, n, dtype=torch.float64)
    couplings[index, (index + 1) % n] = c
    return couplings + couplings.t()


def field(n: int) -> torch.Tensor:
    return torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("c", [0.3, -0.5])
def test_a_ring_of_three_colours(c: float) -> None:
    torch.manual_seed(0)
    couplings, colours = ring(7, c), torch.tensor([0, 1, 0, 1, 0, 1, 2])
    law = IsingMask(field(7), 0.5, couplings, colours, sweeps=30)
    weights = log_weights(field(7), 0.5, couplings)
    assert torch.allclose(law.log_prob(states(7)), weights.log_softmax(0), atol=1e-13)
    assert torch.allclose(law.log_normalizer, weights.logsumexp(0))
    assert torch.allclose(law.mean, weights.softmax(0) @ states(7))
    assert torch.equal(law.mode, states(7)[weights.argmax()])
    assert torch.equal(law.enumerate_support(), states(7))
    assert_law(law.sample((20_000,)), weights)


def test_two_colours_are_the_bipartite_mask() -> None:
    colours = torch.tensor([0, 0, 0, 1, 1])
    batch = torch.stack([field(5), -field(5)])
    law = IsingMask(batch, 0.8, bipartite(5, 3, 0.2), colours)
    other = BipartiteGibbsMask(batch, 0.8, 0.2, split=3)
    value = states(5)[torch.tensor([3, 17])]
    assert torch.allclose(law.log_prob(value), other.log_prob(value))
    assert torch.allclose(law.mean, other.mean)
    assert torch.equal(law.mode, other.mode)
    assert torch.allclose(law.conditional_logits(value), other.conditional_logits(value))
    assert torch.allclose(law.energy(value), other.energy(value))
    assert law.expand((3, 2)).sample((4,)).shape == (4, 3, 2, 5)


def test_the_start_is_what_a_cold_sampler_keeps() -> None:
    chain = torch.diag(torch.ones(5), 1) + torch.diag(torch.ones(5), -1)
    colours = torch.arange(6) % 2
    law = {"field": torch.full((6,), -0.1), "beta": 1e6, "couplings": chain, "colours": colours}
    off = IsingMask(**law, start=torch.zeros(6))
    assert not off.sample((3,)).any()
    assert off.mode.all() and off.log_prob(off.mode) == 0.0
    assert IsingMask(**law, start=torch.ones(6)).sample((3,)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colours": torch.zeros(4)}, "elements 0 and 1 interact but have the same colour"),
        ({"colours": torch.zeros(3)}, r"colours must be \(4,\)"),
        ({"couplings": torch.ones(4, 4).triu(1)}, "symmetric"),
        ({"sweeps": 1.5}, "sweeps"),
        ({"beta": -1.0}, "beta"),
    ],
)
def test_bad_arguments_are_refused(change: dict, message: str) -> None:
    good = {
        "field": torch.zeros(4),
        "beta": 1.0,
        "couplings": ring(4, 0.1).float(),
        "colours": torch.arange(4) % 2,
    }
    with pytest.raises(ValueError, match=message):
        IsingMask(**(good | change))


def test_too_many_masks_are_not_enumerated() -> None:
    law = IsingMask(torch.zeros(21), 1.0, torch.zeros(21, 21), torch.zeros(21))
    assert law.sample().shape == (21,)
    with pytest.raises(ValueError, match=r"2\^21 masks are too many"):
        _ = law.mean
