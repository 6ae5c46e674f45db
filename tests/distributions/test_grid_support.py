"""Supports on grids: against enumeration, and draws against exact marginals."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyrosparse.distributions import GridSupport
from pyrosparse.distributions import grid_support as module
from tests import enumeration
from tests.monte_carlo import assert_mean

PROBABILITIES = st.floats(0.02, 0.98)
PAIRS = st.tuples(PROBABILITIES, PROBABILITIES)
AXES = st.one_of(st.tuples(PAIRS, st.none()), st.tuples(st.none(), PAIRS), st.tuples(PAIRS, PAIRS))
SHAPES = st.sampled_from([(1, 1), (1, 5), (5, 1), (3, 3), (2, 5), (5, 2)])
SEEDS = st.integers(0, 2**20)


def field(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@given(AXES, SHAPES, SEEDS)
def test_log_prob_and_mean_are_those_of_enumeration(axes, shape, seed):
    u = field(2, *shape, seed=seed)
    posterior = GridSupport(*axes, shape, field=u)
    s = enumeration.supports(*shape)
    log_density = torch.stack([enumeration.log_grid(s, *axes, one) for one in u], dim=1)
    states = s[:, None].double()
    torch.testing.assert_close(posterior.log_density(states), log_density, rtol=1e-10, atol=1e-10)
    expected = log_density - log_density.logsumexp(0)
    torch.testing.assert_close(posterior.log_prob(states), expected, rtol=1e-10, atol=1e-10)
    mean = torch.einsum("sb,s...->b...", expected.exp(), s.double())
    torch.testing.assert_close(posterior.mean, mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(posterior.variance, mean * (1 - mean), rtol=1e-9, atol=1e-10)


@given(AXES, SHAPES)
def test_probabilities_sum_to_one(axes, shape):
    prior = GridSupport(*axes, shape)
    total = prior.log_prob(prior.enumerate_support()).exp().sum()
    torch.testing.assert_close(total, torch.tensor(1.0), rtol=0, atol=1e-5)


def test_enumerated_supports_are_all_different():
    prior = GridSupport((0.1, 0.2), None, (2, 3)).expand([4])
    assert prior.enumerate_support().shape == (64, 4, 2, 3)
    states = prior.enumerate_support(expand=False)
    assert states.shape == (64, 1, 2, 3)
    assert len(states.flatten(1).unique(dim=0)) == 64
    with pytest.raises(NotImplementedError, match="too many"):
        GridSupport((0.1, 0.2), None, (3, 7)).enumerate_support()


def pairs(s):
    """What draws are compared in: nodes and products of neighbours."""
    nodes, rows = s.flatten(-2), (s[..., 1:] * s[..., :-1]).flatten(-2)
    return torch.cat([nodes, rows, (s[..., 1:, :] * s[..., :-1, :]).flatten(-2)], dim=-1)


DRAWN = [
    ((0.2, 0.3), None),
    (None, (0.1, 0.4)),
    ((0.3, 0.4), (0.2, 0.5)),
    ((0.8, 0.7), (0.3, 0.3)),
]


@pytest.mark.parametrize("axes", DRAWN)
@pytest.mark.parametrize("shape", [(3, 4), (4, 2)])
def test_draws_are_exact(axes, shape):
    u = field(2, *shape, seed=3)
    posterior = GridSupport(*axes, shape, field=u)
    states = posterior.enumerate_support()
    weight = posterior.log_prob(states).exp()
    expected = (weight[..., None] * pairs(states)).sum(0)
    draws = posterior.sample((4000,))
    assert draws.shape == (4000, 2, *shape)
    assert_mean(pairs(draws), expected)


@pytest.mark.parametrize("axes", DRAWN[2:])
def test_gibbs_draws_have_the_law_too(axes, monkeypatch):
    u = field(3, 4, seed=5)
    posterior = GridSupport(*axes, (3, 4), field=u, gibbs_sweeps=30)
    states = posterior.enumerate_support()
    expected = (posterior.log_prob(states).exp()[..., None] * pairs(states)).sum(0)
    monkeypatch.setattr(module, "EXACT_SIDE", 2)
    assert_mean(pairs(posterior.sample((4000,))), expected)


def test_where_exact_sums_are_out_of_reach():
    large = GridSupport((0.3, 0.4), (0.3, 0.4), (11, 12))
    with pytest.raises(ValueError, match="gibbs_sweeps=200"):
        large.sample()
    with pytest.raises(NotImplementedError, match="log_density"):
        large.log_prob(torch.zeros(11, 12))
    with pytest.raises(NotImplementedError, match="sum_product"):
        _ = large.mean
    sampler = GridSupport((0.3, 0.4), (0.3, 0.4), (11, 12), gibbs_sweeps=2)
    draws = sampler.expand([2]).sample((3,))
    assert draws.shape == (3, 2, 11, 12)
    assert large.log_density(draws).shape == (3, 2)


def test_long_chains_in_float32():
    # Without evidence a chain stays in its steady state, and its normaliser is 1.
    prior = GridSupport((0.01, 0.03), None, (2, 2000))
    torch.testing.assert_close(prior.mean, torch.full((2, 2000), 0.25), rtol=1e-4, atol=1e-4)
    assert abs(float(prior.log_normalizer)) < 1e-2
    draws = prior.expand([50]).sample()
    # Runs of ones have the mean length 1 / p10.
    ends = draws[..., :-1] * (1 - draws[..., 1:])
    ratio = ends.flatten(1).sum(1) - 0.03 * draws[..., :-1].flatten(1).sum(1)
    assert_mean(ratio, 0.0)


def test_the_widest_exact_grid():
    row, column = (0.3, 0.4), (0.25, 0.5)
    u = field(10, 12)
    wide = GridSupport(row, column, (10, 12), field=u)
    tall = GridSupport(column, row, (12, 10), field=u.mT)
    torch.testing.assert_close(wide.log_normalizer, tall.log_normalizer)
    torch.testing.assert_close(wide.mean, tall.mean.mT)
    assert wide.sample((3,)).shape == (3, 10, 12)


def test_expand_keeps_the_law_and_what_was_summed():
    posterior = GridSupport((0.2, 0.3), (0.3, 0.4), (2, 3), field=field(1, 2, 3))
    once = posterior.log_normalizer
    many = posterior.expand([5, 4])
    assert (many.batch_shape, many.event_shape) == ((5, 4), (2, 3))
    assert torch.equal(many.log_normalizer, once.expand(5, 4))
    draws = many.sample((2,))
    assert draws.shape == (2, 5, 4, 2, 3)
    torch.testing.assert_close(many.log_prob(draws), posterior.log_prob(draws))
    fresh = GridSupport((0.2, 0.3), (0.3, 0.4), (2, 3), field=field(1, 2, 3)).expand([5, 4])
    torch.testing.assert_close(fresh.log_normalizer, many.log_normalizer)
    torch.testing.assert_close(fresh.mean, posterior.mean.expand(5, 4, 2, 3))


def test_log_prob_has_a_gradient_in_the_field_again_and_again():
    u = field(3, 3).requires_grad_()
    posterior = GridSupport((0.2, 0.3), (0.3, 0.4), (3, 3), field=u)
    s = posterior.sample()
    with torch.no_grad():
        posterior.log_prob(s)
    for _ in range(2):
        (gradient,) = torch.autograd.grad(posterior.log_prob(s), u)
        torch.testing.assert_close(gradient, s - posterior.mean)


def test_values_outside_the_support_are_refused():
    with pytest.raises(ValueError, match="support"):
        GridSupport((0.1, 0.2), None, (1, 2)).log_prob(torch.tensor([[0.5, 1.0]]))


@pytest.mark.parametrize(
    ("error", "match", "arguments", "options"),
    [
        (ValueError, "both None", (None, None, (2, 2)), {}),
        (ValueError, "row", ((0.0, 0.1), None, (2, 2)), {}),
        (ValueError, "column", (None, (0.1, 1.0), (2, 2)), {}),
        (TypeError, "pair", (0.1, None, (2, 2)), {}),
        (ValueError, "shape", ((0.1, 0.1), None, (2, 0)), {}),
        (ValueError, "shape", ((0.1, 0.1), None, (2,)), {}),
        (ValueError, "field", ((0.1, 0.1), None, (2, 2)), {"field": torch.zeros(2, 3)}),
        (
            ValueError,
            "finite",
            ((0.1, 0.1), None, (1, 1)),
            {"field": torch.full((1, 1), float("inf"))},
        ),
        (ValueError, "gibbs_sweeps", ((0.1, 0.1), None, (2, 2)), {"gibbs_sweeps": 0}),
    ],
)
def test_bad_arguments_are_refused(error, match, arguments, options):
    with pytest.raises(error, match=match):
        GridSupport(*arguments, **options)
