"""Which features pass their gates."""

import pytest
import torch
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.measure.active_features import ActiveFeatures, active_features, mean_counts
from pyrosparse.plots.gate_plots import class_correlations, input_regions


def dependent() -> tuple[nn.Sequential, ps.Lifted]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3)
    )
    first = ps.lift(net, ps.BetaBernoulli(initial=0.6))
    bnn = ps.lift(net, ps.DependentBetaBernoulli(first))
    with torch.no_grad():
        for entry in bnn.guide.entries:
            q = entry.posterior()
            q["shift"].normal_(0.0, 0.5)
            q["_running_mean"].normal_(0.0, 0.3)
    return net, bnn


def data() -> tuple[Tensor, Tensor]:
    return torch.randn(70, 1, 4, 4), torch.arange(70) % 3


def test_it_counts_what_a_naive_loop_counts() -> None:
    net, bnn = dependent()
    bnn.freeze({"3.input": torch.arange(16) % 4 != 0})
    x, y = data()
    found = active_features(bnn, (x, y), classes=3, batch_size=16)
    gates, mask = bnn.gates(), bnn.masks()
    with torch.no_grad():
        for key, value in found.items():
            rows = []
            for datum in x:
                features = datum.unsqueeze(0)
                # The activations up to the gate, with the gates before it.
                for number, layer in enumerate(net):
                    if f"{number}.input" in gates:
                        if key == f"{number}.input":
                            break
                        gate = gates[f"{number}.input"]
                        features = gate(features) * (mask[f"{number}.input"] != 0)
                    features = layer(features)
                    if f"{number}.output" in gates:
                        if key == f"{number}.output":
                            break
                        features = gates[f"{number}.output"](features)
                rows.append(gates[key].gains(features)[0] * (mask[key] != 0))
            gains = torch.stack(rows)
            assert torch.equal(value.union, (gains != 0).any(0))
            assert torch.allclose(value.frequency, (gains != 0).float().mean(0))
            assert value.mean == pytest.approx(float((gains != 0).sum(1).float().mean()), rel=1e-6)
            by_class = torch.stack([gains[y == label].mean(0) for label in range(3)])
            assert torch.allclose(value.class_mean, by_class, atol=1e-6)
            used = by_class[:, value.union]
            assert torch.allclose(
                value.class_correlation().float(), torch.corrcoef(used), atol=1e-4
            )
    assert any(0 < value.mean < int(value.union.sum()) for value in found.values())


def test_gates_that_do_not_depend_on_the_input_pass_as_the_masks_say() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    bnn = ps.lift(net, ps.BetaBernoulli())
    bnn.freeze({"2.input": torch.tensor([True, False, True])})
    found = active_features(bnn, (torch.randn(9, 4),))
    assert torch.equal(found["2.input"].frequency, torch.tensor([1.0, 0.0, 1.0]))
    assert found["2.input"].class_mean is None
    with pytest.raises(ValueError, match="no classes"):
        found["2.input"].class_correlation()
    masks = bnn.masks()
    expected = ps.compact(net, masks, torch.ones(1, 4))
    counts = mean_counts(net, found, torch.ones(1, 4))
    assert counts == ps.report(net, expected, torch.ones(1, 4), batch_sizes=()).paper[1]


def share(passing: int, kept: int, size: int) -> ActiveFeatures:
    """Some features pass always, others of those that are kept for one input in a million."""
    frequency = torch.zeros(size)
    frequency[:kept] = 1e-6
    frequency[:passing] = 1.0
    return ActiveFeatures(frequency, None)


def test_what_an_input_needs_is_counted_from_what_passes_to_what_is_kept() -> None:
    net = ps.networks.lenet_500_300((1, 28, 28), 10)
    active = {
        "fc1.input": share(93, 150, 784),
        "fc2.input": share(35, 98, 500),
        "fc3.input": share(25, 44, 300),
    }
    counts = mean_counts(net, active, torch.zeros(1, 1, 28, 28))
    # Products and sums, biases, and activations but for the last layer's.
    assert counts.flops == (2 * 93 + 1) * 98 + (2 * 35 + 1) * 44 + 2 * 25 * 10
    assert counts.memory == 94 * 98 + 36 * 44 + 26 * 10


def test_convolutions_compute_all_channels_from_those_that_pass() -> None:
    net = ps.networks.lenet5_caffe((1, 28, 28), 10)
    whole = {
        "conv1.output": share(20, 20, 20),
        "conv2.output": share(50, 50, 50),
        "fc1.input": share(800, 800, 800),
        "fc2.input": share(500, 500, 500),
    }
    x = torch.zeros(1, 1, 28, 28)
    all_of_it = mean_counts(net, whole, x)
    assert (all_of_it.flops, all_of_it.memory) == (4_615_940, 477_410)
    fewer = mean_counts(net, whole | {"conv1.output": share(5, 20, 20)}, x)
    # conv2 has 50 channels of 8 x 8 positions, from 5 channels in place of 20.
    assert all_of_it.flops - fewer.flops == 2 * 15 * 25 * 50 * 64
    assert all_of_it.memory - fewer.memory == 15 * 25 * 50 + 15 * 25 * 64


def test_plots_have_a_panel_for_each_target_and_class() -> None:
    _, bnn = dependent()
    found = active_features(bnn, data(), classes=3)
    assert len(class_correlations(found).axes) == len(found) + 1
    assert len(input_regions(found["3.input"], (4, 4)).axes) == 4
    with pytest.raises(ValueError, match="not the pixels"):
        input_regions(found["3.input"], (5, 4))
    with pytest.raises(ValueError, match="no gates to plot"):
        class_correlations({})


def test_networks_without_gates_and_empty_data_are_refused() -> None:
    with pytest.raises(ValueError, match="has no gates"):
        active_features(ps.lift(nn.Linear(2, 2), ps.Gaussian()), data())
    with pytest.raises(ValueError, match="there are no data"):
        active_features(dependent()[1], [])
