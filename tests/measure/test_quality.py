"""Accuracy, likelihood and calibration of classifiers, against a plain loop."""

import math
from dataclasses import astuple

import pytest
import torch
from torch import nn

from pyrosparse.data import Examples
from pyrosparse.measure.quality import Quality, quality


def by_loop(logits: torch.Tensor, labels: torch.Tensor) -> Quality:
    """The definitions, a datum at a time."""
    right, nll, bins = 0, 0.0, [[] for _ in range(15)]
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        total = sum(math.exp(z - max(row)) for z in row)
        probabilities = [math.exp(z - max(row)) / total for z in row]
        confidence = max(probabilities)
        hit = probabilities.index(confidence) == label
        right += hit
        nll -= math.log(probabilities[label])
        for b in range(15):
            if b / 15 < confidence <= (b + 1) / 15:
                bins[b].append((hit, confidence))
    n, ece = len(labels), 0.0
    for members in bins:
        if members:
            accuracy = sum(hit for hit, _ in members) / len(members)
            mean = sum(c for _, c in members) / len(members)
            ece += len(members) / n * abs(accuracy - mean)
    return Quality(right / n, nll / n, ece)


def close(found: Quality, expected: Quality) -> bool:
    return astuple(found) == pytest.approx(astuple(expected), rel=1e-9)


@pytest.mark.parametrize("classes, scale", [(2, 0.3), (10, 1.0), (10, 8.0), (3, 0.0)])
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_agrees_with_a_loop(classes: int, scale: float, batch_size: int) -> None:
    torch.manual_seed(0)
    logits, labels = scale * torch.randn(200, classes), torch.randint(classes, (200,))
    found = quality(nn.Identity(), (logits, labels), batch_size=batch_size)
    assert close(found, by_loop(logits, labels))


def test_known_answers() -> None:
    sure = torch.tensor([[50.0, -50.0]]).expand(4, 2)
    half = quality(nn.Identity(), (sure, torch.tensor([0, 0, 1, 1])))
    assert half.accuracy == 0.5
    assert half.ece == pytest.approx(0.5)
    assert half.nll == pytest.approx(50.0)
    # A coin that says it is one: right half the time, and calibrated.
    coin = quality(nn.Identity(), (torch.zeros(4, 2), torch.tensor([0, 0, 1, 1])))
    assert coin == Quality(0.5, pytest.approx(math.log(2)), 0.0)


def test_the_likelihood_of_a_sure_network_is_not_rounded_away() -> None:
    right = quality(nn.Identity(), (torch.tensor([[40.0, 0.0]]), torch.tensor([0])))
    assert right.nll == pytest.approx(math.exp(-40), rel=1e-2)


def test_examples_loaders_and_several_inputs() -> None:
    torch.manual_seed(0)
    # In float64: a matrix product is rounded by the size of its batch, on some processors.
    net, x = nn.Linear(4, 3).double(), torch.randn(30, 4, dtype=torch.float64)
    y = torch.randint(3, (30,))
    expected = quality(net, (x, y))
    assert close(quality(net, Examples(x, y), batch_size=8), expected)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=11)
    assert close(quality(net, loader), expected)
    both = quality(nn.Bilinear(4, 4, 3).double(), (x, x, y))
    assert 0 <= both.accuracy <= 1


def test_evaluation_mode_and_the_modes_restored() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.9), nn.BatchNorm1d(4).eval())
    statistics = net[2].running_mean.clone()
    data = (torch.randn(64, 4), torch.randint(4, (64,)))
    assert quality(net, data) == quality(net, data)
    assert net.training and net[1].training and not net[2].training
    assert torch.equal(net[2].running_mean, statistics)
    with pytest.raises(ValueError, match="labels"):
        quality(net, (data[0], data[1][:, None]))
    assert net.training and net[1].training and not net[2].training


@pytest.mark.parametrize(
    "output, labels, message",
    [
        (torch.zeros(4, 3), torch.zeros(4, 1, dtype=torch.int64), r"classes, int64 \(N,\)"),
        (torch.zeros(4, 3), torch.zeros(4), "float32"),
        (torch.zeros(4, 3), torch.zeros(3, dtype=torch.int64), "differ in length"),
        (torch.zeros(4, 3), torch.tensor([0, 1, 2, 3]), r"classes 0\.\.2"),
        (torch.zeros(4, 3), torch.tensor([0, 1, 2, -100]), "-100"),
        (torch.zeros(4), torch.zeros(4, dtype=torch.int64), r"must give logits \(N, classes\)"),
        (torch.zeros(4, 3, 2), torch.zeros(4, dtype=torch.int64), r"\(4, 3, 2\)"),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), "no data"),
    ],
)
def test_wrong_data(output: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quality(nn.Identity(), (output, labels))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_outputs_that_are_not_finite(bad: float) -> None:
    logits = torch.zeros(4, 3)
    logits[2, 1] = bad
    with pytest.raises(ValueError, match="Identity gives NaN or infinity for 1 of the 4"):
        quality(nn.Identity(), (logits, torch.zeros(4, dtype=torch.int64)))


def test_what_is_no_data() -> None:
    with pytest.raises(ValueError, match="without the classes"):
        quality(nn.Identity(), torch.zeros(3))
    with pytest.raises(ValueError, match="tuple of tensors"):
        quality(nn.Identity(), (torch.zeros(3, 2),))
    with pytest.raises(ValueError, match="batch_size"):
        quality(nn.Identity(), (torch.zeros(1, 2), torch.tensor([0])), batch_size=0)
    with pytest.raises(ValueError, match="no data"):
        quality(nn.Identity(), iter([]))
