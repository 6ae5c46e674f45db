"""What a run's predictive probabilities are worth, on its test data and on outside data."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from pyrosparse import data as data_sets
from pyrosparse.diagnostics import PredictiveQuality, log_probabilities, predictive_quality
from pyrosparse.evidence import normal_posteriors
from pyrosparse.evidence.given import AnyDraw
from pyrosparse.measure import regression_quality
from pyrosparse.measure.report import point_quality
from pyrosparse.models import around, guide_of
from pyrosparse.prediction import ClassPrediction, conformal
from pyrosparse.recipes.named import load_data
from pyrosparse.recipes.result import Result
from pyrosparse.recipes.setup import Setup

COVERAGE = 0.9
"""What conformal sets are asked for, calibrated on the validation data."""
DRAWS = 100
"""Draws of a posterior: elpd is too low with few, and an ``fcn`` needs seconds for these."""
ANGLES = (15.0, 30.0, 45.0, 60.0)
"""Degrees that test images are rotated by, without which the networks were trained."""


def outside_inputs(setup: Setup, outside: str) -> Tensor:
    """The test inputs of another data set, with its pixels in the units of the run's own data.

    outside: a name of ``data.names()``, or a folder of images.

    Returns (m, C, H, W) float32. Raises ValueError if its images have another shape than the
    run's, and what ``data.load`` raises.

    >>> own = data_sets.load("digits").test.x
    >>> torch.allclose(outside_inputs(Setup(), "digits"), own, atol=1e-6)
    True
    """
    own = load_data(setup)
    size = None if outside in data_sets.names() else setup.size
    x = data_sets.load(outside, size=size, validation=0, normalise="unit").test.x
    if tuple(x.shape[1:]) != own.image_shape:
        raise ValueError(
            f"data outside {setup.dataset} must be images {own.image_shape} as well; those of "
            f"{outside} are {tuple(x.shape[1:])}: name another data set"
        )
    if own.bounds is None:
        raise ValueError(
            f"the data of {setup.dataset} are not images, so `outside` cannot be "
            "used: remove it from the suite"
        )
    black, white = own.bounds
    return (black + (white - black) * x).to(setup.device)


def predictive(result: Result, outside: str, x: Tensor, *, seed: int) -> dict[str, Any]:
    """The predictive quality of a run on its test data, with outside data beside them; JSON values.

    outside: the name of the data x, (m, ...), as of ``outside_inputs``.

    ``network`` is the network as it predicts with its weights; where there is a normal posterior,
    ``posterior`` averages its probabilities over ``draws`` of it. Each has accuracy, NLL (nats per
    datum), Brier score, ECE, elpd with its standard error (nats), the AUROC of the predictive
    entropy, and by angle the accuracy, NLL and ECE on the test images rotated; where there are
    validation data, the coverage and mean size on the test data of conformal sets calibrated on
    them; and ``log_density``, the log predictive density of every test datum, as of ``packed``.
    """
    networks: dict[str, torch.nn.Module] = {"network": result.whole}
    guides = {}
    if result.guide is not guide_of(result.model, result.posterior):  # made after the training
        networks["posterior"], guides["posterior"] = result.posterior, result.guide
    with suppress(ValueError):  # of other posteriors
        normal_posteriors(result.posterior)
        networks["posterior"] = result.posterior
    options: dict[str, Any] = {"draws": DRAWS, "seed": seed}
    test, held_out = result.data.test, result.data.validation
    turned: dict[str, Any] = {"angles": ANGLES} if test.x.dim() == 4 else {}
    found = predictive_quality(networks, test, outside=x, guide=guides, **turned, **options)
    figures: dict[str, Any] = {name: _figures(one) for name, one in found.items()}
    for name, network in networks.items() if held_out is not None else ():
        both = [
            ClassPrediction(
                log_probabilities(network, one.x, guide=guides.get(name), **options)[None]
            )
            for one in (held_out, test)
        ]
        sets = conformal(both[0], held_out.y, coverage=COVERAGE)
        covered = sets.covers(both[1], test.y).double().mean()
        size = sets(both[1]).sum(1).double().mean()
        figures[name] |= {"conformal_coverage": float(covered), "conformal_size": float(size)}
    if "posterior" in figures:
        figures["posterior"]["draws"] = DRAWS
    return {"outside": outside, **figures}


def predictive_of_values(result: Result, scale: float, *, seed: int) -> dict[str, Any]:
    """The predictive quality of a run that predicts values on its test data; JSON values.

    scale: what a target was divided by; the figures are in the targets' own unit.

    ``network`` predicts at its weights (not of draws by a sampler, whose mean is no network),
    ``posterior`` averages over ``draws``, where there is a normal posterior or a sampler's draws.
    """
    ways: dict[str, Any] = {}
    sampled = isinstance(result.guide, AnyDraw)
    if not sampled:
        ways["network"] = point_quality(around(result.model, result.whole), result.data.judged)
    with suppress(ValueError):  # of other posteriors
        if not sampled:
            normal_posteriors(result.posterior)
        options: dict[str, Any] = {"draws": DRAWS, "seed": seed}
        ways["posterior"] = regression_quality(
            result.model, result.guide, result.data.judged, **options
        )
    found: dict[str, Any] = {}
    for name, one in ways.items():
        one = one.scaled(scale)
        found[name] = one.figures() | {
            "elpd": one.elpd,
            "elpd_se": one.elpd_se,
            "log_density": packed(one.log_density),
        }
    if "posterior" in found:
        found["posterior"]["draws"] = DRAWS
    return found


def _figures(found: PredictiveQuality) -> dict[str, Any]:
    judged = found.calibration
    return {
        "accuracy": judged.accuracy,
        "nll": judged.nll,
        "brier": judged.brier,
        "ece": judged.ece,
        "elpd": found.elpd,
        "elpd_se": found.elpd_se,
        "ood_auroc": found.ood_auroc,
        "rotated": {
            f"{angle:g}": {"accuracy": one.accuracy, "nll": one.nll, "ece": one.ece}
            for angle, one in found.rotation.items()
        },
        "log_density": packed(found.log_density),
    }


def packed(values: Tensor) -> str:
    """Numbers (n,) as base64 of little-endian float16: three digits of each, in 2.7 n characters.

    >>> unpacked(packed(torch.tensor([-0.5, -2.0])))
    tensor([-0.5000, -2.0000], dtype=torch.float64)
    """
    return base64.b64encode(values.numpy().astype("<f2").tobytes()).decode()


def unpacked(text: str) -> Tensor:
    """The numbers that ``packed`` was given, (n,) float64, to three digits."""
    raw = bytearray(base64.b64decode(text))
    return torch.frombuffer(raw, dtype=torch.float16).double()
