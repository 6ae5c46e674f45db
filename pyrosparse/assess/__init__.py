"""What a run came to: its numbers, plots, tables and report; and how robust a network is."""

from pyrosparse.assess.acceleration import Acceleration, acceleration
from pyrosparse.assess.adversarial import adversarial_classifier, adversarial_fine_tune
from pyrosparse.assess.calibration_plots import rank_histograms, reliability_diagram
from pyrosparse.assess.fgsm import (
    Robustness,
    RobustnessRow,
    adversarial_examples,
    fgsm,
    robustness_rows,
)
from pyrosparse.assess.gate_plots import class_correlations, input_regions
from pyrosparse.assess.posterior_plots import gate_forest, gate_posteriors
from pyrosparse.assess.robustness_plots import accuracy_under_attack
from pyrosparse.assess.size_plots import accuracy_by_sparsity
from pyrosparse.assess.summary import Layer, Round, Summary, headline, summarize
from pyrosparse.assess.support_plots import (
    convergence,
    kernels_before_and_after,
    messages,
    supports,
)

__all__ = [
    "Acceleration",
    "Layer",
    "Robustness",
    "RobustnessRow",
    "Round",
    "Summary",
    "acceleration",
    "accuracy_by_sparsity",
    "accuracy_under_attack",
    "adversarial_classifier",
    "adversarial_examples",
    "adversarial_fine_tune",
    "class_correlations",
    "convergence",
    "fgsm",
    "gate_forest",
    "gate_posteriors",
    "headline",
    "input_regions",
    "kernels_before_and_after",
    "messages",
    "rank_histograms",
    "reliability_diagram",
    "robustness_rows",
    "summarize",
    "supports",
]
