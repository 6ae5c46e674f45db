"""The Laplace approximation of the last layer against Hessians and exact posteriors."""

import sys
from typing import Any

import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal
from torch.nn import functional as F

import pyrosparse as ps
from pyrosparse.infer import LastLayerLaplace
from tests.linear_gaussian import LinearGaussian

# Of the packages that laplace-torch imports.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")


class Classes:
    """A small classifier with a point posterior, and its last layer's exact Hessian."""

    scale = 0.7

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        for parameter in self.net.parameters():
            parameter.data.normal_(generator=generator)
        self.x = torch.randn(60, 4, generator=generator, dtype=torch.float64)
        self.y = torch.randint(3, (60,), generator=generator)
        self.bnn = ps.lift(self.net, ps.Gaussian(scale=self.scale), ps.weights(self.net, "*"))
        self.model = ps.classifier(self.bnn, 60)

    def precision(self) -> Tensor:
        features = self.net[:2](self.x).detach()

        def energy(flat: Tensor) -> Tensor:
            logits = features @ flat[:15].view(3, 5).T + flat[15:]
            prior = flat.square().sum() / (2 * self.scale**2)
            return F.cross_entropy(logits, self.y, reduction="sum") + prior

        last = self.net[2]
        return torch.func.hessian(energy)(torch.cat([last.weight.flatten(), last.bias]).detach())


@pytest.fixture(scope="module")
def classes() -> Classes:
    pytest.importorskip("laplace", reason="laplace-torch is not installed")
    return Classes()


def test_the_precision_is_the_hessian(classes: Classes) -> None:
    data = (classes.x, classes.y)
    laplace = LastLayerLaplace(classes.model, data, structure="full", batch_size=25)
    assert laplace.layer == "2"
    exact = classes.precision()
    assert torch.allclose(laplace.covariance.inverse(), exact, atol=1e-5)
    diagonal = LastLayerLaplace(classes.model, data, structure="diag")
    assert torch.allclose(diagonal.covariance, exact.diagonal().reciprocal().diag(), atol=1e-7)


@pytest.mark.parametrize("structure", ["full", "kron", "diag"])
def test_draws_have_its_law_and_density(classes: Classes, structure: Any) -> None:
    laplace = LastLayerLaplace(classes.model, (classes.x, classes.y), structure=structure)
    last = classes.net[2]
    law = MultivariateNormal(
        torch.cat([last.weight.flatten(), last.bias]).detach(), laplace.covariance
    )
    torch.manual_seed(0)
    traces = [poutine.trace(laplace).get_trace() for _ in range(2000)]
    drawn = torch.stack(
        [
            torch.cat([trace.nodes[site]["value"].flatten() for site in ("2.weight", "2.bias")])
            for trace in traces
        ]
    )
    # The squared distance of each draw is chi-squared with 18 degrees of freedom.
    away = drawn - law.loc
    squares = (away @ laplace.covariance.inverse() * away).sum(1)
    assert abs(float(squares.mean()) - 18) < 4 * (2 * 18 / 2000) ** 0.5
    assert (away.mean(0).abs() < 4 * (law.variance / 2000).sqrt()).all()
    assert torch.allclose(
        torch.stack([trace.log_prob_sum() for trace in traces[:5]]), law.log_prob(drawn[:5])
    )
    assert torch.equal(traces[0].nodes["0.weight"]["value"], classes.net[0].weight)
    assert not classes.net[2].weight.grad_fn and classes.bnn.training


def test_of_a_linear_model_it_is_the_posterior() -> None:
    pytest.importorskip("laplace", reason="laplace-torch is not installed")
    problem = LinearGaussian(orthogonal=False)
    net = problem.net()
    net.weight.data.copy_(problem.posterior_mean())
    bnn = ps.lift(net, ps.Gaussian(scale=problem.prior))
    laplace = LastLayerLaplace(problem.model(bnn), problem.data, structure="full")
    assert torch.allclose(laplace.covariance, problem.precision().inverse(), atol=1e-6)
    found = ps.predict(problem.model(bnn), problem.x, guide=laplace, draws=20)
    assert found.mean.shape == (problem.n, 1)


def test_what_it_cannot_be_of_is_refused(classes: Classes, monkeypatch: Any) -> None:
    data = (classes.x, classes.y)

    def of(net: nn.Module, method: Any, *targets: Any) -> Any:
        return ps.classifier(ps.lift(net, method, *targets), 60)

    layer = nn.Linear(4, 3).double()
    with pytest.raises(ValueError, match="another posterior"):
        LastLayerLaplace(of(layer, ps.Gaussian(posterior="normal")), data)
    with pytest.raises(ValueError, match="not lifted"):
        LastLayerLaplace(of(layer, ps.Gaussian()), data)  # without its bias
    after = nn.Sequential(layer, nn.LogSoftmax(-1))
    with pytest.raises(ValueError, match="softmax"):
        LastLayerLaplace(of(after, ps.Gaussian(), ps.weights(after, "*")), data)
    with pytest.raises(TypeError, match="known noise"):
        LastLayerLaplace(ps.regressor(classes.bnn, 60), data)
    with pytest.raises(TypeError, match="must be lifted"):
        LastLayerLaplace(ps.classifier(layer, 60), data)
    with pytest.raises(ValueError, match="'full'"):
        LastLayerLaplace(classes.model, data, structure="whole")  # type: ignore[arg-type]
    frozen = ps.lift(layer, ps.Gaussian(), ps.weights(layer, "*"))
    frozen.freeze(frozen.masks(threshold=1e9))
    with pytest.raises(ValueError, match="frozen"):
        LastLayerLaplace(ps.classifier(frozen, 60), data)
    monkeypatch.setitem(sys.modules, "laplace", None)
    with pytest.raises(ImportError, match="pyrosparse\\[laplace\\]"):
        LastLayerLaplace(classes.model, data)
