"""Predictive probabilities, calibration, out-of-distribution scores and rotation."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.distributions import Normal

import pyrosparse as ps
from pyrosparse.diagnostics import (
    auroc,
    calibration,
    compare_models,
    log_probabilities,
    negative_log_confidence,
    predictive_entropy,
    predictive_quality,
    rotated,
)
from pyrosparse.measure import quality
from tests.nets import batch, mlp


def random_probabilities(n=500, classes=4, scale=2.0):
    return (scale * torch.randn(n, classes, dtype=torch.float64)).log_softmax(1)


class TestLogProbabilities:
    def test_of_a_posterior_they_are_the_mean_of_the_draws(self):
        # Two classes with logits (w x, 0), w normal: the integral of the sigmoid, by quadrature.
        bnn = ps.lift(nn.Linear(1, 2, bias=False), ps.Gaussian(posterior="normal"))
        with torch.no_grad():
            bnn.net.weight.copy_(torch.tensor([[0.5], [0.0]]))
            bnn.guide.posterior.weight.log_scale.copy_(torch.tensor([[1.5], [1e-6]]).log())
        x = torch.tensor([[1.0], [-2.0]])
        grid = torch.linspace(-12, 13, 20001, dtype=torch.float64)
        density = Normal(0.5, 1.5).log_prob(grid).exp()
        expected = [
            float(torch.trapezoid(density * torch.sigmoid(grid * v), grid)) for v in (1.0, -2.0)
        ]
        found = log_probabilities(bnn, x, draws=600)[:, 0].exp()
        assert found.tolist() == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(600))

    def test_of_a_network_they_are_its_log_softmax(self):
        net = mlp()
        x, _ = batch("mlp")
        found = log_probabilities(net, x, batch_size=3)
        assert torch.allclose(found, net(x).double().log_softmax(1), rtol=1e-6)
        point = ps.lift(net, ps.Gaussian())
        assert torch.allclose(log_probabilities(point, x, draws=3), found, rtol=1e-6)

    def test_seeds_repeat_and_the_caller_is_not_disturbed(self):
        bnn = ps.lift(mlp(), ps.Gaussian(posterior="normal", initial_scale=0.5))
        x, _ = batch("mlp")
        state = torch.get_rng_state()
        first, again, other = (log_probabilities(bnn, x, seed=seed) for seed in (0, 0, 1))
        assert torch.equal(first, again) and not torch.equal(first, other)
        assert torch.equal(state, torch.get_rng_state()) and bnn.training

    def test_bad_outputs_are_refused(self):
        with pytest.raises(ValueError, match=r"must give logits \(2, classes\)"):
            log_probabilities(nn.Flatten(0), torch.ones(2, 3))
        with pytest.raises(ValueError, match="NaN or infinite"):
            log_probabilities(nn.Identity(), torch.full((2, 3), torch.nan))
        bnn = ps.lift(mlp(), ps.Gaussian())
        with pytest.raises(ValueError, match="draws must be positive"):
            log_probabilities(bnn, batch("mlp")[0], draws=0)


class TestCalibration:
    def test_equals_a_hand_count(self):
        # Confidences .55 (right), .58 (wrong), .9 (right), .95 (wrong); bins of 1/15:
        # (8/15, 9/15] holds the first two, (13/15, 14/15] the third, (14/15, 1] the last.
        top = torch.tensor([0.55, 0.58, 0.9, 0.95], dtype=torch.float64)
        found = calibration(torch.stack([top, 1 - top], 1).log(), torch.tensor([0, 1, 0, 1]))
        gaps = abs(0.55 + 0.58 - 1) + abs(0.9 - 1) + 0.95
        assert found.ece == pytest.approx(gaps / 4, abs=1e-12)
        assert found.accuracy == 0.5
        expected = 2 * (0.45**2 + 0.58**2 + 0.1**2 + 0.95**2) / 4
        assert found.brier == pytest.approx(expected, abs=1e-12)
        nll = -(math.log(0.55) + math.log(0.42) + math.log(0.9) + math.log(0.05)) / 4
        assert found.nll == pytest.approx(nll, abs=1e-12)
        assert {at: int(count) for at, count in enumerate(found.bin_counts) if count} == {
            8: 2,
            13: 1,
            14: 1,
        }
        assert found.bin_confidence[8] == pytest.approx(0.565) and found.bin_accuracy[8] == 0.5
        assert found.bin_accuracy[0].isnan()

    def test_agrees_with_quality_and_the_diagram_with_the_error(self):
        logs = random_probabilities()
        labels = torch.randint(4, (500,))
        found = calibration(logs, labels)
        judged = quality(nn.Identity(), (logs, labels))
        assert (found.accuracy, found.nll) == pytest.approx((judged.accuracy, judged.nll))
        gaps = (found.bin_counts * (found.bin_accuracy - found.bin_confidence).abs()).nansum() / 500
        assert float(gaps) == pytest.approx(found.ece, abs=1e-12) == pytest.approx(judged.ece)
        assert int(found.bin_counts.sum()) == 500

    def test_labels_drawn_from_the_probabilities_are_calibrated(self):
        logs = random_probabilities(20_000)
        found = calibration(logs, torch.distributions.Categorical(logits=logs).sample())
        # In expectation |mean of m Bernoullis' errors| is at most 0.5 / sqrt(m) in each bin.
        assert found.ece < 0.5 * 15**0.5 / 20_000**0.5 * 2
        # E[Brier] is 1 - sum p^2 then, and E[NLL] the entropy.
        expected = float((1 - logs.exp().square().sum(1)).mean())
        assert found.brier == pytest.approx(expected, abs=0.02)
        assert found.nll == pytest.approx(float(predictive_entropy(logs).mean()), abs=0.03)


class TestOutOfDistribution:
    @pytest.mark.parametrize("digits", [1, 3, None])
    def test_auroc_is_that_of_sklearn(self, digits):
        inside, outside = torch.randn(300), 0.5 + torch.randn(200)
        if digits is not None:  # with ties
            inside, outside = inside.round(decimals=digits - 1), outside.round(decimals=digits - 1)
        labels = torch.cat([torch.zeros(300), torch.ones(200)])
        expected = roc_auc_score(labels, torch.cat([inside, outside]))
        assert auroc(inside, outside) == pytest.approx(expected, abs=1e-12)
        assert auroc(outside, inside) == pytest.approx(1 - expected, abs=1e-12)

    def test_entropy_and_confidence(self):
        logs = random_probabilities()
        expected = torch.distributions.Categorical(logits=logs).entropy()
        assert torch.allclose(predictive_entropy(logs), expected)
        assert torch.allclose(negative_log_confidence(logs), -logs.max(1).values, atol=1e-14)
        sure = torch.tensor([[0.0, -torch.inf], [0.0, -800.0]], dtype=torch.float64)
        assert predictive_entropy(sure).tolist() == [0.0, 0.0]

    def test_confidence_tells_data_apart_that_are_sure_to_rounding(self):
        logits = torch.tensor([[40.0, 0.0], [50.0, 0.0], [60.0, 0.0]], dtype=torch.float64)
        found = negative_log_confidence(logits.log_softmax(1))
        assert found.tolist() == pytest.approx([math.exp(-40), math.exp(-50), math.exp(-60)])

    def test_bad_scores_are_refused(self):
        with pytest.raises(ValueError, match="inside"):
            auroc(torch.zeros(0), torch.zeros(1))
        with pytest.raises(ValueError, match="outside"):
            auroc(torch.zeros(1), torch.tensor([torch.nan]))


class TestRotation:
    @pytest.mark.parametrize("quarter", [0, 1, 2, 3, 4, -1])
    def test_quarter_turns_are_exact(self, quarter):
        x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
        found = rotated(x, 90 * quarter)
        assert torch.allclose(found, torch.rot90(x, quarter, (2, 3)), atol=1e-12)

    def test_half_a_turn_of_an_oblong(self):
        x = torch.randn(1, 1, 4, 7, dtype=torch.float64)
        assert torch.allclose(rotated(x, 180), x.flip(2, 3), atol=1e-12)

    def test_a_line_turns_by_the_angle_in_pixels(self):
        # A plane of slope 1 along the width; within the image bilinear interpolation is exact.
        x = torch.arange(21, dtype=torch.float64).sub(10).expand(1, 1, 11, 21)
        found = rotated(x, 30)[0, 0]
        rows, columns = torch.meshgrid(torch.arange(-2, 3), torch.arange(-2, 3), indexing="ij")
        expected = math.cos(math.pi / 6) * columns - math.sin(math.pi / 6) * rows
        assert torch.allclose(found[3:8, 8:13], expected.double(), atol=1e-9)

    def test_what_is_no_image_is_refused(self):
        with pytest.raises(ValueError, match="must be images"):
            rotated(torch.ones(2, 3), 10)


def test_one_table_of_networks_before_and_after():
    data = ps.data.load("digits")
    torch.manual_seed(0)
    net = ps.networks.fcn(data.image_shape, hidden=(8,))
    bnn = ps.lift(net, ps.Gaussian(posterior="normal"))
    outside = torch.randn_like(data.test.x)
    found = predictive_quality(
        {"posterior": bnn, "mean": net}, data.test, outside=outside, angles=(0, 180), draws=3
    )
    for name, network in (("posterior", bnn), ("mean", net)):
        logs = log_probabilities(network, data.test.x, draws=3)
        expected = calibration(logs, data.test.y)
        assert found[name].calibration.nll == expected.nll
        # A turn by 0 moves nothing but the last bits.
        assert found[name].rotation[0].accuracy == pytest.approx(expected.accuracy, abs=0.003)
        scores = (
            predictive_entropy(logs),
            predictive_entropy(log_probabilities(network, outside, draws=3)),
        )
        assert found[name].ood_auroc == auroc(*scores)
    lines = str(found).splitlines()
    assert lines[0].split()[:4] == ["network", "accuracy", "NLL", "Brier"]
    assert lines[2].startswith("mean ") and len({len(line) for line in lines}) == 1


def test_elpd_is_that_of_the_comparison_of_models():
    data = ps.data.load("digits")
    torch.manual_seed(0)
    bnn = ps.lift(
        ps.networks.fcn(data.image_shape, hidden=(8,)),
        ps.Gaussian(posterior="normal", initial_scale=0.3),
    )
    (row,) = compare_models({"one": (bnn, ps.classifier(bnn, 10))}, data.test, draws=4, seed=3).rows
    found = predictive_quality({"one": bnn}, data.test, draws=4, seed=3)["one"]
    assert (found.elpd, found.elpd_se) == pytest.approx((row.elpd, row.se), rel=1e-5)
    assert found.elpd == pytest.approx(-len(data.test) * found.calibration.nll, rel=1e-9)
