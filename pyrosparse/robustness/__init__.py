"""Robustness of networks to adversarial examples."""

from pyrosparse.robustness.adversarial import adversarial_classifier, adversarial_fine_tune
from pyrosparse.robustness.fgsm import (
    Robustness,
    RobustnessRow,
    adversarial_examples,
    fgsm,
    robustness_rows,
)

__all__ = [
    "Robustness",
    "RobustnessRow",
    "adversarial_classifier",
    "adversarial_examples",
    "adversarial_fine_tune",
    "fgsm",
    "robustness_rows",
]
