"""Gibbs pruning: the suite of every method, its gradients, and the law of its masks."""

from typing import Any, ClassVar

import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.nn import functional

import pyrosparse as ps
from pyrosparse.lifting.method import Posterior
from pyrosparse.methods import GibbsPruning
from tests.distributions.enumerated import assert_law, complete, log_weights, states
from tests.method_case import MethodCase, assert_same_draws, some_features
from tests.monte_carlo import assert_mean
from tests.nets import batch


class GibbsCase(MethodCase):
    options: ClassVar[dict[str, Any]] = {}
    recovery: ClassVar[dict[str, Any]] = {"sparsity": 5 / 8, "beta": 3.0}
    recovery_threshold = 0.0

    def make(self, **options: Any) -> ps.Method:
        return GibbsPruning(**({"sparsity": 0.25, "beta": 2.0} | self.options | options))


class TestWeights(GibbsCase):
    bad: ClassVar[list[dict[str, Any]]] = [
        {"sparsity": 1.0},
        {"sparsity": -0.1},
        {"structure": "row"},
        {"structure": "2:4"},
        {"structure": "1:4", "sparsity": 0.75, "coupling": 0.1},
        {"coupling": 0.5},
        {"convention": "code"},
        {"beta": -1.0},
        {"sweeps": 0},
        {"start": "mode"},
        {"final": "best"},
        {"scale": 0.0},
    ]


class TestFilters(GibbsCase):
    options: ClassVar[dict[str, Any]] = {"structure": "filter", "coupling": 0.1, "sweeps": 5}
    bad: ClassVar[list[dict[str, Any]]] = [{"coupling": -1.0}]

    def test_score_grows_with_the_size_of_the_location(self) -> None:
        # Of a block: the mean square, and that alone.
        for entry in self.moved("cnn").guide.entries:
            if entry.target.shape[0] == 1:
                continue
            q = entry.posterior()
            blocks = entry.method.blocks(torch.arange(q["loc"].numel()).view(q["loc"].shape))
            squares = q["loc"].detach().flatten()[blocks].square().mean(1)
            scores = entry.method.score(entry.target, q).flatten()[blocks]
            assert torch.allclose(scores, scores[:, :1].expand_as(scores))
            assert (scores[squares.argsort(), 0].diff() > 0).all()

    def regression_net(self) -> nn.Module:
        # One output, whose filters are its inputs.
        class Columns(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.ones(8, 1))

            def forward(self, x: Tensor) -> Tensor:
                return x @ self.weight

        return Columns()

    def targets(self, net: nn.Module) -> list[ps.Target]:
        names = [name for name, _ in net.named_parameters()]
        return ps.weights(net, "weight") if names == ["weight"] else self.make().targets(net)


class TestOneOfTwo(GibbsCase):
    options: ClassVar[dict[str, Any]] = {"structure": "1:2", "sparsity": 0.5}
    recovery: ClassVar[dict[str, Any]] = {"structure": "3:8", "sparsity": 5 / 8, "beta": 3.0}
    bad: ClassVar[list[dict[str, Any]]] = [
        {"sparsity": 0.4},
        {"structure": "2:2"},
        {"coupling": 0.1},
    ]

    @pytest.fixture(params=["mlp", "cnn", "depthwise"])
    def name(self, request: pytest.FixtureRequest) -> str:
        return request.param

    def lifted(self, name: str = "mlp") -> ps.Lifted:
        if name == "residual":
            pytest.skip("its layers have three inputs, which make no pairs")
        return super().lifted(name)

    def test_score_grows_with_the_size_of_the_location(self) -> None:
        for entry in self.moved().guide.entries:
            q = entry.posterior()
            pairs = entry.method.blocks(q["loc"].detach().abs())
            scores = entry.method.blocks(entry.method.score(entry.target, q))
            assert ((scores[:, 0] > scores[:, 1]) == (pairs[:, 0] > pairs[:, 1])).all()

    def test_compact_posterior_is_the_frozen_one_on_what_is_left(self, name: str) -> None:
        bnn = self.moved(name)
        with pytest.raises(ValueError, match="divided into groups of 2"):
            ps.compact(bnn, some_features(bnn), batch(name)[0], at_least=1)

    def test_compact_posterior_has_the_moments_of_the_frozen_one(self) -> None:
        bnn = self.moved().double().eval()
        x = batch("mlp")[0].double()
        masks = {"0.weight": torch.arange(4).ge(2).expand(5, 4)}  # a pair of the inputs goes
        small = ps.compact(bnn, masks, x)
        assert small.targets[0].shape == (5, 2)
        bnn.freeze(masks)
        assert_same_draws(bnn, small, x)


