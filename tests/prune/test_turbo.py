"""Turbo-VBI: exchanges of messages, training with them, and what is left at the end."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.infer import Callback, schedules
from pyrosparse.prune import MessageExchange, TurboPruner
from pyrosparse.prune.turbo.curvature import curvature
from pyrosparse.supports import Chain, UnitFactor
from tests.prune.turbo_case import N, data, lifted, mlp


def train(bnn: ps.Lifted, turbo: TurboPruner, **options) -> ps.infer.Fit:
    defaults = {"epochs": 6, "batch_size": 20, "learning_rate": 0.01, "progress": False}
    return ps.fit(
        ps.classifier(bnn, N), bnn.guide, data(), callbacks=[turbo], **(defaults | options)
    )


def same(one: nn.Module, two: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# Exchange


@pytest.mark.parametrize("posterior", ["structured", "mean-field"])
@pytest.mark.parametrize("likelihood", ["point", "activations"])
def test_log_odds_are_messages_and_evidence(posterior, likelihood):
    bnn = lifted(posterior=posterior, likelihood=likelihood)
    exchange = MessageExchange(bnn)
    exchange()
    for entry in bnn.guide.entries:
        q, method = entry.posterior(), entry.method
        said = method.prior_log_odds(q) + method.evidence(q)
        inside = said.abs() < 25
        torch.testing.assert_close(said[inside], q["_log_odds"][inside], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(bnn.scores()[entry.target.key], said)
        messages = method.support.messages(exchange.snapshot(entry.target.key)["evidence log-odds"])
        assert messages.numel() == said.numel()


def test_the_sum_product_hears_the_evidence_alone():
    """What goes out is extrinsic: exchanges with the same weights change nothing more."""
    bnn = lifted(support=Chain((0.2, 0.3)))
    exchange = MessageExchange(bnn)
    first = exchange()
    before = copy.deepcopy(bnn.state_dict())
    assert first["change"] > 0
    assert exchange()["change"] == 0
    assert all(torch.equal(value, before[key]) for key, value in bnn.state_dict().items())
    for entry in bnn.guide.entries:
        q = entry.posterior()
        expected = entry.method.support.messages(entry.method.evidence(q))
        torch.testing.assert_close(q["_weight_messages"], expected)


def test_messages_survive_the_state_dict():
    def made() -> tuple[ps.Lifted, MessageExchange]:
        bnn = lifted()
        return bnn, MessageExchange(bnn, units=UnitFactor(cost=1.0), example=(torch.ones(1, 6),))

    bnn, exchange = made()
    for _ in range(3):
        exchange(active=0.4, contrast=50.0)
    other, second = made()
    assert not same(bnn, other)
    other.load_state_dict(bnn.state_dict())
    assert exchange(active=0.35) == second(active=0.35)
    assert same(bnn, other)


@pytest.mark.parametrize("units", [None, UnitFactor()])
def test_slab_and_spike_go_where_the_share_is(units):
    bnn = lifted(mlp(40))
    exchange = MessageExchange(bnn, units=units, example=(torch.ones(1, 6),))
    for active in (0.5, 0.45, 0.4):
        record = exchange(active=active, contrast=200.0)
        assert record["active"] <= active + 1e-9
        if units is None:
            assert record["active"] > active - 0.02
        for entry in bnn.guide.entries:
            q = entry.posterior()
            torch.testing.assert_close(q["_slab_rate"] / q["_spike_rate"], torch.tensor(200.0))
            assert float(q["_slab_rate"]) == pytest.approx(record["slab_rate"])


def test_slab_and_spike_take_the_variance_along_that_follows_them():
    bnn = lifted(mlp(40), likelihood="curvature")
    exchange = MessageExchange(bnn)
    x, y = data()
    model = ps.classifier(bnn, N)
    for active in (0.5, 0.4, 0.3, 0.3):
        exchange.estimate_curvature(model, (x, y), examples=N, seed=0)
        record = exchange(active=active, contrast=200.0)
    assert record["active"] == pytest.approx(0.3, abs=0.03)


def test_an_idle_unit_tells_its_weights_so():
    bnn = lifted()
    exchange = MessageExchange(bnn, units=UnitFactor(), example=(torch.ones(1, 6),))
    mask = torch.ones(3, 8, dtype=torch.bool)
    mask[:, 2] = False
    bnn.freeze({"2.weight": mask})
    for _ in range(3):
        record = exchange()
        assert record["units"] == {"0": int((exchange.beliefs["0"] > 0).sum())}
        assert exchange.beliefs["0"][2] == -torch.inf
        assert exchange.idle()["0"].tolist() == [unit == 2 for unit in range(8)]
    q = bnn.guide.entries[0].posterior()
    assert all(value.isfinite().all() for value in q.values())
    others = q["_unit_messages"][[0, 1, 3, 4, 5, 6, 7]]
    assert q["_unit_messages"][2].max() < others.min()
    assert not exchange.masks()["0.weight"][2].any()


def test_errors_of_the_exchange():
    with pytest.raises(TypeError, match="GammaSpikeAndSlab"):
        MessageExchange(ps.lift(mlp(), ps.Gaussian()))
    with pytest.raises(ValueError, match="no units"):
        MessageExchange(lifted(nn.Linear(3, 2)), units=UnitFactor(), example=(torch.ones(1, 3),))
    with pytest.raises(ValueError, match=r"'0\.weigth'"):
        MessageExchange(lifted()).snapshot("0.weigth")

    class Wayward(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > 0 else x

    with pytest.raises(ValueError, match="trace"):
        MessageExchange(
            lifted(Wayward(nn.Linear(3, 3), nn.Linear(3, 2))),
            units=UnitFactor(),
            example=(torch.ones(1, 3),),
        )


def test_what_is_frozen_is_not_released_to_make_up_a_share():
    bnn = lifted()
    exchange = MessageExchange(bnn)
    exchange()
    mask = torch.zeros(8, 6, dtype=torch.bool)
    mask[0] = True
    bnn.freeze({"0.weight": mask, "2.weight": torch.zeros(3, 8)})
    assert exchange.masks(0.5)["0.weight"].equal(mask)
    assert not exchange.masks(0.5)["2.weight"].any()


# The callback


OPTIONS = {
    "path": lambda: TurboPruner(active=schedules.logarithmic(0.5, 0.2, until=0.8)),
    "units": lambda: TurboPruner(
        units=UnitFactor(cost=3.0),
        active=schedules.logarithmic(0.6, 0.2, until=0.8),
        contrast=schedules.logarithmic(50.0, 200.0),
        strength=lambda progress: progress,
    ),
    "data decide": lambda: TurboPruner(units=UnitFactor(), prune_from=1.0),
}


class Interrupt(Callback):
    def __init__(self, epoch: int):
        self.epoch = epoch

    def on_epoch_end(self, run):
        if run.epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("options", "likelihood"),
    [("path", "activations"), ("units", "point"), ("units", "curvature"), ("data decide", "point")],
)
def test_resumed_training_is_the_uninterrupted_one_bit_for_bit(tmp_path, options, likelihood):
    file, made = tmp_path / "run.safetensors", OPTIONS[options]
    whole, resumed = lifted(likelihood=likelihood), lifted(likelihood=likelihood)
    expected = train(whole, made())
    model = ps.classifier(resumed, N)
    settings = {"epochs": 6, "batch_size": 20, "learning_rate": 0.01, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        callbacks = [made(), Interrupt(4)]
        ps.fit(model, resumed.guide, data(), callbacks=callbacks, checkpoint=file, **settings)
    resumed = lifted(likelihood=likelihood)
    run = train(resumed, made(), checkpoint=file)
    assert same(whole, resumed)
    drop = {"seconds"}
    for one, two in zip(run.history, expected.history, strict=True):
        assert {k: v for k, v in one.items() if k not in drop} == {
            k: v for k, v in two.items() if k not in drop
        }


def test_data_that_shuffle_themselves_resume_too(tmp_path):
    """A DataLoader draws from torch's own generator, which looking at the data must not move."""
    dataset = torch.utils.data.TensorDataset(*data())

    def run(bnn: ps.Lifted, *others: Callback, **options) -> None:
        loader = torch.utils.data.DataLoader(dataset, batch_size=20, shuffle=True)
        ps.fit(
            ps.classifier(bnn, N),
            bnn.guide,
            loader,
            epochs=4,
            callbacks=[TurboPruner(units=UnitFactor()), *others],
            progress=False,
            **options,
        )

    file, options = tmp_path / "run.safetensors", {"likelihood": "curvature"}
    whole, resumed = lifted(**options), lifted(**options)
    run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(resumed, Interrupt(3), checkpoint=file)
    resumed = lifted(**options)
    run(resumed, checkpoint=file)
    assert same(whole, resumed)


