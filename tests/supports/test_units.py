"""The unit factor: against enumeration of weights and units."""

import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import softplus

from pyrosparse.supports.units import Ends, UnitFactor, Units, log_blend
from tests import enumeration

FACTOR = UnitFactor(active=0.3, inactive=0.02, cost={"a": 1.0, "*": -0.5})


def enumerated(
    units: Units, evidence: dict[str, Tensor], factor: UnitFactor, off: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Exact log-odds of the units, and the messages to the weights (their log-odds, less their own
    evidence), written from the definition."""
    states = enumeration.supports(sum(units.size.values())).bool()
    u = dict(zip(units.size, states.split(list(units.size.values()), 1), strict=True))
    total = torch.zeros(len(states), dtype=torch.float64)
    for group, on in u.items():
        total -= factor.cost_of(group) * on.sum(1)
        total[(on & off[group]).any(1) if group in off else torch.zeros(len(on)).bool()] = -math.inf
    active = {}
    for name, x in evidence.items():
        ends = units.ends[name]
        both = torch.ones(len(states), *x.shape[:2], dtype=torch.bool)
        if ends.outputs is not None:
            both &= u[ends.outputs][:, :, None]
        if ends.inputs is not None:
            group, place = ends.inputs
            both &= (u[group][:, place] | (place < 0))[:, None, :]
        prior = torch.tensor([factor.inactive, factor.active], dtype=torch.float64)[both.long()]
        prior = prior.view(*prior.shape, *[1] * (x.dim() - 2)).expand(-1, *x.shape)
        logits = prior.log() - torch.log1p(-prior) + x
        total += (torch.log1p(-prior) + softplus(logits)).flatten(1).sum(1)
        active[name] = logits.sigmoid()
    probability = total.softmax(0)
    beliefs = {group: (probability @ on.double()).logit() for group, on in u.items()}
    told = {
        name: torch.einsum("a,a...->...", probability, each).logit() - evidence[name]
        for name, each in active.items()
    }
    return beliefs, told


def check(
    units: Units, evidence: dict[str, Tensor], tolerance: float, off: dict | None = None, sweeps=40
) -> None:
    beliefs, told = units.messages(evidence, FACTOR, off=off, sweeps=sweeps)
    exact_beliefs, exact_told = enumerated(units, evidence, FACTOR, off or {})
    for group, expected in exact_beliefs.items():
        assert (beliefs[group].sigmoid() - expected.sigmoid()).abs().max() < tolerance
    for name, expected in exact_told.items():
        assert told[name].shape == evidence[name].shape
        found = (told[name] + evidence[name]).sigmoid()
        assert (found - (expected + evidence[name]).sigmoid()).abs().max() < tolerance


def random(*shape: int, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(shape, dtype=torch.float64)


def test_star_is_exact():
    """One layer of units, weights before or behind them: sheet, 13."""
    check(Units({"w": Ends(None, "a")}, {"a": 3}), {"w": random(3, 5)}, 1e-9)
    behind = Units({"w": Ends(("a", torch.arange(3)), None)}, {"a": 3})
    check(behind, {"w": random(5, 3)}, 1e-9)


def test_units_with_weights_before_and_behind_are_exact():
    units = Units({"v": Ends(None, "a"), "w": Ends(("a", torch.arange(4)), None)}, {"a": 4})
    check(units, {"v": random(4, 3), "w": random(2, 4)}, 1e-9)


def test_tree_is_exact():
    """Every two layers of units are joined through a single one."""
    ends = {
        "v": Ends(None, "a"),
        "w": Ends(("a", torch.arange(3)), "b"),
        "x": Ends(("b", torch.arange(1)), "c"),
        "y": Ends(("c", torch.arange(4)), None),
    }
    units = Units(ends, {"a": 3, "b": 1, "c": 4})
    evidence = {"v": random(3, 2), "w": random(1, 3), "x": random(4, 1), "y": random(2, 4)}
    check(units, evidence, 1e-9)


def test_loops_are_near_enumeration():
    units = Units({"w": Ends(("a", torch.arange(4)), "b")}, {"a": 4, "b": 5})
    for _ in range(5):
        check(units, {"w": random(5, 4)}, 1e-3)


def test_inputs_that_are_no_units():
    place = torch.tensor([0, -1, 1, 1, -1])
    units = Units({"v": Ends(None, "a"), "w": Ends(("a", place), "b")}, {"a": 2, "b": 1})
    check(units, {"v": random(2, 3), "w": random(1, 5)}, 1e-9)
    only = Units({"w": Ends(("a", torch.tensor([-1, -1, 0])), None)}, {"a": 1})
    found = only.messages({"w": random(2, 3)}, FACTOR)[1]["w"]
    # Without a unit at either end, a weight hears the share of active weights.
    expected = math.log(0.3) - math.log(0.7)
    torch.testing.assert_close(found[:, :2], torch.full((2, 2), expected).double())


def test_kernels_are_blocks():
    place = torch.tensor([0, 0, 1, 1])  # two features from each unit, as after flattening
    units = Units({"v": Ends(None, "a"), "w": Ends(("a", place), None)}, {"a": 2})
    check(units, {"v": random(2, 1, 2, 2), "w": random(3, 4)}, 1e-9)
    two = Units({"w": Ends(("a", torch.arange(2)), "b")}, {"a": 2, "b": 1})
    check(two, {"w": random(1, 2, 3)}, 1e-9)


def test_units_that_are_off_stay_off():
    ends = {"v": Ends(None, "a"), "w": Ends(("a", torch.arange(3)), "b")}
    units = Units(ends, {"a": 3, "b": 1})
    off = {"a": torch.tensor([False, True, False])}
    evidence = {"v": random(3, 2), "w": random(1, 3)}
    check(units, evidence, 1e-9, off)
    beliefs, told = units.messages(evidence, FACTOR, off=off)
    assert beliefs["a"][1] == -math.inf
    silent = math.log(0.02) - math.log(0.98)
    torch.testing.assert_close(told["v"][1], torch.full((2,), silent).double())
    torch.testing.assert_close(told["w"][:, 1], torch.full((1,), silent).double())


@given(st.integers(0, 6), st.integers(0, 2**31))
def test_no_more_units_go_than_may(removable, seed):
    generator = torch.Generator().manual_seed(seed)
    evidence = {"w": torch.randn(6, 3, generator=generator, dtype=torch.float64) - 1}
    units = Units({"w": Ends(None, "a")}, {"a": 6})
    factor = UnitFactor(cost=50.0)
    off = {"a": torch.rand(6, generator=generator) < 0.3}
    free = units.messages(evidence, factor, off=off)[0]["a"]
    assert not (free > 0).any()
    beliefs = units.messages(evidence, factor, off=off, removable={"a": removable})[0]["a"]
    left = int((~off["a"]).sum())
    if removable >= left:
        torch.testing.assert_close(beliefs, free)
    else:
        # The cost is lowered until the last that must stay has log-odds of 2.
        assert float(beliefs[~off["a"]].sort().values[removable]) == pytest.approx(2.0)
        assert int((beliefs > 0).sum()) >= left - removable
    # Those that stay are those for which most speaks.
    order = free.masked_fill(off["a"], -math.inf).argsort(descending=True)
    assert (beliefs[order].diff()[: left - 1] <= 0).all()


def test_factor_without_strength_says_nothing():
    units = Units({"w": Ends(("a", torch.arange(4)), "b")}, {"a": 4, "b": 5})
    nothing = UnitFactor(cost=40.0).tempered(0.0)
    x = random(5, 4, scale=10.0)
    assert nothing.evidence(x).abs().max() < 1e-4
    beliefs, told = units.messages({"w": x}, nothing)
    for belief in beliefs.values():
        assert belief.abs().max() < 1e-3
    prior = math.log(0.25) - math.log(0.75)
    assert (told["w"] - prior).abs().max() < 1e-4
    assert UnitFactor(cost={"a": 3.0}).tempered(1.0) == UnitFactor(cost={"a": 3.0})


@given(st.floats(-300, 300), st.floats(1e-6, 0.2), st.floats(0.25, 0.999))
def test_evidence_is_the_ratio_of_its_definition(x, inactive, active):
    factor = UnitFactor(active, inactive)
    x = torch.tensor(x, dtype=torch.float64)
    top = torch.logaddexp(torch.full_like(x, math.log1p(-active)), math.log(active) + x)
    bottom = torch.logaddexp(torch.full_like(x, math.log1p(-inactive)), math.log(inactive) + x)
    torch.testing.assert_close(factor.evidence(x), top - bottom, rtol=1e-9, atol=1e-9)


@given(st.floats(-800, 800), st.floats(-800, 800), st.sampled_from([torch.float64, torch.float32]))
def test_a_blend_is_its_definition_to_a_few_roundings(on, x, dtype):
    on, x = torch.tensor([on, x], dtype=dtype)
    with mpmath.workdps(800):
        share = 1 / (1 + mpmath.exp(-on.item()))
        exact = mpmath.log(1 - share + share * mpmath.exp(x.item()))
        error = abs(float(log_blend(on, x).item() - exact))
    assert error <= 4 * torch.finfo(dtype).eps * (1 + abs(x.item()))


def test_a_blend_of_what_is_certain_has_gradients():
    on = torch.tensor([-torch.inf, torch.inf, 0.3])
    x = torch.tensor([5.0, -5.0, 2.0], requires_grad=True)
    blend = log_blend(on, x)
    assert torch.equal(blend[:2], torch.tensor([0.0, -5.0]))
    (gradient,) = torch.autograd.grad(blend.sum(), x)
    assert torch.allclose(gradient, torch.sigmoid(on + x.detach()))


def test_float32_is_finite_and_right_with_hundreds_of_weights_a_unit():
    units = Units(
        {"v": Ends(None, "a"), "w": Ends(("a", torch.arange(6)), "b")}, {"a": 6, "b": 300}
    )
    signs = torch.randint(0, 2, (300, 6)) * 2.0 - 1
    evidence = {"v": 30 * (torch.randint(0, 2, (6, 400)) * 2.0 - 1), "w": 30 * signs}
    evidence["v"][0] = evidence["w"][:, 0] = -30.0
    single = units.messages(evidence, FACTOR)
    double = units.messages({key: x.double() for key, x in evidence.items()}, FACTOR)
    for found, truth in zip(single, double, strict=True):
        for key, expected in truth.items():
            assert found[key].isfinite().all()
            torch.testing.assert_close(found[key].double(), expected, rtol=1e-4, atol=1e-3)
    assert single[0]["a"][0] < 0 < single[0]["a"][1:].min()


@pytest.mark.parametrize(
    "options",
    [
        {"active": 1.0},
        {"inactive": 0.0},
        {"active": 0.1, "inactive": 0.1},
        {"cost": math.inf},
        {"cost": {"a": math.nan}},
    ],
)
def test_bad_factors_are_refused(options):
    with pytest.raises(ValueError, match=r"active|cost"):
        UnitFactor(**options)


def test_costs_by_glob():
    factor = UnitFactor(cost={"conv*": 3.0, "*": 1.0})
    assert (factor.cost_of("conv2"), factor.cost_of("fc")) == (3.0, 1.0)
    assert UnitFactor(cost={"conv*": 3.0}).cost_of("fc") == 0.0