def by_columns(weight: Tensor) -> Tensor:
    return weight.flatten(1).t()


def resnet() -> nn.Module:
    return ps.networks.resnet20(shortcut="projection")


def posterior(
    method: GibbsPruning, weight: Tensor, training: bool = True
) -> tuple[ps.Target, Posterior]:
    target = ps.Target("w", "weight", tuple(weight.shape), weight)
    q = Posterior(method.init(target))
    q.training = training
    return target, q


def drawn(method: GibbsPruning, weight: Tensor, count: int) -> Tensor:
    """Masks of training steps, (count, *weight.shape)."""
    target, q = posterior(method, weight)
    condition = poutine.condition(lambda: method.prior(target, q, None), data={"w": weight})
    return torch.stack([condition() for _ in range(count)]) / weight


# The law of the masks.


@pytest.mark.parametrize("convention", ["paper", "reference-code"])
def test_single_weights_have_the_papers_law(convention: str) -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 3, dtype=torch.float64)
    method = GibbsPruning(0.6, beta=0.8, convention=convention)
    squares = weight.square().flatten()
    beta = 0.8 if convention == "paper" else 0.4
    field = squares.quantile(0.6) - squares
    draws = drawn(method, weight, 3000).flatten(1)
    assert_mean(draws, torch.sigmoid(-2 * beta * field))


def test_kernels_have_the_papers_law() -> None:
    torch.manual_seed(1)
    weight = torch.randn(2, 3, 3, 1, dtype=torch.float64)
    method = GibbsPruning(0.5, structure="kernel", coupling=0.2, beta=0.6)
    means = weight.square().mean((2, 3)).flatten()
    draws = drawn(method, weight, 4000)
    for out, into in ((0, 1), (1, 2)):
        field = means.quantile(0.5) - weight[out, into].square().flatten()
        law = log_weights(field, 0.6, complete(3, 0.2))
        assert_law(draws[:, out, into].flatten(1).round(), law)


@pytest.mark.parametrize("convention", ["paper", "reference-code"])
def test_two_of_four_have_the_law_of_single_weights_given_how_many_stay(convention: str) -> None:
    torch.manual_seed(1)
    weight = torch.randn(3, 8, 2, dtype=torch.float64)
    method = GibbsPruning(0.5, "2:4", beta=0.9, convention=convention)
    draws = drawn(method, weight, 4000).round()
    states_of_four = states(4)
    for out, start, place in ((0, 0, 1), (2, 4, 0)):
        squares = weight[out, start : start + 4, place].square()
        beta = 0.9 if convention == "paper" else 0.45
        law = log_weights(squares.mean() - squares, beta, complete(4, 0.0))
        law = law.masked_fill(states_of_four.sum(1) != 2, -torch.inf)
        assert_law(draws[:, out, start : start + 4, place], law)


@pytest.mark.parametrize("final", ["draw", "mode", "magnitude"])
def test_two_of_four_stay_exactly_in_every_mask(final: str) -> None:
    torch.manual_seed(2)
    for weight in (torch.randn(5, 8, 3, 3), torch.zeros(5, 8, 3, 3), 1e3 * torch.randn(5, 8, 3, 3)):
        for beta in (0.0, 1.0, 1e6):
            method = GibbsPruning(0.5, "2:4", beta=beta, final=final)
            target, q = posterior(method, weight)
            every = (
                method.step_mask(weight, q) != 0,
                method.final_mask(target, q),
                method.magnitude_mask(weight),
                method.score(target, q) >= 0,
            )
            for mask in every:
                assert (mask.view(5, 2, 4, 3, 3).sum(2) == 2).all()
    assert torch.equal(every[0], every[2])  # annealed


