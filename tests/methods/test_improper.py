"""A method whose prior is improper, as a user would write it: the lasso with a point estimate."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
from torch import Tensor

import pyrosparse as ps
from pyrosparse.distributions import Penalty, Point
from pyrosparse.lifting.method import Posterior
from tests.method_case import MethodCase


@dataclass(frozen=True)
class Lasso(ps.Method):
    rate: float = 1.0
    proper: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ValueError("rate must be positive")

    def init(self, target: ps.Target) -> dict[str, Tensor]:
        assert target.value is not None
        return {"loc": target.value}

    def prior(self, target: ps.Target, q: Posterior, x: Tensor | None) -> Tensor:
        return pyro.sample(target.site, Penalty(lambda w: -self.rate * w.abs(), q["loc"]))

    def guide(self, target: ps.Target, q: Posterior, x: Tensor | None) -> Tensor:
        return pyro.sample(target.site, Point(q["loc"]))

    def score(self, target: ps.Target, q: Posterior) -> Tensor:
        return q["loc"].abs()

    def mean(self, target: ps.Target, q: Posterior, x: Tensor | None) -> Tensor:
        return q["loc"]


class TestLasso(MethodCase):
    bad: ClassVar[list[dict[str, Any]]] = [{"rate": 0.0}]
    recovery_threshold = 0.5

    def make(self, **options: Any) -> ps.Method:
        return Lasso(**options)
