"""Priors over supports: messages and draws against enumeration."""

import math
from itertools import product

import pyro.poutine as poutine
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyrosparse.supports import Chain, Grid, Tree, from_the_centre
from pyrosparse.supports.grid import to_grid
from tests import enumeration
from tests.monte_carlo import assert_mean
from tests.supports.cases import expected_frequencies, frequencies, grid_messages

PROBABILITIES = st.floats(0.02, 0.98)
PAIRS = st.tuples(PROBABILITIES, PROBABILITIES)
# The paper's public code, and the default.
CONVERGENT = [(0.288, 0.51), (0.325, 0.542), (0.4, 0.4)]


def random_evidence(*shape: int) -> torch.Tensor:
    return 3 * torch.randn(shape, dtype=torch.float64)


def draws(prior, shape: tuple[int, ...], count: int = 1000) -> torch.Tensor:
    """Supports drawn from a prior, (count, elements)."""
    like = torch.zeros(shape, dtype=torch.float64)
    site = poutine.trace(lambda: prior.sample("s", like)).get_trace()
    assert list(site.stochastic_nodes) == ["s"]
    supports = torch.stack([prior.sample("s", like) for _ in range(count)])
    assert supports.dtype == like.dtype and supports[0].shape == shape
    assert set(supports.unique().tolist()) <= {0.0, 1.0}
    return supports.flatten(1)


# Chains


@given(PAIRS, st.integers(-3, 2), st.tuples(*[st.integers(1, 4)] * 3))
def test_chains_are_exact_along_any_dimension(pair, dim, shape):
    u = random_evidence(*shape)
    found = Chain(pair, dim).messages(u).movedim(dim, -1)
    rows = u.movedim(dim, -1)
    for place in torch.cartesian_prod(*[torch.arange(n) for n in rows.shape[:2]]).tolist():
        chain = rows[tuple(place)].unsqueeze(0)
        expected = grid_messages(chain, pair, None)[0]
        torch.testing.assert_close(found[tuple(place)], expected, rtol=1e-12, atol=1e-12)


def test_draws_of_chains_have_their_law():
    pair, shape = (0.15, 0.3), (3, 2)
    s = enumeration.supports(*shape)
    log_density = enumeration.log_grid(s, None, pair, torch.zeros(shape, dtype=torch.float64))
    expected = expected_frequencies(s.flatten(1), log_density)
    assert_mean(frequencies(draws(Chain(pair, dim=0), shape)), expected)


# Grids


@pytest.mark.parametrize("pair", CONVERGENT)
@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ("kernel", (1, 2, 3, 3)),
        ("tiled", (2, 2, 2, 2)),
        ("channel", (3, 3, 1, 2)),
        ("kernel", (4, 3)),
        ("kernel", (1, 1, 2, 2, 3)),
    ],
)
def test_messages_on_grids_are_near_enumeration(pair, layout, shape):
    prior = Grid(pair, pair, layout=layout, sweeps=30)
    u = random_evidence(*shape)
    found = to_grid(prior.messages(u), layout)
    grids = to_grid(u, layout)
    for heard, evidence in zip(
        found.reshape(-1, *found.shape[-2:]), grids.reshape(-1, *grids.shape[-2:]), strict=True
    ):
        belief = (heard + evidence).sigmoid()
        exact = (grid_messages(evidence, pair, pair) + evidence).sigmoid()
        assert (belief - exact).abs().max() < 5e-3


def test_rows_and_columns_are_told_apart():
    u = random_evidence(2, 3)  # two outputs, three inputs: the grid is (3, 2)
    uncoupled = (0.3, 0.7)
    found = Grid(row=(0.1, 0.2), column=uncoupled).messages(u)
    expected = grid_messages(u.t(), (0.1, 0.2), uncoupled).t()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@given(PROBABILITIES, st.sampled_from(["kernel", "tiled", "channel"]))