def test_annealed_masks_of_two_in_four_are_left_in_the_network() -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 3))
    x, y = torch.randn(24, 8), torch.randint(3, (24,))
    bnn = ps.lift(net, GibbsPruning(0.5, "2:4"))
    annealing = ps.prune.Annealing(ps.infer.schedules.logarithmic(0.7, 1e4, 0.6), per="step")
    run = ps.fit(
        ps.classifier(bnn, 24),
        bnn.guide,
        (x, y),
        epochs=3,
        batch_size=8,
        callbacks=[annealing],
        progress=False,
    )
    assert run.svi.fallback is None and len(run.svi.captured) == 1
    for layer in (net[0], net[2]):
        assert ((layer.weight != 0).view(layer.out_features, -1, 4).sum(2) == 2).all()
    assert torch.equal(bnn.mean_forward(x), net(x))


def test_targets_of_n_of_m_have_their_inputs_in_groups() -> None:
    names = [target.name for target in GibbsPruning(0.5, "2:4").targets(resnet())]
    assert len(names) == 20 and "conv1.weight" not in names
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Conv2d(6, 8, 3), nn.Flatten(), nn.Linear(8, 3))
    assert [target.name for target in GibbsPruning(0.5, "2:4").targets(net)] == ["3.weight"]
    with pytest.raises(
        ValueError, match="no weight of the network has a number of inputs that is a multiple of 4"
    ):
        GibbsPruning(0.5, "2:4").targets(nn.Linear(6, 3))
    with pytest.raises(ValueError, match="6 inputs, which cannot be divided into groups of 4"):
        odd = nn.Linear(6, 3)
        ps.lift(odd, GibbsPruning(0.5, "2:4"), ps.weights(odd, "weight"))


def test_channels_are_the_inputs_and_coloured_by_halves_of_the_outputs() -> None:
    torch.manual_seed(4)
    weight = torch.randn(6, 5, 3, 3)
    method = GibbsPruning(0.5, "channel", coupling=5.0, beta=1e3)
    mask = drawn(method, weight, 1)[0].round()
    assert torch.equal(mask.amin((0, 2, 3)), mask.amax((0, 2, 3)))
    means = weight.square().mean((0, 2, 3))
    # As the filters of the weight with outputs and inputs exchanged.
    other = GibbsPruning(0.5, "filter", coupling=5.0, beta=1e3)
    swapped = weight.transpose(0, 1).contiguous()
    assert torch.equal(method.field(weight), other.field(swapped))
    laws = (
        one.law(one.field(value), posterior(one, value)[1])
        for one, value in ((method, weight), (other, swapped))
    )
    assert {law.split for law in laws} == {3 * 9}
    assert torch.equal(method.magnitude_mask(weight)[0, :, 0, 0], means >= means.quantile(0.5))


def test_filters_are_coloured_by_halves_of_the_input_channels() -> None:
    weight = torch.randn(5, 6, 3, 3)
    method = GibbsPruning(0.5, structure="filter")
    _, q = posterior(method, weight)
    assert method.law(method.field(weight), q).split == 3 * 9
    odd, single = torch.randn(5, 7, 3, 3), torch.randn(5, 1, 3, 3)
    for value, split in ((odd, 27), (single, 4)):
        _, q = posterior(method, value)
        assert method.law(method.field(value), q).split == split


def test_a_strongly_coupled_mask_removes_whole_blocks() -> None:
    torch.manual_seed(2)
    weight = torch.randn(8, 6, 3, 3)
    for structure, dims in (("kernel", (2, 3)), ("filter", (1, 2, 3))):
        mask = drawn(GibbsPruning(0.5, structure=structure, coupling=5.0, beta=1e3), weight, 1)[
            0
        ].round()
        assert torch.equal(mask.amin(dims), mask.amax(dims))
        means = weight.square().mean(dims)
        assert torch.equal(mask.amax(dims), (means > means.median()).float())


