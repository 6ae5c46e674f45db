"""Sum-product on forests: against enumeration."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyrosparse.sum_product import sum_product, tree_sum_product
from tests import enumeration
from tests.enumeration import forests

PROBABILITIES = st.floats(0.01, 0.99)
PAIRS = st.tuples(PROBABILITIES, PROBABILITIES)


@given(forests(), PAIRS)
def test_forests_are_exact(parent, pair):
    u = 3 * torch.randn(2, len(parent), dtype=torch.float64)
    actual = u + tree_sum_product(u, torch.tensor(parent), pair)
    s = enumeration.supports(len(parent))
    for belief, evidence in zip(actual, u, strict=True):
        expected = enumeration.log_odds(s, enumeration.log_tree(s, parent, pair, evidence))
        torch.testing.assert_close(belief, expected, rtol=1e-12, atol=1e-12)


@given(forests(30), PAIRS, st.floats(-30, 30))
def test_a_node_does_not_hear_itself(parent, pair, other):
    u = torch.randn(len(parent), dtype=torch.float64)
    changed = u.clone()
    changed[0] = other
    before, after = (tree_sum_product(v, torch.tensor(parent), pair) for v in (u, changed))
    torch.testing.assert_close(before[0], after[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_path_is_a_chain(dtype):
    u = 10 * torch.randn(3, 2, 40, dtype=dtype)
    u[0, 0, 5], u[1, 0, 39] = math.inf, -math.inf
    actual = tree_sum_product(u, torch.arange(-1, 39), (0.05, 0.1))
    torch.testing.assert_close(actual, sum_product(u, (0.05, 0.1)))
    assert actual.dtype == dtype


def test_float32_is_float64():
    u = 30 * torch.randn(200)
    parent = torch.tensor([-1, *((node - 1) // 3 for node in range(1, 200))])
    actual = tree_sum_product(u, parent, (0.01, 0.3))
    expected = tree_sum_product(u.double(), parent, (0.01, 0.3))
    # What children say is summed in float32, and cancels where they disagree.
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)


def test_no_gradient_passes():
    u = torch.zeros(3, requires_grad=True)
    assert not tree_sum_product(u, torch.tensor([-1, 0, 0]), (0.1, 0.2)).requires_grad


U = torch.zeros(3)


@pytest.mark.parametrize(
    ("error", "match", "u", "parent", "pair"),
    [
        (TypeError, "float32 or float64", U.half(), [-1, 0, 0], (0.1, 0.1)),
        (ValueError, "shape", U, [-1, 0], (0.1, 0.1)),
        (ValueError, "NaN", U / 0, [-1, 0, 0], (0.1, 0.1)),
        (ValueError, "indices", U, [-1, 0, 3], (0.1, 0.1)),
        (ValueError, "indices", U, [-2, 0, 1], (0.1, 0.1)),
        (ValueError, "cycle", U, [-1, 2, 1], (0.1, 0.1)),
        (ValueError, "cycle", U, [0, -1, -1], (0.1, 0.1)),
        (TypeError, "int64", U, [-1.0, 0.0, 0.0], (0.1, 0.1)),
        (ValueError, "p10", U, [-1, 0, 0], (0.1, 0.0)),
        (TypeError, "pair", U, [-1, 0, 0], 0.1),
    ],
)
def test_bad_arguments_are_refused(error, match, u, parent, pair):
    with pytest.raises(error, match=match):
        tree_sum_product(u, torch.tensor(parent), pair)
