"""Slab and spike, placed by a sample and the weights that it leaves open, as by all weights."""

import pytest
import torch

import pyrosparse as ps
from pyrosparse.methods.gamma_spike_and_slab import GammaSpikeAndSlab
from pyrosparse.prune.turbo import rates
from pyrosparse.prune.turbo.rates import find_log_rate

LOW, HIGH = -16.0, 2.0


def parts(likelihood: str) -> list:
    torch.manual_seed(0)
    layers = torch.nn.Linear(60, 50), torch.nn.Linear(50, 40)
    net = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1]).double()
    bnn = ps.lift(net, GammaSpikeAndSlab(likelihood=likelihood))
    for entry in bnn.guide.entries:
        q = entry.posterior()
        q["_weight_messages"].copy_(torch.randn_like(q["loc"]))
        if likelihood == "curvature":
            q["_curvature"].copy_(torch.rand_like(q["loc"]) * 1e4)
    bnn.freeze(ps.Masks({"0.weight": torch.rand(50, 60) < 0.9}))
    return [(entry, entry.method) for entry in bnn.guide.entries]


@pytest.mark.parametrize("likelihood", ["point", "curvature", "activations"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.95])
def test_the_rate_is_that_of_all_weights(
    likelihood: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = parts(likelihood)
    before = [{name: value.clone() for name, value in e.posterior().items()} for e, _ in found]
    looked = []
    count = rates._count

    def counted(weights: list, rate: float) -> int:
        looked.append(sum(part.mask.numel() for part in weights))
        return count(weights, rate)

    monkeypatch.setattr(rates, "_count", counted)
    whole = find_log_rate(found, share * 5000, LOW, HIGH, None)
    assert looked == [5000] * 20
    looked.clear()
    monkeypatch.setattr(rates, "SAMPLE", 500)
    assert find_log_rate(found, share * 5000, LOW, HIGH, None) == whole
    # Two looks at all weights aside, which are not counted here.
    assert max(looked) < 5000 and len(looked) > 20
    for (entry, _), old in zip(found, before, strict=True):
        for name, value in entry.posterior().items():
            assert torch.equal(value, old[name])


def test_a_misleading_sample_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = parts("point")
    whole = find_log_rate(found, 500, LOW, HIGH, None)
    monkeypatch.setattr(rates, "SAMPLE", 500)
    monkeypatch.setattr(rates, "_ERRORS", -1.0)
    assert find_log_rate(found, 500, LOW, HIGH, None) == whole


def test_a_share_beyond_the_ends_is_at_an_end() -> None:
    found = parts("point")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rates, "SAMPLE", 500)
        assert find_log_rate(found, 0, LOW, -10.0, None) == -10.0
        low = find_log_rate(found, 5000, -1.0, HIGH, None)
    assert low == pytest.approx(-1.0, abs=1e-4)
