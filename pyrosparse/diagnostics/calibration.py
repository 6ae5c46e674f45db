"""Calibration: does the confidence of predictions equal their accuracy?"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from pyrosparse.measure.quality import Tally


@dataclass(frozen=True)
class Calibration:
    """Scores of predictive probabilities of classes.

    accuracy:       the share of data whose most probable class is correct.
    nll:            the mean negative log probability of the correct class, nats per datum.
    brier:          mean squared distance of the probabilities from the correct class, in [0, 2].
    ece:            the expected calibration error, with 15 bins, in [0, 1].
    bin_counts:     the number of data in each bin of confidence, (bins,) int64.
    bin_confidence: their mean confidence, (bins,) float64; NaN in empty bins.
    bin_accuracy:   the share of them classified correctly, (bins,) float64; NaN in empty bins.
    """

    accuracy: float
    nll: float
    brier: float
    ece: float
    bin_counts: Tensor
    bin_confidence: Tensor
    bin_accuracy: Tensor

    def __repr__(self) -> str:
        return (
            f"Calibration of {int(self.bin_counts.sum())} data: accuracy {self.accuracy:.4f}, NLL "
            f"{self.nll:.4f} nats, Brier score {self.brier:.4f}, ECE {self.ece:.4f}"
        )


def calibration(log_probabilities: Tensor, labels: Tensor) -> Calibration:
    r"""Accuracy, negative log likelihood, Brier score and calibration of predictive probabilities.

    .. math:: \mathrm{Brier} = \frac{1}{N} \sum_{i=1}^{N} \sum_{c} (p_{ic} - [y_i = c])^2

    and the ECE of ``pyrosparse.measure.quality``; the bins are those of a reliability diagram.
    A lower ECE alone does not make a better network: one that always predicts the class frequencies
    has an ECE of 0. The log likelihood and the Brier score are proper: the true probabilities have
    the best expected score.

    log_probabilities: (n, classes), nats, from ``pyrosparse.diagnostics.log_probabilities``.
    labels:            the classes, (n,) int64.

    Raises ValueError as ``quality`` does, if labels are not classes.

    Source: Brier (1950), "Verification of forecasts expressed in terms of probability", eq. 2.

    >>> import torch
    >>> coin = torch.tensor([[0.5, 0.5]]).log()
    >>> found = calibration(coin.expand(4, 2), torch.tensor([0, 0, 1, 1]))
    >>> found.brier, found.ece
    (0.5, 0.0)
    """
    tally = Tally.of(nn.Identity(), (log_probabilities, labels), batch_size=len(labels))
    judged = tally.quality()
    logs = log_probabilities.detach().cpu().double().log_softmax(1)
    target = nn.functional.one_hot(labels.cpu(), logs.shape[1])
    brier = (logs.exp() - target).square().sum(1).mean()
    return Calibration(
        judged.accuracy,
        judged.nll,
        float(brier),
        judged.ece,
        tally.counts.long(),
        tally.confidence / tally.counts,
        tally.right / tally.counts,
    )