def test_metastability_filters_stay_what_they_start_as() -> None:
    # At the paper's last temperature: 50 sweeps from the magnitude mask return it; from a random
    # start they keep other filters, about half of them, where a quarter is asked for.
    torch.manual_seed(3)
    weight = 0.05 * torch.randn(32, 16, 3, 3) * (0.8 + 0.4 * torch.rand(32, 1, 1, 1))
    options = {"sparsity": 0.75, "structure": "filter", "beta": 1.0}
    kept = drawn(GibbsPruning(**options), weight, 3).round().amax((2, 3, 4))
    means = weight.square().mean((1, 2, 3))
    assert torch.equal(kept, (means > means.quantile(0.75)).float().expand(3, 32))
    kept = drawn(GibbsPruning(**options, start="random"), weight, 20).round().amax((2, 3, 4))
    assert 0.4 < kept.mean() < 0.6


RATES = {  # of Gaussian weights: the fraction removed, against u = beta sigma^2
    0.9: {0.01: 0.5085, 0.1: 0.5841, 1: 0.8773, 3: 0.8979, 30: 0.9000},
    0.5: {1: 0.4183},
}


@pytest.mark.parametrize(
    ("p", "u", "rate"), [(p, u, r) for p in RATES for u, r in RATES[p].items()]
)
@pytest.mark.parametrize("relative", [False, True])
def test_the_rate_of_gaussian_weights_depends_on_beta_times_their_variance(
    p: float, u: float, rate: float, relative: bool
) -> None:
    places = (torch.arange(200_001, dtype=torch.float64) + 0.5) / 200_001
    for scale in (1.0, 0.03):
        weight = scale * torch.special.ndtri(places)
        method = GibbsPruning(p, beta=u if relative else u / scale**2, relative=relative)
        law = method.law(method.field(weight), posterior(method, weight)[1])
        assert float(1 - law.mean.mean()) == pytest.approx(rate, abs=1e-4)


def test_fewer_go_before_more_do() -> None:
    # At p = 1/2 the rate is not monotone in beta: it starts and ends at 1/2.
    weight = torch.special.ndtri((torch.arange(20_001).double() + 0.5) / 20_001)
    rates = []
    for beta in (0.0, 1.0, 1e6):
        method = GibbsPruning(0.5, beta=beta)
        law = method.law(method.field(weight), posterior(method, weight)[1])
        rates.append(float(1 - law.mean.mean()))
    assert rates == pytest.approx([0.5, 0.4183, 0.5], abs=1e-3)


@pytest.mark.parametrize("structure", ["weight", "kernel", "filter"])
def test_hot_masks_are_coin_flips_and_cold_ones_the_magnitude_mask(structure: str) -> None:
    torch.manual_seed(4)
    weight = torch.randn(12, 10, 3, 3)
    hot = drawn(GibbsPruning(0.9, structure=structure, beta=0.0), weight, 20)
    assert_mean(hot.flatten(), 0.5)
    # As cold as that a tenth of 0.01 of a coupling holds: 1 - p of the blocks stay whole.
    cold = GibbsPruning(
        0.9, structure=structure, coupling=None if structure == "weight" else 20.0, beta=1e6
    )
    target, q = posterior(cold, weight)
    mask = drawn(cold, weight, 1)[0].round()
    assert torch.equal(mask != 0, cold.score(target, q) >= 0)
    removed = 1 - float(mask.mean())
    assert removed == pytest.approx(0.9, abs=1 / 12)


def test_relative_masks_do_not_know_the_scale_of_the_weights() -> None:
    weight = torch.randn(6, 5, 3, 3, dtype=torch.float64)
    for structure in ("weight", "kernel", "filter"):
        method = GibbsPruning(0.7, structure=structure, relative=True)
        assert torch.allclose(method.field(weight), method.field(1000 * weight))
        raw = GibbsPruning(0.7, structure=structure)
        assert torch.allclose(raw.field(1000 * weight), 1e6 * raw.field(weight))


# What is trained.


