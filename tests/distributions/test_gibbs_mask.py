"""Gibbs masks of independent elements and complete graphs, against enumeration."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyrosparse.distributions import GibbsMask, complete_graph
from tests.distributions.enumerated import assert_law, complete, log_weights, states
from tests.monte_carlo import assert_mean

BETAS = (0.0, 0.3, 2.0, 40.0)


def fields(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("convention", ["paper", "reference-code"])
def test_independent_elements_are_the_enumerated_law(beta: float, convention: str) -> None:
    field = fields(12)
    law = GibbsMask(field, beta, convention=convention)
    effective = beta / 2 if convention == "reference-code" else beta
    expected = log_weights(field, effective, complete(12, 0.0))
    found = law.log_prob(states(12)).exp()
    assert 0.5 * (found - expected.softmax(0)).abs().sum() < 1e-15 * 2**4
    assert law.log_normalizer == pytest.approx(float(expected.logsumexp(0)), rel=1e-14)
    marginal = torch.sigmoid(-2 * effective * field)
    assert torch.allclose(law.mean, marginal, rtol=0, atol=1e-15)
    assert torch.allclose(expected.softmax(0) @ states(12), marginal, atol=1e-13)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("c", [0.01, 0.3, 2.0])
@pytest.mark.parametrize("convention", ["paper", "reference-code"])
def test_a_complete_graph_is_the_enumerated_law(beta: float, c: float, convention: str) -> None:
    field = fields(9)
    law = GibbsMask(field, beta, c, convention=convention)
    weights = log_weights(field, beta, complete(9, c))
    assert abs(law.log_normalizer - weights.logsumexp(0)) < 2e-12 * (1 + weights.max().abs())
    expected = weights.log_softmax(0)
    scale = 1 + expected.abs().max()
    assert (law.log_prob(states(9)) - expected).abs().max() < 1e-13 * scale
    assert torch.allclose(law.mean, weights.softmax(0) @ states(9), atol=1e-12)
    assert torch.allclose(-beta * law.energy(states(9)), weights, atol=1e-11 * scale)
    if beta:
        assert torch.equal(law.mode, states(9)[weights.argmax()])


def test_the_law_is_a_probability_for_batches_in_any_shape() -> None:
    field = fields(30).view(2, 3, 5)
    for coupling in (0.0, 0.2, torch.tensor(0.2)):
        law = GibbsMask(field, 1.5, coupling)
        assert law.batch_shape == (2, 3) and law.event_shape == (5,)
        every = states(5).view(32, 1, 1, 5).expand(32, 2, 3, 5)
        assert torch.allclose(law.log_prob(every).exp().sum(0), torch.ones(2, 3).double())
        one = GibbsMask(field[1, 2], 1.5, coupling)
        assert torch.allclose(law.mean[1, 2], one.mean)
        assert torch.equal(law.mode[1, 2], one.mode)
        assert law.sample((4,)).shape == (4, 2, 3, 5)
        assert law.expand((7, 2, 3)).log_normalizer.shape == (7, 2, 3)


@pytest.mark.parametrize("coupling", [0.0, 0.05, 0.6])
@pytest.mark.parametrize("by_tables", [False, True])
def test_samples_are_at_the_multinomial_sampling_floor(coupling: float, by_tables: bool) -> None:
    torch.manual_seed(0)
    field = fields(9)
    law = GibbsMask(field, 0.4, coupling)
    if by_tables:
        t = (-2 * 0.4 * field).expand(9)
        uniforms = torch.rand(10, 20_000, dtype=torch.float64)
        draws = complete_graph.sample_by_tables(t, 0.4 * coupling, uniforms).t()
    else:
        draws = law.sample((20_000,))
    assert_law(draws, log_weights(field, 0.4, complete(9, coupling)))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 12),
    st.floats(-3, 6).map(lambda x: 10.0**x),
    st.sampled_from([0.0, 1e-3, 0.1, 3.0, 500.0]),
    st.integers(0, 2**31),
)
def test_compiled_and_tabled_samples_are_the_same(
    n: int, scale: float, c: float, seed: int
) -> None:
    torch.manual_seed(seed)
    t = scale * torch.randn(n, 20, dtype=torch.float64)
    torch.manual_seed(seed)
    compiled = complete_graph.sample(t, c, torch.Size())
    torch.manual_seed(seed)
    uniforms = torch.rand(20, n + 1, dtype=torch.float64).movedim(-1, 0)
    assert torch.equal(compiled, complete_graph.sample_by_tables(t, c, uniforms))


@pytest.mark.parametrize("coupling", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("beta", [0.0, 1e-3, 1.0, 1e3, 1e6])
def test_float32_is_right_from_no_to_a_huge_inverse_temperature(
    beta: float, coupling: float
) -> None:
    field = (0.02 * fields(9 * 50).view(50, 9)).float()
    single, double = (GibbsMask(one, beta, coupling) for one in (field, field.double()))
    masks = torch.cat([single.sample((3,)), single.mode.unsqueeze(0)])
    for value in (single.log_prob(masks), single.log_normalizer, single.mean):
        assert value.dtype == torch.float32 and value.isfinite().all()
    pairs = (
        (single.log_prob(masks), double.log_prob(masks.double())),
        (single.log_normalizer, double.log_normalizer),
    )
    for found, expected in pairs:
        assert torch.allclose(found.double(), expected, rtol=2e-6, atol=2e-6)
    # The log odds are rounded to float32: half a unit in the last place of up to 2 beta b.
    rounding = 1e-6 + 2 * beta * float(field.abs().max()) * 1e-7 * (coupling == 0)
    assert (single.mean.double() - double.mean).abs().max() <= rounding
    assert torch.equal(single.mode.double(), double.mode)


def test_at_infinite_temperature_every_mask_is_as_probable_and_at_none_only_the_mode() -> None:
    field = fields(60).view(12, 5)
    for coupling in (0.0, 0.3):
        hot, cold = GibbsMask(field, 0.0, coupling), GibbsMask(field, 1e6, coupling)
        assert torch.allclose(hot.mean, torch.full_like(field, 0.5))
        assert torch.equal(cold.sample(), cold.mode)
        assert torch.allclose(cold.mean, cold.mode, atol=1e-12)
    independent = GibbsMask(field, 1e6)
    assert torch.equal(independent.mode, (field < 0).double())


def test_a_weight_exactly_at_the_quantile_stays_undecided() -> None:
    field = torch.tensor([-0.5, 0.0, 0.5])
    for beta in (0.0, 1.0, 1e6):
        assert GibbsMask(field, beta).mean[1] == 0.5


def test_the_scale_law() -> None:
    # w -> s w, beta -> beta / s^2, c -> s^2 c leaves the law unchanged.
    weight, s = fields(8), 3.7
    level = weight.square().quantile(0.6)
    law = GibbsMask(level - weight**2, 2.0, 0.1)
    scaled = GibbsMask(s**2 * (level - weight**2), 2.0 / s**2, 0.1 * s**2)
    assert torch.allclose(law.log_prob(states(8)), scaled.log_prob(states(8)), atol=1e-12)


def test_one_seed_gives_the_same_masks_and_another_gives_others() -> None:
    for coupling in (0.0, 0.01):
        law = GibbsMask(fields(90).view(10, 9), 1.0, coupling)
        drawn = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            drawn.append(law.sample())
        assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1.0}, "beta must be at least 0"),
        ({"coupling": float("nan")}, "coupling must be at least 0"),
        ({"beta": torch.ones(3)}, "one number"),
        ({"convention": "code"}, "convention"),
        ({"field": torch.zeros(3, dtype=torch.int64)}, "must be floating"),
        ({"field": torch.zeros(2, 0)}, "n of 1 or more"),
    ],
)
def test_bad_arguments_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GibbsMask(**({"field": torch.zeros(3), "beta": 1.0} | options))


def test_values_outside_the_support_are_refused() -> None:
    law = GibbsMask(torch.zeros(3), 1.0, validate_args=True)
    with pytest.raises(ValueError, match="support"):
        law.log_prob(torch.tensor([0.5, 1.0, 0.0]))


def test_the_memory_layout_changes_nothing_in_the_law() -> None:
    field = fields(2 * 3 * 4 * 5).view(2, 3, 4, 5)
    laws = [GibbsMask(one, 0.7) for one in (field, field.to(memory_format=torch.channels_last))]
    torch.manual_seed(0)
    for law in laws:
        assert law.sample().shape == field.shape and law.sample((6,)).shape == (6, *field.shape)
        draws = torch.stack([law.sample() for _ in range(2000)])
        assert_mean(draws, torch.sigmoid(-1.4 * field))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("coupling", [0.0, 0.01])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, coupling: float) -> None:
    field = torch.tensor([3.0, -0.25, 0.5, 2.5], dtype=dtype)
    half = GibbsMask(field, torch.tensor(1.0), coupling)
    full = GibbsMask(field.float(), 1.0, coupling)
    masks = full.sample((9,))
    assert torch.equal(half.log_prob(masks.to(dtype)), full.log_prob(masks).to(dtype))
    for name in ("mean", "log_normalizer", "mode"):
        assert torch.equal(getattr(half, name), getattr(full, name).to(dtype))
    # Uniform numbers of bfloat16 would draw probabilities below 1 / 256 too often.
    drawn = half.sample((100_000,))
    assert drawn.dtype == dtype
    found, p = drawn.float().mean(0), full.mean
    assert ((found - p).abs() < 5 * (p * (1 - p) / 100_000).sqrt()).all()
