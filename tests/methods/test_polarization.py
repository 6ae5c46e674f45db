"""Polarization: the suite of every method, and what it promises besides."""

from typing import Any, ClassVar

import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.infer import NonFiniteLossError
from pyrosparse.lifting.method import Posterior
from pyrosparse.methods.polarization import first_minimum
from pyrosparse.prune import CommonMean
from tests.method_case import MethodCase
from tests.nets import batch


class PolarizationCase(MethodCase):
    bad: ClassVar[list[dict[str, Any]]] = [
        {"strength": 0.0},
        {"strength": float("inf")},
        {"t": 2.0},
        {"t": -0.1},
        {"mean_over": "layer"},
        {"cut": 1.5},
        {"cut": "grad"},
        {"initial": 0.0},
    ]
    recovery: ClassVar[dict[str, Any]] = {"strength": 100.0}
    recovery_threshold = 0.0

    def make(self, **options: Any) -> ps.Method:
        return ps.Polarization(**{"strength": 2.0} | options)

    def size(self, loc: Tensor) -> Tensor:
        return loc

    def moved(self, name: str = "mlp") -> ps.Lifted:
        bnn = super().moved(name)
        bnn.project()
        return bnn


@pytest.mark.filterwarnings("ignore::pyrosparse.distributions.ImproperPriorWarning")
class TestOutputs(PolarizationCase):
    def targets(self, net: nn.Module) -> list[ps.Target]:
        return ps.outputs(net)

    def regression_net(self) -> nn.Module:
        net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 1, bias=False))
        net[0].weight = nn.Parameter(torch.eye(8), requires_grad=False)
        net[1].weight = nn.Parameter(torch.ones(1, 8), requires_grad=False)
        return net


def normalised(scales: list[float]) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, len(scales), 3, bias=False), nn.BatchNorm2d(len(scales)), nn.ReLU(),
        nn.Flatten(), nn.Linear(4 * len(scales), 3),
    )  # fmt: skip
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor(scales))
    return net


def penalty(method: ps.Polarization, g: Tensor) -> Tensor:
    return method.penalty(Posterior(), g)


def test_penalty_is_that_of_the_paper_with_the_gradient_of_the_mean() -> None:
    torch.manual_seed(0)
    g = torch.rand(7, dtype=torch.float64, requires_grad=True)
    method = ps.Polarization(1.0, t=1.4)
    mean = g.mean()
    expected = 1.4 * g.sum() - (g - mean).abs().sum()
    value = penalty(method, g)
    torch.testing.assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value, g)
    signs = (g - mean).detach().sign()
    torch.testing.assert_close(gradient, 1.4 - signs + signs.mean())
    torch.testing.assert_close(penalty(method, torch.stack([g, g])), expected.expand(2))


@pytest.mark.parametrize(("t", "share"), [(1.2, 0.2), (1.4, 0.15)])
def test_two_points_have_the_least_penalty_with_a_share_of_2_less_t_by_4_at_one(
    t: float, share: float
) -> None:
    method, k = ps.Polarization(1.0, t=t), 200
    values = [float(penalty(method, (torch.arange(k) < count).double())) for count in range(k + 1)]
    assert values.index(min(values)) == round(share * k)
    assert min(values) < float(penalty(method, torch.rand(k).double()))


def test_without_the_box_the_penalty_has_no_lower_bound() -> None:
    far = torch.zeros(8).double()
    far[0] = 1e3
    # (t - 2 (1 - 1 / K)) times a thousand; the sheet of the paper's density is proper by the box.
    assert float(penalty(ps.Polarization(1.0, t=1.4), far)) == pytest.approx(-350.0)


def test_scales_stay_in_the_box_and_part() -> None:
    net = normalised([0.1, 0.3, 0.4, 0.6, 0.7, 0.9])
    bnn = ps.lift(net, ps.Polarization(strength=1000.0, t=1.2))
    assert [target.key for target in bnn.targets] == ["1.weight"]
    x, y = torch.randn(40, 1, 4, 4), torch.arange(40) % 3
    options = {"epochs": 40, "batch_size": 40, "learning_rate": 0.05, "progress": False}
    run = ps.fit(ps.classifier(bnn, 40), bnn.guide, (x, y), **options)
    assert run.svi is not None and run.svi.fallback is None
    scales = net[1].weight.detach()
    assert scales[:2].tolist() == [0.0, 0.0] and scales[-1] == 1.0
    masks = bnn.masks()
    assert torch.equal(masks["1.weight"], scales > 0)
    small = ps.compact(net.eval(), masks, x[:1])
    torch.testing.assert_close(small(x), net(x), rtol=1e-4, atol=1e-5)
    assert small.account.parameters[1] < small.account.parameters[0]


def test_what_is_below_the_cut_goes_and_what_stays_is_not_cut_again() -> None:
    net = normalised([0.0, 0.005, 0.03, 0.5, 0.52, 0.9])
    bnn = ps.lift(net, ps.Polarization(1.0))
    assert bnn.masks()["1.weight"].tolist() == [False] * 2 + [True] * 4
    fixed = ps.lift(normalised([0.0, 0.005, 0.03, 0.5, 0.52, 0.9]), ps.Polarization(1.0, cut=0.1))
    masks = fixed.masks()
    assert masks["1.weight"].tolist() == [False] * 3 + [True] * 3
    fixed.freeze(masks)
    with torch.no_grad():
        fixed.net[1].weight[3] = 0.05  # fine-tuning may make it small
    assert torch.equal(fixed.masks()["1.weight"], masks["1.weight"])


