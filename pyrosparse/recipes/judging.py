"""How well the networks of a run predict, and by which scores that is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyro.poutine as poutine
import torch
from torch import Tensor, nn

from pyrosparse.evidence import evaluate
from pyrosparse.evidence.sites import observed_sites
from pyrosparse.evidence.traces import evaluation_mode
from pyrosparse.measure import (
    LanguageQuality,
    Quality,
    RegressionQuality,
    perplexity,
    predicts_values,
    quality,
)
from pyrosparse.measure.report import point_quality
from pyrosparse.models import classifier, distill, language_model
from pyrosparse.models.calls import named_output, tensor_names
from pyrosparse.models.latents import ModelGuide
from pyrosparse.recipes.job import Job
from pyrosparse.util.generators import generators_left_alone


@dataclass(frozen=True)
class Judging:
    """How the networks of a job are judged on its test data.

    predicts: ``classes``, one for each datum, ``tokens``, ``values``, or ``other``, such as classes
              in an order or of each pixel.
    output:   the name of what networks give, as in the model; None where they give a tensor.
    """

    job: Job
    predicts: Literal["classes", "tokens", "values", "other"]
    output: str | None

    @classmethod
    def of(cls, job: Job, net: nn.Module) -> Judging:
        """How networks like this one are judged."""
        model = job.model(net)
        output = getattr(model, "output", None)
        if isinstance(model, language_model):
            return cls(job, "tokens", output)
        if isinstance(model, distill):
            return cls(job, "classes", output)
        with (
            generators_left_alone(),
            torch.no_grad(),
            evaluation_mode(net),
            poutine.block(),
        ):
            sites = observed_sites(poutine.trace(model).get_trace(*job.data.batch))
        if isinstance(model, classifier):
            return cls(job, "other" if sites[0]["fn"].event_dim else "classes", output)
        values = len(sites) == 1 and predicts_values(sites[0]["fn"])
        return cls(job, "values" if values else "other", output)

    @property
    def reported(self) -> dict[str, Any]:
        """The arguments of ``report`` by which it judges: none where it cannot."""
        if self.predicts == "other":
            return {}
        told: dict[str, Any] = {"data": self.job.data.judged}
        if self.predicts == "values":
            return told | {"model": self.job.model}
        return told | {"output": self.output, "judge": self._judge}

    def scores(self, net: nn.Module) -> Mapping[str, float]:
        """The scores of a network by name."""
        data = self.job.data.judged
        if self.predicts in ("classes", "tokens"):
            return figures(self._judge(net, data, output=self.output))
        model = self.job.model(net)
        if self.predicts == "values":
            return figures(point_quality(model, data))
        own = getattr(model, "guide", None)
        return evaluate(model, own if isinstance(own, ModelGuide) else _no_guide, data)

    @property
    def _judge(self) -> Any:
        return perplexity if self.predicts == "tokens" else quality


def figures(found: Quality | LanguageQuality | RegressionQuality) -> Mapping[str, float]:
    """What was found of a network, as scores by name."""
    return asdict(found) if isinstance(found, Quality) else found.figures()


def check_output(model: Any, result: Any) -> None:
    """Refuse what a network gives where its model takes something else, before it is trained.

    Raises ValueError if it gives no tensor, or none of the name that the model has."""
    if not hasattr(model, "output"):  # a model of the user's own
        return
    if model.output is None and not isinstance(result, Tensor):
        names = tensor_names(result)
        what = f"the network gives no tensor but {type(result).__name__}"
        if not names:
            raise ValueError(f"{what}: wrap it in a module that returns the prediction")
        name = "logits" if "logits" in names else names[0]
        raise ValueError(
            f"{what} with {', '.join(names)}: say what it predicts and which "
            f"tensor that is. Classes: model=lambda f, n: ps.classifier(f, n, output={name!r}); "
            "ps.language_model for the next token, ps.regressor for values"
        )
    try:
        named_output(result, model.output)
    except TypeError as error:
        raise ValueError(str(error)) from error


def _no_guide(*_: Any) -> None:
    """The guide of a network whose weights are what they are."""