@pytest.mark.parametrize("structure", ["weight", "filter"])
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_the_gradient_is_of_the_likelihood_through_what_is_kept_and_of_weight_decay(
    structure: str, elbo: type
) -> None:
    torch.manual_seed(5)
    n, decay = 50, 1e-4
    net = nn.Linear(6, 4).double()
    x, y = torch.randn(8, 6).double(), torch.randint(4, (8,))
    method = GibbsPruning(0.5, structure, beta=2.0, scale=(2 * n * decay) ** -0.5)
    bnn = ps.lift(net, method)
    state = torch.get_rng_state()
    elbo().loss_and_grads(ps.classifier(bnn, n), bnn.guide, x, y)
    found = [p.grad.clone() for p in net.parameters()]
    torch.set_rng_state(state)
    target, q = bnn.targets[0], bnn.guide.entries[0].posterior()
    mask = method.mask(target, q, net.weight.detach())
    assert 0 < mask.sum() < mask.numel()
    net.zero_grad()
    loss = functional.cross_entropy(functional.linear(x, net.weight * mask, net.bias), y)
    (n * (loss + decay * net.weight.square().sum())).backward()
    for one, parameter in zip(found, net.parameters(), strict=True):
        assert (one - parameter.grad).abs().max() < 1e-14
    removed = found[0][mask == 0]
    assert torch.allclose(removed, 2 * n * decay * net.weight.detach()[mask == 0])


@pytest.mark.parametrize(
    "options",
    [
        {"structure": "kernel", "relative": True},
        {"structure": by_columns, "coupling": 0.3},
        {"convention": "reference-code"},
    ],
    ids=["kernel", "own", "code"],
)
def test_every_structure_trains_captured_and_is_cut_out(options: dict[str, Any]) -> None:
    torch.manual_seed(8)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6, 3)
    )
    x, y = torch.randn(12, 1, 5, 5), torch.randint(3, (12,))
    bnn = ps.lift(net, GibbsPruning(0.5, beta=3.0, **options), ps.weights(net, "2"))
    run = ps.fit(ps.classifier(bnn, 12), bnn.guide, (x, y), epochs=3, progress=False)
    assert run.svi.fallback is None and run.svi.captured
    bnn.freeze(bnn.masks())
    assert 0.4 < 1 - net[2].weight.count_nonzero() / net[2].weight.numel() < 0.6
    blocks = entry_blocks(bnn)
    assert torch.equal(blocks.all(1), blocks.any(1)) or "structure" not in options
    small = ps.compact(net, None, x[:1])
    assert torch.allclose(small(x), bnn.mean_forward(x), atol=1e-6)


def entry_blocks(bnn: ps.Lifted) -> Tensor:
    """What is left of the only target, in blocks."""
    (entry,) = bnn.guide.entries
    return entry.method.blocks(entry.parameter() != 0).flatten(1)


def test_the_mask_is_one_for_the_batch_and_another_in_the_next_step() -> None:
    net = nn.Linear(30, 30, bias=False)
    bnn = ps.lift(net, GibbsPruning(0.5, beta=0.0))
    first, second = (bnn(torch.eye(30).repeat(2, 1)) for _ in range(2))
    assert torch.equal(first[:30], first[30:]) and not torch.equal(first, second)
    bnn.eval()
    assert torch.equal(bnn(torch.eye(30)), bnn(torch.eye(30))) is False  # weights from the prior
    trace = poutine.trace(bnn.guide).get_trace(None)
    at_guide = poutine.replay(bnn, trace=trace)
    assert torch.equal(at_guide(torch.eye(30)), at_guide(torch.eye(30)))
    assert torch.equal(at_guide(torch.eye(30)), bnn.mean_forward(torch.eye(30)))