def test_the_path_is_followed_to_its_end():
    bnn = lifted(mlp(40))
    run = train(bnn, TurboPruner(active=schedules.logarithmic(0.5, 0.1, until=0.6)), epochs=12)
    kept = [entry["kept"] for entry in run.history]
    assert all(after <= before for before, after in pairwise(kept))
    # Nothing goes beyond what the path says before training ends.
    for epoch, share in enumerate(kept[:-1], start=1):
        assert share >= schedules.logarithmic(0.5, 0.1, until=0.6)(epoch / 12) - 1e-9
    assert round(kept[-1] * 360) == 36
    assert run.history[-1]["active"] <= 0.1


@pytest.mark.parametrize("likelihood", ["point", "activations"])
def test_what_is_frozen_is_zero_and_stays_so(likelihood):
    bnn = lifted(mlp(40), likelihood=likelihood)
    run = train(bnn, TurboPruner(active=schedules.logarithmic(0.6, 0.4, until=0.6)), epochs=8)
    masks = bnn.masks()
    for entry in bnn.guide.entries:
        off = ~entry.mask
        assert 0 < int(off.sum()) < off.numel()
        weight = entry.parameter()
        assert not weight[off].count_nonzero()
        assert not (masks[entry.target.key][off]).any()
        memory = run.optimizer.state[weight]
        for value in memory.values():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                assert not value[off].count_nonzero()
    assert bnn.mean_forward(data()[0]).isfinite().all()


