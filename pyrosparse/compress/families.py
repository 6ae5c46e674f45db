"""The methods of ``compress`` in their families, and the options that each one has."""

from __future__ import annotations

from typing import Any

from pyrosparse.prune.bayes_factor import THRESHOLD

PRUNING = {
    "none": "train only: the unpruned network",
    "random": "prune weights at random, ungated",
    "magnitude": "prune the smallest weights, ungated",
    "bayesian-random": "prune at random where the Bayes factor allows (Mathew and Rowe 2023)",
    "bayesian-magnitude": "prune the smallest where the Bayes factor allows (Mathew and Rowe 2023)",
}
GATING = {
    "beta-bernoulli": "close gates on units and inputs, by a sparse prior (Lee et al. 2019)",
    "dependent-beta-bernoulli": "then, in a second stage, input by input (Lee et al. 2019)",
}
EVIDENCE = {
    "mean-field": "train only, with a normal posterior: the unpruned network of model-reduction",
    "model-reduction": "prune weights as far as the evidence goes, to a sparsity nobody chooses",
}
TURBO = {
    "turbo-vbi": "take weights in clusters, and whole units, by messages (Xia et al. 2023)",
    "independent-support": "the prior of turbo-vbi with no structure in it: weight by weight",
}
MASKING = {
    "gibbs": "draw masks in every step, annealed to those of magnitude (Labach and Valaee 2020)",
    "dense": "train as gibbs does, without masks",
    "random-mask": "train as gibbs does, under one random mask from the start",
    "reinitialised": "train what gibbs leaves once more, from new weights",
    "cut": "train as gibbs does, cut by magnitude where its annealing ends, and train on",
    "one-shot": "train as gibbs does, without masks, and cut by magnitude at the end",
    "one-shot-recalibrated": "then take the statistics of batch normalisation anew",
}
METHODS = {**GATING, **TURBO, **MASKING, **PRUNING, **EVIDENCE}

# The options of a family, with its own values; one that is not here is not of the family.
_PRUNING_OWN: dict[str, Any] = {
    "epochs": 30,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "scale": 1.0,
    "sparsity": 0.9,
    "ramp": 0.6,
    "freeze": True,
    "threshold": THRESHOLD,
    "likelihood": "sum",
    "per_datum": True,
}
_GATING_OWN: dict[str, Any] = {
    "epochs": None,
    "batch_size": 100,
    "learning_rate": 2e-3,
    "scale": None,
    "pretrain": None,
    "kl_scale": 1.0,
    "kl_warmup": None,
    "gate_rate": 0.05,
    "temperature": 0.3,
    "pi": "collapsed",
    "initial": 0.95,
}
_EVIDENCE_OWN: dict[str, Any] = {
    "epochs": None,
    "batch_size": 100,
    "learning_rate": 1e-3,
    "scale": 0.3,
    "fraction": 0.5,
    "rows": False,
    "warmup": None,
}
_TURBO_OWN: dict[str, Any] = {
    "epochs": None,
    "batch_size": 128,
    "learning_rate": 1.5e-3,
    "scale": None,
    "pretrain": None,
    "kl_scale": None,
    "active": 0.02,
    "unit_cost": 0.0,
    "least_units": 4,
    "fine_tune": None,
}
_MASKING_OWN: dict[str, Any] = {
    "epochs": 200,
    "batch_size": 128,
    "learning_rate": 1e-3,
    "scale": None,
    "sparsity": 0.9,
    "structure": "weight",
    "coupling": None,
    "beta_start": None,
    "beta_end": None,
    "annealed": 0.64,
    "rate_schedule": "steps",
    "relative": False,
    "final": "draw",
    "augment": None,
    "flip": None,
}

_OF_METHOD: dict[str, dict[str, Any]] = {
    **dict.fromkeys(GATING, _GATING_OWN),
    "dependent-beta-bernoulli": {**_GATING_OWN, "second_epochs": None},
    **dict.fromkeys(TURBO, _TURBO_OWN),
    "independent-support": {
        name: value
        for name, value in _TURBO_OWN.items()
        if name not in ("unit_cost", "least_units")
    },
    **dict.fromkeys(MASKING, _MASKING_OWN),
    **dict.fromkeys(PRUNING, _PRUNING_OWN),
    **dict.fromkeys(EVIDENCE, _EVIDENCE_OWN),
}

OPTIONS = frozenset(name for own in _OF_METHOD.values() for name in own)
"""All that some method has."""


def options_of(method: str) -> dict[str, Any]:
    """The options of a method, with its own values; None is settled by the data or later.

    >>> options_of("model-reduction")["fraction"]
    0.5
    """
    return _OF_METHOD[method]
