"""A user's own prior, written as one Pyro function."""

from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyrosparse as ps
from tests.method_case import MethodCase


@dataclass(frozen=True)
class LaplacePrior:
    scale: float = 0.3

    def __call__(self, target: ps.Target) -> Tensor:
        assert target.value is not None
        zeros = torch.zeros_like(target.value)
        return pyro.sample(target.site, dist.Laplace(zeros, self.scale).to_event(zeros.dim()))


class TestLaplace(MethodCase):
    bad = [{"initial_scale": 0.0}, {"initial_scale": -1.0}]  # noqa: RUF012

    def make(self, **options: Any) -> ps.Method:
        return ps.from_pyro(LaplacePrior(), **options)


def sample_normal(name: str, shape: tuple[int, ...]) -> Tensor:
    return pyro.sample(name, dist.Normal(torch.zeros(shape), 1.0).to_event(len(shape)))


def positive_weight(target: ps.Target) -> Tensor:
    ones = torch.ones(target.shape)
    return pyro.sample(target.site, dist.LogNormal(0 * ones, ones).to_event(2))


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda target: sample_normal("elsewhere", target.shape), "elsewhere"),
        (lambda target: sample_normal(target.site, (1, 1)), "shape"),
        (lambda target: pyro.sample(target.site, dist.Normal(torch.zeros(2, 3), 1)), "to_event"),
        (
            lambda target: pyro.sample(
                target.site, dist.Bernoulli(torch.full((2, 3), 0.5)).to_event(2)
            ),
            "discrete",
        ),
        (lambda target: None, "NoneType"),
        # The location is the network's own weight: the mean would be that of its logarithm.
        (positive_weight, "real"),
    ],
)
def test_priors_that_cannot_be_guided_are_refused(fn, message: str):
    with pytest.raises(ValueError, match=message):
        ps.lift(nn.Linear(3, 2), ps.from_pyro(fn))


def test_own_score_and_threshold_decide():
    def above(target: ps.Target, q) -> Tensor:
        return q["loc"]

    net = nn.Linear(3, 2)
    bnn = ps.lift(net, ps.from_pyro(LaplacePrior(), score=above, threshold=0.1))
    assert torch.equal(bnn.masks()["weight"], net.weight >= 0.1)


def test_prior_that_is_a_plain_dataclass_works():
    @dataclass
    class Plain:  # not frozen, so Python gives it no hash
        scale: float

        def __call__(self, target: ps.Target) -> Tensor:
            return LaplacePrior(self.scale)(target)

    bnn = ps.lift(nn.Linear(3, 2), ps.from_pyro(Plain(0.1)))
    assert bnn(torch.ones(1, 3)).shape == (1, 2)
