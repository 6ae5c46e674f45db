"""What a run came to: its numbers, plots, tables and report; and how robust a network is."""

from pyrosparse.assess.acceleration import Acceleration, acceleration
from pyrosparse.assess.adversarial import adversarial_classifier, adversarial_fine_tune
from pyrosparse.assess.fgsm import (
    Robustness,
    RobustnessRow,
    adversarial_examples,
    fgsm,
    robustness_rows,
)
from pyrosparse.assess.gate_plots import class_correlations, input_regions
from pyrosparse.assess.robustness_plots import accuracy_under_attack
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
    "accuracy_under_attack",
    "adversarial_classifier",
    "adversarial_examples",
    "adversarial_fine_tune",
    "class_correlations",
    "convergence",
    "fgsm",
    "headline",
    "input_regions",
    "kernels_before_and_after",
    "messages",
    "robustness_rows",
    "summarize",
    "supports",
]
