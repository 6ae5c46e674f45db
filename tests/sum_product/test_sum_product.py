"""Sum-product on chains and grids: against enumeration, and the compiled one against torch."""

import math
import subprocess
import sys
import warnings

import numba
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyrosparse.sum_product import (
    LoopyRegimeWarning,
    kernels,
    scan,
    sum_product,
    sum_product_messages,
)
from pyrosparse.sum_product.transition import Transition
from tests import enumeration

PROBABILITIES = st.floats(0.01, 0.99)
PAIRS = st.tuples(PROBABILITIES, PROBABILITIES)
SEEDS = st.integers(0, 2**20)


BOUND = math.log(4)
"""Of the coupling ln(p00 p11 / p01 p10) on both axes, for convergence without damping."""


def coupled(most):
    """Pairs whose coupling is at most so strong, of either sign."""

    def pair(p01, coupling):
        return p01, 1 / (1 + math.exp(coupling) * p01 / (1 - p01))

    return st.builds(pair, st.floats(0.05, 0.95), st.floats(-most, most))


CONVERGENT = coupled(0.99 * BOUND)
# (p01, p10) of the demo of the paper's authors.
DEMO = [(0.288, 0.51), (0.325, 0.542), (0.283, 0.515), (0.282, 0.52)]


def field(*shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def truth(u, row, column):
    s = enumeration.supports(*u.shape)
    return enumeration.log_odds(s, enumeration.log_grid(s, row, column, u))


@given(PAIRS, SEEDS)
def test_rows_are_exact(pair, seed):
    u = field(2, 5, seed=seed, scale=3)
    expected = truth(u, pair, None)
    torch.testing.assert_close(u + sum_product(u, pair), expected, rtol=1e-12, atol=1e-12)


@given(PAIRS, SEEDS)
def test_columns_are_exact(pair, seed):
    u = field(5, 2, seed=seed, scale=3)
    expected = truth(u, None, pair)
    torch.testing.assert_close(u + sum_product(u, None, pair), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pair", DEMO)
@pytest.mark.parametrize("shape", [(3, 4), (4, 4)])
def test_grids_of_the_demo_are_near_enumeration(pair, shape):
    for seed in range(4):
        u = field(*shape, seed=seed)
        belief = (u + sum_product(u, pair, pair)).sigmoid()
        assert (belief - truth(u, pair, pair).sigmoid()).abs().max() < 0.005


@given(coupled(BOUND / 2), coupled(BOUND / 2), SEEDS)
def test_grids_half_way_to_the_bound_are_near_enumeration(row, column, seed):
    u = field(3, 4, seed=seed)
    belief = (u + sum_product(u, row, column, sweeps=20)).sigmoid()
    assert (belief - truth(u, row, column).sigmoid()).abs().max() < 0.005


@given(CONVERGENT, CONVERGENT, SEEDS)
def test_sweeps_converge_within_the_bound(row, column, seed):
    u = field(6, 7, seed=seed, scale=3)
    found = sum_product_messages(u, row, column, sweeps=400, tolerance=1e-10)
    assert found.residual <= 1e-10
    again = sum_product_messages(u, row, column, sweeps=1, start=found.column)
    torch.testing.assert_close(again.log_odds, found.log_odds, rtol=0, atol=1e-8)


@given(st.floats(0.02, 0.98), SEEDS)
def test_without_coupling_messages_are_constants(p01, seed):
    u = field(4, 5, seed=seed, scale=5)
    odds = math.log(p01) - math.log1p(-p01)
    expected = torch.full_like(u, odds)
    pair = (p01, 1 - p01)
    torch.testing.assert_close(sum_product(u, pair), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sum_product(u, pair, pair), 2 * expected, rtol=1e-12, atol=1e-12)


@given(PAIRS, SEEDS, st.integers(0, 4), st.floats(-30, 30))
def test_a_node_does_not_hear_itself(pair, seed, node, other):
    u = field(1, 5, seed=seed)
    changed = u.clone()
    changed[0, node] = other
    before, after = sum_product(u, pair), sum_product(changed, pair)
    assert before[0, node] == after[0, node]


SHAPES = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 140), st.integers(1, 140)),
    st.tuples(st.integers(1, 4), st.integers(1, 30), st.integers(1, 5), st.integers(1, 5)),
)