def test_frozen_targets_have_their_final_mask() -> None:
    torch.manual_seed(6)
    net = nn.Linear(20, 20, bias=False)
    bnn = ps.lift(net, GibbsPruning(0.5, beta=0.0, final="draw"))
    entry = bnn.guide.entries[0]
    mask = entry.method.final_mask(entry.target, entry.posterior())
    assert 0.4 < mask.float().mean() < 0.6
    assert not torch.equal(mask, bnn.masks()["weight"])
    bnn.freeze({"weight": mask})
    x = torch.eye(20)
    at_guide = poutine.replay(bnn, trace=poutine.trace(bnn.guide).get_trace(x))
    assert torch.equal(at_guide(x), net(x)) and torch.equal(bnn.mean_forward(x), net(x))
    assert torch.equal(bnn.masks()["weight"], mask) and torch.equal(net.weight != 0, mask)
    bnn.freeze({"weight": torch.ones(20, 20, dtype=torch.bool)})  # released
    assert not torch.equal(at_guide(x), net(x))


def test_the_final_mask_is_what_is_asked_for() -> None:
    torch.manual_seed(7)
    weight = torch.randn(4, 4, 3, 3)
    for final in ("draw", "mode", "magnitude"):
        method = GibbsPruning(0.5, structure="kernel", beta=0.05, coupling=0.01, final=final)
        target, q = posterior(method, weight)
        first, second = (method.final_mask(target, q) for _ in range(2))
        assert torch.equal(first, second) == (final != "draw")
        whole = torch.equal(first.flatten(2).all(2), first.flatten(2).any(2))
        assert whole == (final == "magnitude")  # so weakly coupled the mode has broken kernels


# Which weights.


def test_the_default_targets_are_the_papers() -> None:
    net = resnet()
    names = [target.name for target in GibbsPruning().targets(net)]
    assert len(names) == 20 and "conv1.weight" not in names and "fc.weight" not in names
    assert "stage2.block1.shortcut.weight" in names
    filters = [target.name for target in GibbsPruning(structure="filter").targets(net)]
    assert len(filters) == 18 and "stage2.block1.shortcut.weight" not in filters
    assert len(GibbsPruning().targets(ps.networks.fcn())) == 3


def test_what_has_no_kernels_is_refused() -> None:
    with pytest.raises(ValueError, match="has no kernels"):
        ps.lift(nn.Linear(3, 2), GibbsPruning(structure="kernel"))
    with pytest.raises(ValueError, match="the structure must arrange the 6 elements"):
        ps.lift(nn.Linear(3, 2), GibbsPruning(structure=lambda w: w[:1]))


def test_beta_is_a_buffer() -> None:
    bnn = ps.lift(nn.Linear(3, 2), GibbsPruning(beta=0.7))
    assert bnn.state_dict()["guide.posterior.weight._beta"] == torch.tensor(0.7)
    assert bnn.double().guide.entries[0].posterior()["_beta"].dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("structure", ["weight", "kernel", "filter"])
def test_a_network_in_half_precision(dtype: torch.dtype, structure: str) -> None:
    # Weights whose squares float16 does not hold.
    weight = (1e-4 * torch.randn(16, 8, 3, 3)).to(dtype)
    method = ps.GibbsPruning(0.75, structure)
    expected = method.magnitude_mask(weight.float())
    assert torch.equal(method.magnitude_mask(weight), expected)
    assert float(expected.float().mean()) == pytest.approx(0.25, abs=0.02)
    net = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3)).to(dtype)
    net[0].weight.data.copy_(weight)
    bnn = ps.lift(net, ps.GibbsPruning(0.75, structure, beta=1e9))
    assert torch.equal(bnn.masks()["0.weight"], expected)
    out = bnn(torch.ones(2, 8, 5, 5, dtype=dtype))
    assert out.dtype == dtype and out.isfinite().all()


@pytest.mark.parametrize("structure", ["weight", "filter"])
def test_magnitudes_whose_squares_are_zero_in_float32(structure: Any) -> None:
    """Weight decay makes such weights; with the quantile of the squares at zero all would stay."""
    weight = torch.arange(1.0, 41.0).view(8, 5) * 1e-34
    weight[0] = 1.0
    mask = ps.GibbsPruning(0.5, structure).magnitude_mask(weight)
    assert int(mask.sum()) == 20
    assert mask[0].all() and mask[-1].all() and not mask[1].any()