@pytest.mark.parametrize(
    ("scales", "cut"),
    [
        ([0.001, 0.002, 0.5, 0.6], 0.01),
        ([0.005] * 5 + [0.015] * 3 + [0.025] + [0.035] * 2 + [0.9], 0.02),
        ([0.0, 0.99, 1.0, 1.0], 0.01),
        ([1.0, 1.0], 0.0),
        ([0.0, 0.0], 0.01),
    ],
)
def test_the_cut_is_the_first_local_minimum_of_the_histogram(
    scales: list[float], cut: float
) -> None:
    assert float(first_minimum(torch.tensor(scales))) == pytest.approx(cut)


def test_scales_outside_of_the_box_are_refused_with_a_way_out() -> None:
    net = normalised([0.5, 1.2])
    with pytest.raises(ValueError, match=r"1 of the 2 scales.*'1\.weight'.*ps\.outputs"):
        ps.lift(net, ps.Polarization(1.0))
    with pytest.raises(ValueError, match="one a channel"):
        ps.lift(net, ps.Polarization(1.0), ps.weights(net, "0"))


def test_default_targets_are_scales_and_gates_of_what_has_none() -> None:
    def keys(*layers: nn.Module) -> list[str]:
        return [one.key for one in ps.Polarization(1.0).targets(nn.Sequential(*layers))]

    def linear() -> nn.Linear:
        return nn.Linear(8, 8)

    assert keys(linear(), nn.BatchNorm1d(8), nn.ReLU(), linear()) == ["1.weight"]
    assert keys(linear(), nn.ReLU(), nn.Linear(8, 3)) == ["0.output"]
    plain = nn.BatchNorm1d(8, affine=False)
    assert keys(linear(), plain, nn.Linear(8, 8), nn.Linear(8, 3)) == ["1.output", "2.output"]
    # A normalisation of another width is not the layer's own.
    pair = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 2, 3), nn.Linear(2, 2)
    assert keys(*pair) == ["1.weight", "0.output", "2.output"]


@pytest.mark.parametrize("capture", [False, True])
def test_a_common_mean_has_the_value_and_gradient_of_all_scales_together(capture: bool) -> None:
    """Under the penalty alone: one step of SGD is the paper's gradient over both layers."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    bnn = ps.lift(net, ps.Polarization(1.0, t=1.2, mean_over="network"), ps.outputs(net))
    gates = [entry.posterior()["loc"] for entry in bnn.guide.entries]
    with torch.no_grad():
        for gate in gates:
            gate.uniform_(0.2, 0.8)
    start = torch.cat([gate.detach().clone() for gate in gates]).requires_grad_()
    expected = 1.2 * start.sum() - (start - start.mean()).abs().sum()
    (gradient,) = torch.autograd.grad(expected, start)
    losses = []
    for weight in (1.0, 2.0):  # the likelihood's part falls out of the difference
        with torch.no_grad():
            for gate, value in zip(gates, start.detach().split([5, 6]), strict=True):
                gate.copy_(value)
        run = ps.fit(
            ps.classifier(bnn, 7),
            bnn.guide,
            batch("mlp"),
            epochs=1,
            batch_size=7,
            optimizer=torch.optim.SGD,
            learning_rate={"guide.*": 1e-2, "*": 1e-30},
            kl_scale=weight,
            callbacks=[CommonMean()],
            capture=capture,
            progress=False,
        )
        moved = torch.cat([gate.detach() for gate in gates]) - start.detach()
        losses.append((run.history[0]["loss"], -moved / 1e-2))
    (one, step), (two, double) = losses
    assert two - one == pytest.approx(float(expected.detach()), rel=1e-5)
    torch.testing.assert_close(double - step, gradient, rtol=1e-3, atol=1e-3)


def test_a_common_mean_that_nobody_tells_is_refused() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    options: dict[str, Any] = {"epochs": 1, "progress": False}
    bnn = ps.lift(net, ps.Polarization(1.0, mean_over="network"))
    with pytest.raises(NonFiniteLossError, match=r"0\.output"):
        ps.fit(ps.classifier(bnn, 7), bnn.guide, batch("mlp"), **options)
    plain = ps.lift(net, ps.Polarization(1.0))
    with pytest.raises(ValueError, match="mean_over='network'"):
        ps.fit(
            ps.classifier(plain, 7), plain.guide, batch("mlp"), callbacks=[CommonMean()], **options
        )


def test_both_elbos_agree_and_the_prior_is_improper() -> None:
    net = normalised([0.2, 0.4, 0.9])
    bnn = ps.lift(net, ps.Polarization(3.0)).eval()
    x, y = torch.randn(6, 1, 4, 4), torch.arange(6) % 3
    model = ps.classifier(bnn, 6)
    one, two = (elbo().loss(model, bnn.guide, x, y) for elbo in (Trace_ELBO, TraceMeanField_ELBO))
    assert one == pytest.approx(two, rel=1e-6)
    assert not ps.Polarization.proper
    with pytest.warns(ps.distributions.ImproperPriorWarning):
        bnn.train()(x)