@given(SHAPES, PAIRS, st.sampled_from([-1, -2]), st.booleans(), st.booleans(), SEEDS)
def test_compiled_is_the_loop_in_torch(shape, pair, dim, hears, adds, seed):
    u = field(*shape, seed=seed, scale=20)
    flat = u.view(-1)
    flat[seed % len(flat)], flat[-1 - seed // 2 % len(flat)] = math.inf, -math.inf
    heard = field(*shape, seed=seed + 1) if hears else None
    chain = Transition(*pair)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 2e-6)):
        # Rounded first: that the log-odds are inexact in float32 is not the messages' error.
        node = u.to(dtype)
        other = None if heard is None else heard.to(dtype)
        actual = torch.empty(shape, dtype=dtype)
        kernels.chain_messages(node, other, chain, dim, actual, add_heard=adds)
        expected = torch.empty(shape, dtype=torch.float64)
        total = (node if other is None else node + other).double()
        scan.chain_messages(total, None, chain, dim, expected)
        if adds and other is not None:
            expected += other
        torch.testing.assert_close(
            actual.double(), expected, rtol=tolerance, atol=tolerance, check_dtype=False
        )


@pytest.mark.parametrize("dim", [-1, -2])
def test_an_observed_node_and_rare_changes_in_float32(dim):
    u = torch.zeros(300, 300)
    u[7, 9], u[150, 150], u[200, 40] = math.inf, -math.inf, 30.0
    chain = Transition(1e-6, 1e-6)
    actual, expected = torch.empty_like(u), torch.empty(300, 300, dtype=torch.float64)
    kernels.chain_messages(u, None, chain, dim, actual)
    scan.chain_messages(u.double(), None, chain, dim, expected)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-4)


