"""Distillation as a likelihood term."""

import math
from typing import Any

import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.evidence import evaluate


def data(n: int = 30) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 4, generator=generator), torch.randint(3, (n,), generator=generator)


def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(1)
    return nn.Linear(4, 3), nn.Linear(4, 3)


def log_joint(model: Any, bnn: ps.Lifted, *args: Tensor) -> Tensor:
    """The scaled log likelihood at the guide's point."""
    with torch.no_grad():
        trace = poutine.trace(bnn.guide).get_trace(*args)
        replayed = poutine.trace(poutine.replay(model, trace=trace)).get_trace(*args)
        replayed.compute_log_prob()
        sites = [site for site in replayed.nodes.values() if site["type"] == "sample"]
        return sum(site["log_prob_sum"] for site in sites if site["is_observed"])


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_likelihood_is_the_stated_one(weight: float, temperature: float) -> None:
    net, teacher = networks()
    bnn = ps.lift(net, ps.Gaussian())
    x, y = data()
    model = ps.distill(bnn, teacher, 90, weight=weight, temperature=temperature)
    with torch.no_grad():
        student, taught = net(x).double(), teacher(x).double()
    labels = student.log_softmax(1)[torch.arange(30), y]
    soft = (taught / temperature).softmax(1)
    divergence = (soft * (soft.log() - (student / temperature).log_softmax(1))).sum(1)
    expected = (1 - weight) * labels.sum() - weight * temperature**2 * divergence.sum()
    assert float(log_joint(model, bnn, x, y)) == pytest.approx(3 * float(expected), rel=1e-5)
    # A matrix product is rounded by the size of its batch, on some processors.
    taught_before = log_joint(model, bnn, x, y, model.teach(x, batch_size=7))
    assert torch.allclose(log_joint(model, bnn, x, y), taught_before, rtol=1e-6, atol=0)


def test_a_teacher_that_is_the_student_teaches_nothing_and_stays_as_it_was() -> None:
    net, _ = networks()
    bnn = ps.lift(net, ps.Gaussian())
    x, y = data()
    model = ps.distill(bnn, net, 30, weight=1.0)
    assert float(log_joint(model, bnn, x, y)) == pytest.approx(0.0, abs=1e-5)
    before = model.teach(x)
    ps.fit(ps.classifier(bnn, 30), bnn.guide, (x, y), epochs=3, learning_rate=0.1, progress=False)
    assert torch.equal(model.teach(x), before)
    assert float(log_joint(model, bnn, x, y)) < -1


def test_evaluation_is_of_the_labels_alone() -> None:
    net, teacher = networks()
    bnn = ps.lift(net, ps.Gaussian())
    x, y = data()
    model = ps.distill(bnn, teacher, 30)
    assert evaluate(model, bnn.guide, (x, y)) == evaluate(ps.classifier(bnn, 30), bnn.guide, (x, y))


@pytest.mark.parametrize(
    "method", [ps.Gaussian(), ps.Gaussian(posterior="normal"), ps.BetaBernoulli()]
)
def test_the_student_comes_near_its_teacher_whatever_the_method(method: ps.Method) -> None:
    net, teacher = networks()
    bnn = ps.lift(net, method)
    x, y = data(200)
    model = ps.distill(bnn, teacher, 200, weight=1.0, temperature=1.0)

    def distance() -> float:
        with torch.no_grad():
            logits = bnn.eval().mean_forward(x).log_softmax(1)
            return float(nn.functional.kl_div(logits, teacher(x).softmax(1), reduction="batchmean"))

    before = distance()
    run = ps.fit(
        model, bnn.guide, (x, y, model.teach(x)),
        epochs=40, learning_rate=0.02, elbo=TraceMeanField_ELBO(), progress=False,
    )  # fmt: skip
    assert run.svi is not None and run.svi.fallback is None
    assert distance() < 0.2 * before


def test_bad_arguments_are_refused() -> None:
    net, teacher = networks()
    bnn = ps.lift(net, ps.Gaussian())
    for options in ({"weight": 1.1}, {"weight": math.nan}, {"temperature": 0.0}, {"n": 0}):
        with pytest.raises(ValueError):
            ps.distill(**({"network": bnn, "teacher": teacher, "n": 10} | options))
    x, y = data()
    with pytest.raises(ValueError, match="must be of the same classes"):
        ps.distill(bnn, nn.Linear(4, 2), 30)(x, y)


class Two(nn.Module):
    """Two inputs, and logits by name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor, past: Any = None, scale: Tensor | None = None) -> Any:
        assert scale is not None
        return {"logits": self.layer(x * scale), "hidden": x}


class Swapped(Two):
    def forward(self, x: Tensor, scale: Tensor | None = None, past: Any = None) -> Any:  # type: ignore[override]
        return super().forward(x, past, scale)


def test_logits_by_name_of_several_inputs_give_the_likelihood_of_plain_ones() -> None:
    torch.manual_seed(1)
    net, teacher = Two(), Two()
    x, y = data()
    scale = torch.rand(30, 1)
    plain = ps.distill(net.layer, teacher.layer, 90)
    nothing = ps.lift(net.layer, ps.Gaussian())  # a guide of the same sites, for log_joint
    expected = log_joint(ps.distill(nothing, teacher.layer, 90), nothing, x * scale, y)
    bnn = ps.lift(net, ps.Gaussian())
    model = ps.distill(bnn, teacher, 90, output="logits")
    taught = model.teach(x, None, scale, batch_size=7)
    torch.testing.assert_close(taught, plain.teach(x * scale))
    by_name = {"labels": y, "scale": scale, "x": x}
    batches = [
        (x, None, scale, y),
        (x, None, scale, y, taught),
        model.from_names(by_name),
        model.from_names(by_name | {"teacher_logits": taught}),
    ]
    assert [len(batch) for batch in batches] == [4, 5, 4, 5]
    for batch in batches:
        torch.testing.assert_close(log_joint(model, bnn, *batch), expected)
    # A teacher that gives a tensor needs no name.
    mixed = ps.distill(bnn, Plain(teacher), 90, output="logits")
    torch.testing.assert_close(log_joint(mixed, bnn, *batches[0]), expected)


class Plain(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Any) -> Tensor:
        return self.net(*inputs)["logits"]


def test_a_teacher_with_other_places_and_logits_of_many_labels_are_refused() -> None:
    x, y = data()
    named = {"x": x, "scale": torch.rand(30, 1), "labels": y}
    with pytest.raises(TypeError, match="Swapped takes x, scale, labels in other places"):
        ps.distill(Two(), Swapped(), 30, output="logits").from_names(named)
    with pytest.raises(ValueError, match=r"one class of each datum.*\(2, 5, 3\)"):
        ps.distill(nn.Linear(4, 3), nn.Linear(4, 3), 30)(torch.ones(2, 5, 4))
    with pytest.raises(TypeError, match=r"no tensor but dict with logits, hidden"):
        ps.distill(Two(), Two(), 30)(x, None, named["scale"], y)