def test_every_layer_keeps_as_many_units_as_it_must():
    net = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 3))
    bnn = lifted(net, inactive=0.1)
    units = UnitFactor(active=0.9, cost=1e4)  # units go, and hardly a weight of itself
    turbo = TurboPruner(units=units, removal=0.3, at_least={"0": 7, "*": 4})
    run = train(bnn, turbo, epochs=10, kl_scale=0.0)
    assert run.history[-1]["units"] == {"0": 7, "2": 4}
    on = [entry["units"]["0"] for entry in run.history]
    for before, after in pairwise(on):
        assert before - after <= -(-before * 3 // 10)  # 30 % of them at a time, rounded up
    left = (~turbo.exchange.idle()["0"]).sum()
    assert left <= 7


def test_at_the_end_nothing_is_left_that_leads_nowhere():
    bnn = lifted(mlp(12))
    turbo = TurboPruner(
        units=UnitFactor(cost=3.0), active=schedules.logarithmic(0.5, 0.1, until=0.6), at_least=2
    )
    train(bnn, turbo, epochs=10)
    first, second = (entry.mask for entry in bnn.guide.entries)
    assert torch.equal(first.any(1), second.any(0))
    assert first.any()


def test_nothing_is_taken_before_its_time():
    bnn = lifted()
    run = train(bnn, TurboPruner(active=schedules.logarithmic(0.3, 0.2), prune_from=1.0), epochs=4)
    assert [entry["kept"] for entry in run.history[:-1]] == [1.0] * 3
    assert run.history[-1]["kept"] < 0.25


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"prune_from": -0.1}, "prune_from"),
        ({"prune_from": 1.1}, "prune_from"),
        ({"removal": 0.0}, "removal"),
        ({"removal": 1.1}, "removal"),
        ({"at_least": 0}, "at_least"),
        ({"at_least": {"*": 1.5}}, "at_least"),
    ],
)
def test_bad_shares_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        TurboPruner(**options)


def test_cutting_while_training_is_refused():
    with pytest.raises(ValueError, match="compact_every"):
        train(lifted(), TurboPruner(), compact_every=2)


def test_messages_go_on_where_weights_are_frozen():
    bnn = lifted(mlp(40))
    exchange = ps.prune.MessageExchange(bnn)
    exchange()
    bnn.freeze({"0.weight": torch.rand(bnn.net[0].weight.shape) > 0.5})
    with torch.no_grad():
        bnn.net[0].weight.mul_(3)
    before = {key: value.clone() for key, value in bnn.guide.state_dict().items()}
    assert exchange()["change"] > 0
    for name in ("_weight_messages", "_log_odds", "_precision"):
        (key,) = [k for k in before if k.endswith(f"0.weight.{name}")]
        assert not torch.equal(bnn.guide.state_dict()[key], before[key]), name


def test_rates_follow_the_information():
    bnn = lifted(mlp(40), rates="information")
    exchange = MessageExchange(bnn)
    x, y = data()
    exchange.estimate_curvature(ps.classifier(bnn, N), (x, y), examples=N, seed=0)
    found = curvature(
        ps.classifier(bnn, N), bnn, (x, y), list(exchange.entries), examples=N, seed=0
    )
    every = torch.cat([h.flatten() for h in found.values()])
    mean = every[every > 0].log().mean().exp()
    for key, h in found.items():
        entry, method = exchange.entries[key]
        q = entry.posterior()
        factors = q["_rate_factors"]
        torch.testing.assert_close(factors, (mean / h).sqrt().clamp(0.01, 100.0))
        slab, spike = method.gammas(q)
        torch.testing.assert_close(slab.rate, q["_slab_rate"] * factors)
        torch.testing.assert_close(spike.rate, q["_spike_rate"] * factors)
    record = exchange(active=0.3, contrast=200.0)
    assert record["active"] == pytest.approx(0.3, abs=0.02)
    # Of two weights of one size, what the data need more is the more active one.
    entry, method = next(iter(exchange.entries.values()))
    q = entry.posterior()
    equal = type(q)(q | {"loc": torch.full_like(q["loc"], 0.1)})
    order = method.evidence(equal).flatten().argsort()
    by_information = (
        found[entry.target.key].clamp(float(mean) * 1e-4, float(mean) * 1e4).flatten()[order]
    )
    assert (by_information.diff() >= 0).all()


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"takes": "all"}, "takes must be"),
        ({"takes": "units"}, "need a unit factor"),
        ({"takes": "ranked"}, "share of active weights"),
        ({"units_until": 0.5}, "need a unit factor"),
        ({"units_until": 0.05, "units": UnitFactor()}, "share of training"),
    ],
)
def test_what_goes_must_be_known(wrong, match):
    with pytest.raises(ValueError, match=match):
        TurboPruner(**wrong)