def test_without_coupling_messages_are_constant(p01, layout):
    pair = (p01, 1 - p01)
    u = random_evidence(2, 3, 2, 2)
    start = math.log(p01) - math.log1p(-p01)
    both = Grid(pair, pair, layout=layout).messages(u)
    torch.testing.assert_close(both, torch.full_like(u, 2 * start), rtol=1e-10, atol=1e-10)
    for one in (Chain(pair, 1), Tree(pair)):
        torch.testing.assert_close(
            one.messages(u), torch.full_like(u, start), rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize(
    ("layout", "shape"), [("kernel", (2, 1, 2, 2)), ("tiled", (2, 1, 2, 1)), ("kernel", (2, 3))]
)
def test_draws_of_grids_have_their_law(layout, shape):
    row, column = (0.2, 0.4), (0.5, 0.2)
    s = enumeration.supports(*shape)
    zero = torch.zeros((), dtype=torch.float64)
    log_density = torch.zeros(len(s), dtype=torch.float64)
    grids = torch.stack([to_grid(one, layout) for one in s])
    grids = grids.view(len(s), -1, *grids.shape[-2:])
    for one in grids.unbind(1):
        log_density = log_density + enumeration.log_grid(one, row, column, zero)
    expected = expected_frequencies(s.flatten(1), log_density)
    drawn = draws(Grid(row, column, layout=layout), shape)
    assert_mean(frequencies(drawn), expected)


def test_large_grids_are_drawn_by_gibbs_sampling():
    pair = (0.3, 0.3)
    like = torch.zeros(40, 30)
    drawn = torch.stack([Grid(pair, pair, gibbs_sweeps=20).sample("s", like) for _ in range(50)])
    assert drawn.shape == (50, 40, 30)
    # By symmetry, half of the nodes are ones; neighbours are alike.
    assert_mean(drawn.mean((1, 2)), 0.5)
    assert (drawn[:, 1:] == drawn[:, :-1]).float().mean() > 0.7


@pytest.mark.parametrize(
    "options",
    [
        {"row": (0.0, 0.5)},
        {"column": (0.5, 1.0)},
        {"layout": "brick"},
        {"sweeps": 0},
        {"sweeps": 1.5},
        {"gibbs_sweeps": 0},
        {"damping": 1.0},
        {"damping": -0.1},
    ],
)
def test_bad_grids_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Grid(**options)


@pytest.mark.parametrize("prior", [Chain, Tree])
def test_bad_transitions_are_refused(prior):
    with pytest.raises(ValueError, match="transition"):
        prior((0.1, 1.5))
    with pytest.raises(TypeError, match="pair"):
        prior(0.1)


# Trees


KERNELS = [(1, 1, 3, 3), (2, 1, 1, 4), (1, 2, 5), (1, 1, 2, 2, 2), (3, 2)]


@pytest.mark.parametrize("shape", KERNELS)
def test_kernels_are_trees_that_grow_from_the_centre(shape):
    parent = from_the_centre(torch.Size(shape)).tolist()
    elements = math.prod(shape[2:])
    kernel = [
        torch.tensor(place, dtype=torch.int64) for place in product(*[range(n) for n in shape[2:]])
    ]
    for node, above in enumerate(parent):
        here = kernel[node % elements]
        offset = here - torch.tensor([n // 2 for n in shape[2:]], dtype=torch.int64)
        if above < 0:
            assert not offset.any()
            continue
        assert above // elements == node // elements  # in the same kernel
        step = kernel[above % elements] - here
        assert int(step.abs().sum()) == 1  # a neighbour
        towards = (offset + step).abs().sum()
        assert towards < offset.abs().sum()


@pytest.mark.parametrize("shape", KERNELS)
def test_trees_are_exact(shape):
    u, pair = random_evidence(*shape), (0.1, 0.3)
    parent = from_the_centre(u.shape).tolist()
    s = enumeration.supports(u.numel())
    expected = enumeration.log_odds(s, enumeration.log_tree(s, parent, pair, u.flatten()))
    found = (u + Tree(pair).messages(u)).flatten()
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_parents_may_be_given():
    u = random_evidence(2, 3)
    found = Tree((0.1, 0.2), parents=lambda shape: torch.arange(-1, shape.numel() - 1)).messages(u)
    expected = Chain((0.1, 0.2)).messages(u.view(1, 6)).view(2, 3)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_draws_of_trees_have_their_law():
    shape, pair = (1, 1, 2, 3), (0.1, 0.3)
    parent = from_the_centre(torch.Size(shape)).tolist()
    s = enumeration.supports(6)
    log_density = enumeration.log_tree(s, parent, pair, torch.zeros(6, dtype=torch.float64))
    assert_mean(frequencies(draws(Tree(pair), shape)), expected_frequencies(s, log_density))