def test_threads_share_the_work(monkeypatch):
    u = field(70, 200).float()
    alone = sum_product(u, (0.3, 0.4), (0.35, 0.4))
    monkeypatch.setattr(kernels, "NODES_OF_A_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(sum_product(u, (0.3, 0.4), (0.35, 0.4)), alone)


def test_where_no_folder_can_be_written_to_nothing_is_kept(monkeypatch):
    compile_in_memory = numba.njit

    def on_a_read_only_disk(*, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compile_in_memory(**options)

    monkeypatch.setattr(numba, "njit", on_a_read_only_disk)
    assert kernels.kept_on_disk(lambda x: abs(x))(-2.0) == 2.0


def test_the_compiler_is_imported_only_where_it_is_needed():
    program = "import sys, pyrosparse.infer; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


@given(CONVERGENT, CONVERGENT, SEEDS)
def test_a_transposed_grid_has_transposed_messages(row, column, seed):
    u = field(5, 6, seed=seed)
    straight = sum_product(u, row, column, sweeps=300)
    swapped = sum_product(u.t(), column, row, sweeps=300)
    torch.testing.assert_close(straight, swapped.t(), rtol=0, atol=1e-7)


@given(PAIRS, SEEDS)
def test_a_flipped_chain_has_flipped_messages(pair, seed):
    # A chain in its steady state is reversible.
    u = field(3, 7, seed=seed)
    torch.testing.assert_close(sum_product(u.flip(-1), pair), sum_product(u, pair).flip(-1))
    both = sum_product(-u, (pair[1], pair[0]))
    torch.testing.assert_close(both, -sum_product(u, pair), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(70, 3, 3), (2, 3, 5, 4)])
def test_a_batch_is_its_grids(shape):
    u = field(*shape)
    batched = sum_product(u, (0.3, 0.4), (0.4, 0.35)).view(-1, *shape[-2:])
    for grid, expected in zip(u.view(-1, *shape[-2:]), batched, strict=True):
        assert torch.equal(sum_product(grid, (0.3, 0.4), (0.4, 0.35)), expected)


@pytest.mark.parametrize("damping", [0.1, 0.5, 0.8])
def test_damping_reaches_the_same_fixed_point(damping):
    u = field(6, 5, scale=2)
    plain = sum_product(u, (0.3, 0.5), (0.4, 0.4), sweeps=200)
    damped = sum_product(u, (0.3, 0.5), (0.4, 0.4), sweeps=400, damping=damping)
    torch.testing.assert_close(damped, plain, rtol=1e-10, atol=1e-10)
    once = sum_product(u, (0.3, 0.5), (0.4, 0.4), sweeps=1, damping=damping)
    assert not torch.allclose(once, sum_product(u, (0.3, 0.5), (0.4, 0.4), sweeps=1))


def test_the_account_is_of_the_sweeps_made():
    u = field(6, 5)
    pairs = (0.3, 0.5), (0.4, 0.4)
    found = sum_product_messages(u, *pairs, sweeps=100, tolerance=1e-6)
    assert 1 < found.sweeps < 100
    assert found.residual <= 1e-6
    assert torch.equal(found.log_odds, sum_product(u, *pairs, sweeps=100, tolerance=1e-6))
    # The residual is of the last sweep: the one before changed more than the tolerance.
    before = sum_product_messages(u, *pairs, sweeps=found.sweeps - 1)
    assert before.residual > 1e-6
    torch.testing.assert_close(found.log_odds, sum_product(u, *pairs, sweeps=found.sweeps))
    resumed = sum_product_messages(u, *pairs, sweeps=100, tolerance=1e-6, start=found.column)
    # One sweep finds the messages along rows, another finds that nothing changes.
    assert resumed.sweeps == 2
    begun = sum_product(u, *pairs, sweeps=1, start=before.column)
    torch.testing.assert_close(begun, found.log_odds)


def test_one_axis_needs_one_pass():
    u = field(3, 4)
    found = sum_product_messages(u, None, (0.1, 0.2), sweeps=9)
    assert (found.residual, found.sweeps, found.column) == (0.0, 1, None)
    assert torch.equal(found.log_odds, sum_product(u, None, (0.1, 0.2), sweeps=1))


@pytest.mark.parametrize("damping", [0.0, 0.2])
def test_out_is_written_and_the_input_is_not(damping):
    u = field(4, 6).requires_grad_()
    kept = u.detach().clone()
    expected = sum_product(u, (0.3, 0.5), (0.4, 0.4), damping=damping)
    assert not expected.requires_grad
    for out in (torch.empty(4, 6).double(), torch.empty(6, 4).double().t()):
        assert sum_product(u, (0.3, 0.5), (0.4, 0.4), damping=damping, out=out) is out
        assert torch.equal(out, expected)
    assert torch.equal(u, kept)
    strided = kept.repeat_interleave(2, 1)[:, ::2]
    assert torch.equal(sum_product(strided, (0.3, 0.5), (0.4, 0.4), damping=damping), expected)


@pytest.mark.parametrize("row", [(0.1, 0.1), (0.9, 0.9)])
def test_strong_coupling_of_both_axes_warns(row):
    u = field(3, 3)
    with pytest.warns(LoopyRegimeWarning, match="need not converge") as caught:
        sum_product(u, row, (0.4, 0.4))
    assert caught[0].filename == __file__
    with pytest.warns(LoopyRegimeWarning) as caught:
        sum_product_messages(u, (0.4, 0.4), row)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sum_product(u, row)
        sum_product(u, None, row)
        sum_product(u, row, (0.3, 0.7))


U = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("error", "match", "arguments", "options"),
    [
        (ValueError, "shape", (U[0], (0.1, 0.1)), {}),
        (ValueError, "empty", (U[:0], (0.1, 0.1)), {}),
        (TypeError, "float32 or float64", (U.half(), (0.1, 0.1)), {}),
        (TypeError, "float32 or float64", (U.long(), (0.1, 0.1)), {}),
        (ValueError, "log_odds holds NaN", (U / 0, (0.1, 0.1)), {}),
        (ValueError, "both None", (U, None, None), {}),
        (ValueError, "p01", (U, (0.0, 0.1)), {}),
        (ValueError, "p10", (U, None, (0.1, 1.0)), {}),
        (ValueError, "p10", (U, (0.1, math.nan)), {}),
        (TypeError, r"row must be a pair", (U, 0.3), {}),
        (TypeError, r"column must be a pair", (U, None, (0.3, 0.1, 0.2)), {}),
        (ValueError, "damping", (U, (0.1, 0.1)), {"damping": 1.0}),
        (ValueError, "damping", (U, (0.1, 0.1)), {"damping": -0.1}),
        (ValueError, "sweeps", (U, (0.1, 0.1)), {"sweeps": 0}),
        (ValueError, "tolerance", (U, (0.1, 0.1)), {"tolerance": -1.0}),
        (ValueError, "start must be like", (U, (0.1, 0.1)), {"start": U[:1]}),
        (ValueError, "start holds NaN", (U, (0.1, 0.1)), {"start": U / 0}),
        (ValueError, "out must be like", (U, (0.1, 0.1)), {"out": U.double()}),
        (ValueError, "share memory", (U, (0.1, 0.1)), {"out": U}),
    ],
)
def test_bad_arguments_are_refused(error, match, arguments, options):
    with pytest.raises(error, match=match):
        sum_product(*arguments, **options)
