"""Targeted dropout: the suite of every method, the law of its masks, its ramp, its candidates."""

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.lifting.method import Posterior
from pyrosparse.methods import TargetedDropout
from tests.method_case import MethodCase
from tests.monte_carlo import assert_mean


class TestTargetedDropout(MethodCase):
    bad: ClassVar[list[dict[str, Any]]] = [
        {"sparsity": 1.0},
        {"sparsity": -0.1},
        {"structure": "row"},
        {"structure": "2:4"},
        {"rate": 0.0},
        {"rate": 1.1},
        {"among": "layer"},
        {"scale": 0.0},
    ]
    recovery: ClassVar[dict[str, Any]] = {"sparsity": 5 / 8}
    recovery_threshold = 0.0

    def make(self, **options: Any) -> ps.Method:
        return TargetedDropout(**({"sparsity": 0.25, "rate": 0.5} | options))

    def test_score_grows_with_the_size_of_the_location(self) -> None:
        # Among the weights of an output.
        for entry in self.moved().guide.entries:
            q = entry.posterior()
            scores = entry.method.score(entry.target, q).flatten(1)
            order = q["loc"].detach().abs().flatten(1).argsort(1)
            assert (scores.gather(1, order).diff(dim=1) > 0).all()


def posterior(method: TargetedDropout, weight: Tensor, ramp: float = 1.0) -> Posterior:
    q = Posterior(method.init(ps.Target("w", "weight", tuple(weight.shape), weight)))
    q["_ramp"].fill_(ramp)
    q.training = True
    return q


def drawn(method: TargetedDropout, weight: Tensor, count: int, ramp: float = 1.0) -> Tensor:
    q = posterior(method, weight, ramp)
    return torch.stack([method.step_mask(weight, q) for _ in range(count)]).double()


def test_of_each_output_the_smallest_are_dropped_with_the_rate() -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 10, dtype=torch.float64)
    method = TargetedDropout(0.7, rate=0.6)
    smallest = weight.abs().argsort(1)[:, :7]
    expected = torch.ones(6, 10).double().scatter(1, smallest, 0.4)
    assert_mean(drawn(method, weight, 2000), expected)
    assert torch.equal(method.magnitude_mask(weight), expected == 1)


def test_counts_are_those_of_exact_arithmetic_and_units_are_dropped_whole() -> None:
    torch.manual_seed(1)
    method = TargetedDropout(0.29, rate=1.0)
    weight = torch.randn(3, 100)
    assert method.magnitude_mask(weight).sum(1).tolist() == [71, 71, 71]
    assert torch.equal(drawn(method, weight, 1)[0] != 0, method.magnitude_mask(weight))
    weight = torch.randn(8, 4, 3, 3)
    for structure, dims in (("filter", (1, 2, 3)), ("channel", (0, 2, 3)), ("kernel", (2, 3))):
        method = TargetedDropout(0.75, structure, rate=0.9)
        masks = drawn(method, weight, 300)
        within = tuple(dim + 1 for dim in dims)
        assert torch.equal(masks.amin(within), masks.amax(within))
        sizes = weight.square().sum(dims)
        rows = sizes if structure == "kernel" else sizes.flatten().unsqueeze(0)
        order = rows.argsort(1)[:, : 3 * rows.shape[1] // 4]
        expected = torch.ones_like(rows).scatter(1, order, 0.1).view(sizes.shape)
        assert_mean(masks.amax(within), expected.double())


def test_over_the_tensor_other_weights_are_candidates_than_by_output() -> None:
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]])
    assert TargetedDropout(0.5, among="tensor").magnitude_mask(weight).sum(1).tolist() == [0, 4]
    assert TargetedDropout(0.5).magnitude_mask(weight).sum(1).tolist() == [2, 2]


def test_two_of_every_four_stay_at_least_and_in_the_end_exactly() -> None:
    torch.manual_seed(2)
    method, weight = TargetedDropout(0.5, "2:4", rate=0.7), torch.randn(5, 8, 3, 3)
    masks = drawn(method, weight, 400)
    groups = masks.view(400, 5, 2, 4, 3, 3).sum(3)
    assert groups.min() == 2 and groups.max() == 4
    assert_mean(groups - 2, 2 * 0.3)
    for value in (weight, torch.zeros_like(weight)):
        final = method.magnitude_mask(value).view(5, 2, 4, 3, 3).sum(2)
        assert torch.equal(final, torch.full((5, 2, 3, 3), 2))


@pytest.mark.parametrize(
    ("ramp", "candidates", "rate"),
    [(0.0, 0, 0.0), (0.25, 47, 0.2), (0.5, 95, 0.4), (0.75, 97, 0.6), (1.0, 100, 0.8)],
)
def test_the_ramp_is_that_of_the_code(ramp: float, candidates: int, rate: float) -> None:
    # 95 % of the candidates in the first half, the others in the second; the rate in both.
    torch.manual_seed(3)
    method, weight = TargetedDropout(0.5, rate=0.8), torch.randn(1, 200)
    mean = drawn(method, weight, 1000, ramp).mean(0)[0]
    dropped = mean[weight[0].abs().argsort()]
    assert (dropped[candidates:] == 1).all()
    if candidates:
        assert (dropped[:candidates] < 1).all()
        assert float(dropped[:candidates].mean()) == pytest.approx(1 - rate, abs=0.01)


def test_annealing_ramps_and_the_candidates_are_gone_in_the_end() -> None:
    torch.manual_seed(4)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    x, y = torch.randn(24, 6), torch.randint(3, (24,))
    bnn = ps.lift(net, TargetedDropout(0.5))
    annealing = ps.prune.Annealing(ps.infer.schedules.cubic(0.5), per="step")
    run = ps.fit(
        ps.classifier(bnn, 24),
        bnn.guide,
        (x, y),
        epochs=4,
        batch_size=8,
        callbacks=[annealing],
        progress=False,
    )
    assert run.svi.fallback is None and len(run.svi.captured) == 1
    ramps = [entry["ramp"] for entry in run.history]
    assert ramps == sorted(ramps) and 0 < ramps[0] < 1 == ramps[-1]
    assert (net[0].weight != 0).sum(1).tolist() == [3] * 8
    assert (net[2].weight != 0).sum(1).tolist() == [4] * 3
    assert torch.equal(bnn.mean_forward(x), net(x))


def test_a_schedule_is_for_one_quantity() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    first, second = ps.weights(net)
    bnn = ps.lift(net, [(TargetedDropout(0.5), [first]), (ps.GibbsPruning(0.5), [second])])
    with pytest.raises(ValueError, match="different quantities, beta and ramp"):
        ps.fit(
            ps.classifier(bnn, 4),
            bnn.guide,
            (torch.randn(4, 6), torch.zeros(4, dtype=torch.int64)),
            epochs=1,
            callbacks=[ps.prune.Annealing(ps.infer.schedules.constant)],
            progress=False,
        )
