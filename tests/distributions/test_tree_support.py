"""Supports on trees: against enumeration, and draws against exact marginals."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyrosparse.distributions import GridSupport, TreeSupport
from tests import enumeration
from tests.enumeration import forests
from tests.monte_carlo import assert_mean

PROBABILITIES = st.floats(0.02, 0.98)
PAIRS = st.tuples(PROBABILITIES, PROBABILITIES)


@given(forests(), PAIRS)
def test_log_prob_and_mean_are_those_of_enumeration(parent, pair):
    n = len(parent)
    u = torch.randn(2, n, dtype=torch.float64)
    posterior = TreeSupport(torch.tensor(parent), pair, field=u)
    s = enumeration.supports(n)
    log_density = torch.stack([enumeration.log_tree(s, parent, pair, one) for one in u], dim=1)
    expected = log_density - log_density.logsumexp(0)
    actual = posterior.log_prob(s[:, None].double())
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    mean = expected.exp().t() @ s.double()
    torch.testing.assert_close(posterior.mean, mean, rtol=1e-10, atol=1e-10)
    total = posterior.log_prob(posterior.enumerate_support()).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(2).double(), rtol=1e-10, atol=1e-10)


def test_draws_are_exact():
    parent = torch.tensor([3, 0, 0, -1, 3, -1, 5])
    u = torch.randn(2, 7, dtype=torch.float64)
    posterior = TreeSupport(parent, (0.2, 0.3), field=u)
    edges = parent >= 0

    def pairs(s):
        return torch.cat([s, s[..., edges] * s[..., parent[edges]]], dim=-1)

    states = posterior.enumerate_support()
    expected = (posterior.log_prob(states).exp()[..., None] * pairs(states)).sum(0)
    draws = posterior.sample((4000,))
    assert draws.shape == (4000, 2, 7)
    assert_mean(pairs(draws), expected)


def test_without_evidence_all_nodes_are_in_the_steady_state():
    prior = TreeSupport(torch.arange(-1, 99), (0.1, 0.3))
    torch.testing.assert_close(prior.mean, torch.full((100,), 0.25))


def test_a_path_is_a_chain():
    u = torch.randn(3, 1, 30, dtype=torch.float64)
    path = TreeSupport(torch.arange(-1, 29), (0.1, 0.3), field=u[:, 0])
    chain = GridSupport((0.1, 0.3), None, (1, 30), field=u)
    s = chain.sample()
    torch.testing.assert_close(path.log_prob(s[:, 0]), chain.log_prob(s))
    torch.testing.assert_close(path.mean, chain.mean[:, 0])


def test_expand_keeps_the_law():
    posterior = TreeSupport(torch.tensor([-1, 0, 0]), (0.1, 0.3), field=torch.randn(1, 3))
    many = posterior.expand([5, 4])
    assert (many.batch_shape, many.event_shape) == ((5, 4), (3,))
    draws = many.sample((2,))
    assert draws.shape == (2, 5, 4, 3)
    torch.testing.assert_close(many.log_prob(draws), posterior.log_prob(draws))


def test_log_prob_has_a_gradient_in_the_field():
    u = torch.randn(5, dtype=torch.float64, requires_grad=True)
    posterior = TreeSupport(torch.tensor([-1, 0, 0, 1, 1]), (0.1, 0.3), field=u)
    s = posterior.sample()
    (gradient,) = torch.autograd.grad(posterior.log_prob(s), u)
    torch.testing.assert_close(gradient, s - posterior.mean)


@pytest.mark.parametrize(
    ("error", "match", "parent", "pair", "shape"),
    [
        (ValueError, "shape", [[-1, 0]], (0.1, 0.1), (2,)),
        (ValueError, "indices", [-1, 2], (0.1, 0.1), (2,)),
        (ValueError, "cycle", [1, 0], (0.1, 0.1), (2,)),
        (TypeError, "int64", [-1.0, 0.0], (0.1, 0.1), (2,)),
        (ValueError, "transition", [-1, 0], (0.1, 1.0), (2,)),
        (ValueError, "field", [-1, 0], (0.1, 0.1), (3,)),
    ],
)
def test_bad_arguments_are_refused(error, match, parent, pair, shape):
    with pytest.raises(error, match=match):
        TreeSupport(torch.tensor(parent), pair, field=torch.zeros(shape))
