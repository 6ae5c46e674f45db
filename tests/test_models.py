"""The ready Pyro models."""

import pyro.poutine as poutine
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal

import pyrosparse as ps


def log_likelihood(model, *batch) -> torch.Tensor:
    trace = poutine.trace(model).get_trace(*batch)
    trace.compute_log_prob()
    return trace.nodes["y"]["log_prob_sum"]


def test_classifier_scores_a_minibatch_scaled_to_all_data():
    net, x, y = nn.Linear(4, 3), torch.randn(5, 4), torch.tensor([0, 1, 2, 2, 1])
    expected = -F.cross_entropy(net(x), y, reduction="sum") * 20 / 5
    assert torch.allclose(log_likelihood(ps.classifier(net, 20), x, y), expected)


@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 2)])
def test_regressor_scores_a_minibatch_scaled_to_all_data(shape):
    mean, y = torch.randn(shape), torch.randn(shape)
    expected = Normal(mean, 0.3).log_prob(y).sum() * 20 / 5
    model = ps.regressor(lambda x: mean, 20, noise=0.3)
    assert torch.allclose(log_likelihood(model, torch.zeros(5, 1), y), expected)


def test_labels_are_drawn_where_none_are_given():
    net, x = nn.Linear(4, 3), torch.randn(5, 4)
    assert ps.classifier(net, 5)(x).shape == (5,)
    assert ps.regressor(net, 5, noise=0.1)(x).shape == (5, 3)


def test_regressor_takes_several_inputs_and_its_means_by_name():
    net = lambda ids, past=None, mask=None: {"values": ids * mask, "hidden": ids}  # noqa: E731
    ids, mask, y = torch.randn(5, 2), torch.rand(5, 2), torch.randn(5, 2)
    model = ps.regressor(net, 20, noise=0.3, output="values")
    expected = Normal(ids * mask, 0.3).log_prob(y).sum() * 20 / 5
    for batch in ((ids, None, mask, y), model.from_names({"y": y, "mask": mask, "ids": ids})):
        assert torch.allclose(log_likelihood(model, *batch), expected)
    with pytest.raises(TypeError, match="no tensor 'means'; it has: values, hidden"):
        ps.regressor(net, 20, noise=0.3, output="means")(ids, None, mask, y)


def test_regressor_refuses_to_broadcast():
    model = ps.regressor(nn.Linear(4, 1), 5, noise=0.1)
    with pytest.raises(ValueError, match=r"\(5,\).*\(5, 1\)"):
        model(torch.zeros(5, 4), torch.zeros(5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_labels_that_are_no_whole_numbers_are_refused(dtype: torch.dtype) -> None:
    labels = torch.tensor([0, 1, 1]).to(dtype)
    with pytest.raises(ValueError, match=r"labels are classes, int64: give y\.long\(\)"):
        ps.classifier(torch.nn.Linear(4, 2), 3)(torch.ones(3, 4), labels)


@pytest.mark.parametrize("n", [0, -1, 1.5])
def test_number_of_data_must_be_a_positive_whole_number(n):
    with pytest.raises(ValueError, match="n, the number of data"):
        ps.classifier(nn.Linear(4, 3), n)


@pytest.mark.parametrize("noise", [0.0, -1.0, float("nan")])
def test_noise_must_be_positive(noise):
    with pytest.raises(ValueError, match="noise"):
        ps.regressor(nn.Linear(4, 1), 5, noise=noise)


def test_classes_of_each_pixel_along_any_dimension() -> None:
    torch.manual_seed(0)
    x, net = torch.randn(6, 1, 4, 5), nn.Conv2d(1, 3, 1)
    y = torch.randint(0, 3, (6, 4, 5))
    bnn = ps.lift(net, ps.Gaussian())
    model = ps.classifier(bnn, n=12, class_dim=1)
    drawn = poutine.trace(bnn.guide).get_trace(x)
    trace = poutine.trace(poutine.replay(model, drawn)).get_trace(x, y)
    trace.compute_log_prob()
    # The plate scales six of twelve data by two.
    expected = -2 * nn.functional.cross_entropy(net(x), y, reduction="sum")
    torch.testing.assert_close(trace.nodes["y"]["log_prob_sum"], expected)
    assert model(x).shape == y.shape
    with pytest.raises(ValueError, match="classes on dimension 1: give classifier"):
        ps.classifier(bnn, n=12)(x, y)


def test_maps_of_classes_are_compressed_and_scored_in_their_model() -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 1, 4, 4)
    y = (x[:, 0] > 0).long()
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    recipe = ps.recipes.Magnitude(epochs=30, learning_rate=0.02, sparsity=0.3)
    result = ps.compress(
        net,
        (x, y),
        recipe,
        model=lambda bnn, n: ps.classifier(bnn, n, class_dim=1),
        test=(x, y),
        progress=False,
    )
    assert result.small is not None
    with torch.no_grad():
        right = (result.small(x).argmax(1) == y).double().mean()
    assert result.quality["accuracy"] == pytest.approx(float(right), abs=1e-6)
    assert right > 0.9
