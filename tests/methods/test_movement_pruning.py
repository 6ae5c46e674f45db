"""Movement pruning: the suite of every method, the gradient of its scores, its masks."""

import math
from typing import Any, ClassVar

import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.nn import functional

import pyrosparse as ps
from pyrosparse.methods import MovementPruning
from tests.method_case import MethodCase

STRUCTURES = ["weight", "kernel", "filter", "channel", "2:4"]


class TestTop(MethodCase):
    bad: ClassVar[list[dict[str, Any]]] = [
        {"sparsity": 1.0},
        {"structure": "row"},
        {"structure": "2:4"},
        {"structure": "2:4", "sparsity": None},
        {"cost": 1.0},
        {"least_score": 1.0},
        {"sparsity": None, "cost": -1.0},
        {"scale": 0.0},
    ]
    recovery: ClassVar[dict[str, Any]] = {"sparsity": 5 / 8}
    recovery_threshold = 0.0
    sparsity: ClassVar[float | None] = 0.25

    def make(self, **options: Any) -> ps.Method:
        return MovementPruning(**({"sparsity": self.sparsity} | options))

    def test_score_grows_with_the_size_of_the_location(self) -> None:
        # With the trained scores, and not with the location.
        for entry in self.moved().guide.entries:
            q = entry.posterior()
            scores = entry.method.score(entry.target, q).flatten()
            assert (scores[q["scores"].detach().flatten().argsort()].diff() > 0).all()


@pytest.mark.filterwarnings("ignore::pyrosparse.distributions.ImproperPriorWarning")
class TestSoft(TestTop):
    sparsity = None
    bad: ClassVar[list[dict[str, Any]]] = [{"cost": -1.0}, {"least_score": math.inf}]
    recovery: ClassVar[dict[str, Any]] = {"cost": 20.0}


def problem(width: int = 8) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(width, 4, 3), nn.Flatten(), nn.Linear(16, 3)).double()
    return net, torch.randn(6, width, 4, 4).double(), torch.randint(3, (6,))


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_the_gradient_of_a_score_is_the_weight_times_that_of_the_masked_weight(
    structure: str, elbo: type
) -> None:
    net, x, y = problem()
    bnn = ps.lift(net, MovementPruning(0.5, structure, scale=0.7), ps.weights(net, "0.weight"))
    (entry,) = bnn.guide.entries
    scores = entry.posterior()["scores"]
    with torch.no_grad():
        scores.normal_()
    elbo().loss_and_grads(ps.classifier(bnn, 60), bnn.guide, x, y)
    mask = bnn.masks()["0.weight"]
    assert mask.double().mean() == 0.5
    masked = (net[0].weight * mask).detach().requires_grad_()
    features = functional.conv2d(x, masked, net[0].bias).flatten(1)
    (60 * functional.cross_entropy(net[2](features), y)).backward()
    weight = net[0].weight
    assert torch.allclose(weight.grad, masked.grad * mask + weight / 0.49, atol=1e-12)
    of_elements = (weight * masked.grad).detach()
    dims = {"kernel": (2, 3), "filter": (1, 2, 3), "channel": (0, 2, 3)}.get(structure)
    if structure == "2:4":
        expected = ps.structures.blocks(of_elements, structure)
    else:
        expected = of_elements if dims is None else of_elements.sum(dims).flatten().unsqueeze(1)
    assert torch.allclose(scores.grad, expected, atol=1e-12)
    assert masked.grad[~mask].count_nonzero()  # also of what is off


def test_the_soft_form_pays_for_what_scores_high() -> None:
    net, x, y = problem()
    method = MovementPruning(None, "filter", cost=0.3, least_score=-0.2)
    bnn = ps.lift(net, method, ps.weights(net, "0.weight"))
    scores = bnn.guide.entries[0].posterior()["scores"]
    with torch.no_grad():
        scores.copy_(torch.tensor([[-1.0], [-0.1], [0.0], [2.0]]))
    model = ps.classifier(bnn, 60)
    loss = Trace_ELBO().loss(model, bnn.guide, x, y)
    free = ps.lift(
        net, MovementPruning(None, "filter", least_score=-0.2), ps.weights(net, "0.weight")
    )
    with torch.no_grad():
        free.guide.entries[0].posterior()["scores"].copy_(scores)
    without = Trace_ELBO().loss(ps.classifier(free, 60), free.guide, x, y)
    expected = 0.3 * 72 * float(scores.detach().sigmoid().sum())
    assert loss - without == pytest.approx(expected, rel=1e-10)
    assert bnn.masks()["0.weight"].flatten(1).all(1).tolist() == [False, True, True, True]
    bnn.freeze(bnn.masks())
    assert float(scores.detach().sigmoid()[0]) < 1e-8 and float(scores.detach()[3]) == 2.0


@pytest.mark.parametrize("structure", STRUCTURES)
def test_exactly_as_many_stay_as_should_even_of_equal_scores(structure: str) -> None:
    net, _, _ = problem()
    bnn = ps.lift(net, MovementPruning(0.5, structure), ps.weights(net, "0.weight"))
    mask = bnn.masks()["0.weight"]
    assert mask.double().mean() == 0.5
    if structure == "2:4":
        assert (mask.view(4, 2, 4, 3, 3).sum(2) == 2).all()


def test_training_prunes_what_moves_to_zero_and_the_ramp_takes_it_by_and_by() -> None:
    # Magnitude keeps the large weights of before; the new data need the small one.
    net = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, -1.0, 0.9, 0.1]]))
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    bnn = ps.lift(net, MovementPruning(0.75))
    annealing = ps.prune.Annealing(ps.infer.schedules.cubic(0.8), per="step")
    run = ps.fit(
        ps.regressor(bnn, 200, noise=0.1),
        bnn.guide,
        (x, 0.5 * x[:, 3:]),
        epochs=30,
        batch_size=50,
        learning_rate={"*.scores": 0.05, "*": 0.01},
        callbacks=[annealing],
        progress=False,
    )
    assert run.svi.fallback is None and run.history[-1]["ramp"] == 1
    assert (net.weight != 0).tolist() == [[False, False, False, True]]
    assert torch.equal(bnn.mean_forward(x), net(x))
