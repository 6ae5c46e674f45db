"""Evidence for one network over another: log posteriors, ELBOs, Bayes factors and
model reduction, in nats."""

from pyrosparse.evidence.elbo import ElboEstimate, elbo, elbo_difference
from pyrosparse.evidence.evaluation import evaluate
from pyrosparse.evidence.log_posterior import (
    BayesFactor,
    LogPosterior,
    log_bayes_factor,
    log_posterior,
)
from pyrosparse.evidence.model_reduction import (
    group_reduction,
    model_reduction,
    normal_posteriors,
    reduced_posterior,
    reductions,
)

__all__ = [
    "BayesFactor",
    "ElboEstimate",
    "LogPosterior",
    "elbo",
    "elbo_difference",
    "evaluate",
    "group_reduction",
    "log_bayes_factor",
    "log_posterior",
    "model_reduction",
    "normal_posteriors",
    "reduced_posterior",
    "reductions",
]
