"""Gibbs masks of two colours: the law, the sampler, and how far the sampler is from the law."""

import pytest
import torch
from torch import Tensor

from pyrosparse.distributions import BipartiteGibbsMask
from pyrosparse.distributions.bipartite_gibbs_mask import sweep
from tests.distributions.enumerated import (
    assert_law,
    bipartite,
    complete,
    log_weights,
    states,
)
from tests.monte_carlo import assert_mean


def fields(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("beta", [0.0, 0.2, 3.0])
@pytest.mark.parametrize("c", [0.05, 1.0])
@pytest.mark.parametrize("split", [0, 3, 5, 10])
@pytest.mark.parametrize("convention", ["paper", "reference-code"])
def test_the_law_is_the_enumerated_one(beta: float, c: float, split: int, convention: str) -> None:
    field = fields(10)
    law = BipartiteGibbsMask(field, beta, c, split=split, convention=convention)
    half = 0.5 if convention == "reference-code" else 1.0
    weights = log_weights(field, half * beta, bipartite(10, split, half * c))
    expected = weights.log_softmax(0)
    assert (law.log_prob(states(10)) - expected).abs().max() < 1e-12 * (1 + expected.abs().max())
    assert law.log_normalizer == pytest.approx(float(weights.logsumexp(0)), rel=1e-12)
    assert torch.allclose(law.mean, expected.exp() @ states(10), atol=1e-12)
    assert torch.allclose(-half * beta * law.energy(states(10)), weights, atol=1e-10)
    if beta:
        assert torch.equal(law.mode, states(10)[weights.argmax()])
    torch.manual_seed(0)
    assert_law(law.sample_exact((5_000,)), weights)


def test_batches_are_blocks_of_their_own() -> None:
    field = fields(24).view(4, 6)
    law = BipartiteGibbsMask(field, 1.0, 0.2, split=2)
    one = BipartiteGibbsMask(field[3], 1.0, 0.2, split=2)
    for name in ("mean", "mode", "log_normalizer"):
        assert torch.allclose(getattr(law, name)[3], getattr(one, name))
    for sample in (law.sample, law.sample_exact):
        assert sample().shape == (4, 6) and sample((5, 2)).shape == (5, 2, 4, 6)
    assert law.expand((3, 4)).log_prob(law.sample((3,))).shape == (3, 4)


def kernels(law: BipartiteGibbsMask, n: int, split: int) -> tuple[Tensor, Tensor, Tensor]:
    """The stationary law, (A, B), and the half-steps P(a' | b), (A, B), and P(b' | a), (A, B)."""
    p = torch.sigmoid(law.conditional_logits(states(n)))
    s = states(n)
    # The first element is the lowest bit, so that the second colour is the slow index.
    sizes = (2 ** (n - split), 2**split)
    likely = torch.where(s == 1, p, 1 - p)
    first = likely[:, :split].prod(1).view(sizes).t()
    second = likely[:, split:].prod(1).view(sizes).t()
    return law.log_prob(s).exp().view(sizes).t(), first, second


def test_half_steps_are_in_detailed_balance_and_stationary() -> None:
    law = BipartiteGibbsMask(0.5 * fields(12), 0.7, 0.08, split=6)
    pi, first, second = kernels(law, 12, 6)
    assert (pi.sum(0) * first - pi).abs().max() < 1e-16  # sum_a pi(a, b) P(a' | b) = pi(a', b)
    assert (pi.sum(1, keepdim=True) * second - pi).abs().max() < 1e-16
    flow = torch.einsum("ab,cb->abc", pi, first)
    assert (flow - flow.transpose(0, 2)).abs().max() < 1e-16


def test_a_full_sweep_is_not_in_detailed_balance() -> None:
    law = BipartiteGibbsMask(0.5 * fields(8), 0.7, 0.08, split=4)
    pi, first, second = kernels(law, 8, 4)
    flow = torch.einsum("ab,cb,cd->abcd", pi, first, second)
    assert torch.allclose(flow.sum((0, 1)), pi, atol=1e-15)
    assert (flow - flow.permute(2, 3, 0, 1)).abs().max() > 1e-5


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("scale", [1.0, 300.0], ids=["odds", "log odds"])
def test_a_sweep_draws_from_its_half_steps(compiled: bool, scale: float) -> None:
    # One sweep from a given second colour: P(a' | b) P(b' | a'). An element of huge log odds takes
    # the block out of the range in which the compiled loop multiplies odds.
    torch.manual_seed(1)
    beta, c, n, split = 0.6, 0.1, 7, 3
    field = 0.8 * fields(n)
    field[5] *= scale
    law = BipartiteGibbsMask(field, beta, c, split=split, sweeps=1)
    _, first, second = kernels(law, n, split)
    second_sum = torch.tensor(-2.0, dtype=torch.float64)
    b = int((2 * states(n - split) - 1).sum(1).eq(second_sum).nonzero()[0])
    expected = (first[:, b].unsqueeze(1) * second).t().flatten().log()
    t, start = (-2 * beta * field).expand(20_000, n), second_sum.expand(20_000)
    if compiled:
        from pyrosparse.distributions.gibbs_ops import bipartite as op

        seeds = torch.randint(-(2**63), 2**63 - 1, (20_000,))
        draws = op(t, torch.tensor(2 * beta * c).double(), start, seeds, split, 1)
    else:
        draws = sweep(t, 2 * beta * c, start, split, 1)
    assert_law(draws, expected)


@pytest.mark.parametrize("start", ["magnitude", "random"])
def test_weakly_coupled_the_sampler_comes_to_the_law(start: str) -> None:
    torch.manual_seed(2)
    field = fields(8)
    law = BipartiteGibbsMask(field, 0.3, 0.1, split=4, sweeps=20, start=start)
    draws = law.sample((20_000,))
    assert_law(draws, log_weights(field, 0.3, bipartite(8, 4, 0.1)))
    assert_mean(draws, law.mean)


def test_at_the_end_of_the_papers_annealing_the_sampler_stays_where_it_starts() -> None:
    # Not convergence but metastability: beta = c = 1, three quarters of the filters to go. The
    # exact law keeps about half of them; what is drawn is what the sampler started from.
    torch.manual_seed(3)
    weight = 0.05 * torch.randn(64, 576) * (0.7 + 0.6 * torch.rand(64, 1))
    means = weight.square().mean(1)
    field = means.quantile(0.75) - weight.square()
    options = {"beta": 1.0, "coupling": 1.0, "sweeps": 50}
    chosen = (means > means.quantile(0.75)).float()
    from_magnitude = BipartiteGibbsMask(field, **options, start="magnitude").sample()
    assert torch.equal(from_magnitude, chosen.unsqueeze(1).expand_as(weight))
    from_random = BipartiteGibbsMask(field, **options, start="random").sample((20,))
    kept = from_random.mean(-1)
    assert ((kept == 0) | (kept == 1)).all()  # whole filters all the same
    assert 0.4 < kept.mean() < 0.6 and not torch.equal(from_random[0], from_magnitude)
    law = BipartiteGibbsMask(field[:8], 1.0, 1.0)
    exact = law.mean
    assert 0.3 < exact.mean() < 0.7  # eight filters
    assert (exact.std(1) < 1e-3).all()  # each of them whole
    assert (exact.mean(1) > 0.2).sum() > (chosen[:8]).sum()  # also such as magnitude removes


def test_removing_the_pairs_of_one_colour_mostly_halves_the_coupling() -> None:
    n, c, beta = 12, 0.02, 1.0
    field, factor = 0.3 * fields(n), (n - 1) / (n / 2)

    def away(law: BipartiteGibbsMask, c: float) -> float:
        exact = log_weights(field, beta, complete(n, c)).softmax(0) @ states(n)
        return float((law.mean - exact).abs().mean())

    removed = BipartiteGibbsMask(field, beta, c)
    assert away(removed, c / factor) < away(removed, c)
    assert away(BipartiteGibbsMask(field, beta, c * factor), c) < away(removed, c)


@pytest.mark.parametrize("beta", [0.0, 1e-3, 1.0, 1e6])
def test_float32_is_right_from_no_to_a_huge_inverse_temperature(beta: float) -> None:
    field = (0.02 * fields(200).view(20, 10)).float()
    single, double = (BipartiteGibbsMask(one, beta, 0.3) for one in (field, field.double()))
    masks = single.sample()
    assert masks.dtype == torch.float32
    for name in ("mean", "mode", "log_normalizer"):
        found, expected = getattr(single, name), getattr(double, name)
        assert found.dtype == torch.float32
        assert torch.allclose(found.double(), expected, rtol=2e-6, atol=1e-6)
    expected = double.log_prob(masks.double())
    assert torch.allclose(single.log_prob(masks).double(), expected, rtol=2e-6, atol=1e-6)
    for start in ("magnitude", "random"):
        drawn = BipartiteGibbsMask(field, beta, 0.3, start=start).sample()
        assert ((drawn == 0) | (drawn == 1)).all()


def test_one_seed_gives_the_same_masks() -> None:
    law = BipartiteGibbsMask(fields(90).view(9, 10), 0.3, 0.1)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(law.sample())
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": 5}, "split must be between"),
        ({"sweeps": 0}, "sweeps must be"),
        ({"start": "mode"}, "start"),
        ({"coupling": -1.0}, "coupling must be"),
    ],
)
def test_bad_arguments_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BipartiteGibbsMask(**({"field": torch.zeros(4), "beta": 1.0, "coupling": 1.0} | options))
