"""Evidence for one network over another: log posteriors, ELBOs and Bayes factors, in nats."""

from pyrosparse.evidence.elbo import ElboEstimate, elbo, elbo_difference
from pyrosparse.evidence.evaluation import evaluate
from pyrosparse.evidence.log_posterior import (
    BayesFactor,
    LogPosterior,
    log_bayes_factor,
    log_posterior,
)

__all__ = [
    "BayesFactor",
    "ElboEstimate",
    "LogPosterior",
    "elbo",
    "elbo_difference",
    "evaluate",
    "log_bayes_factor",
    "log_posterior",
]
