"""SNIP, cutting in steps, l1 norms, ThiNet and lottery tickets, in their parts."""

from typing import Any

import pytest
import torch
from torch import nn

import pyrosparse as ps
from pyrosparse import recipes
from pyrosparse.infer import schedules
from tests.recipes.test_parts import ONE, N, Record, X, Y, along, net, rates, record
from tests.stopped import stopped_after

IMAGES = torch.randn(60, 1, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(60) % 3


def images_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 36, 3),
    )


def on_images(recipe: recipes.Recipe, **options: Any) -> tuple[Record, recipes.Result]:
    found = Record()
    options = {"dense": False, "progress": False} | options
    return found, ps.compress(images_net(), (IMAGES, LABELS), recipe, callbacks=[found], **options)


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("weights", ["kept", "redrawn"])
def test_snip_scores_the_first_weights_and_trains_them_or_others(weights: Any) -> None:
    recipe = recipes.Snip(
        epochs=5,
        batch_size=ONE,
        sparsity=0.6,
        first_weights=weights,
        score_batch=30,
        learning_rate=1e-9,
    )
    found, result = record(recipe)
    start = net()
    bnn = ps.lift(start, ps.Gaussian())
    batch = result.data.some(30, 0)
    scores = ps.prune.connection_sensitivity(ps.classifier(bnn, N), bnn, batch)
    expected = ps.prune.keep_largest(scores, 0.6, scope="global")
    for name, mask in expected.items():
        assert torch.equal(found.start["snip"][name], mask)
        assert torch.equal(result.net.get_parameter(name) != 0, mask)
        same = torch.allclose(result.net.get_parameter(name), start.get_parameter(name) * mask)
        assert same == (weights == "kept")
    assert rates(found, "snip") == along(schedules.steps(0.4, 0.6, 0.8), 1e-9, 5)
    assert recipe.cell == ("snip-60" if weights == "kept" else "snip-redrawn-60")


def test_snip_takes_convolutions_and_dense_layers_first_and_last() -> None:
    found, _ = on_images(recipes.Snip(epochs=1, batch_size=48, sparsity=0.9))
    assert list(found.start["snip"]) == ["0.weight", "3.weight", "5.weight", "8.weight"]


def test_snip_keeps_the_most_sensitive_two_of_every_four() -> None:
    recipe = recipes.Snip(epochs=1, batch_size=48, sparsity=0.5, structure="2:4")
    found, result = on_images(recipe)
    bnn = ps.lift(images_net(), ps.Gaussian())
    scores = ps.prune.connection_sensitivity(ps.classifier(bnn, 48), bnn, result.data.some(128, 0))
    # The first convolution has one input.
    assert list(found.start["snip"]) == ["3.weight", "5.weight", "8.weight", "0.weight"]
    assert found.start["snip"]["0.weight"].all()
    for name in ("3.weight", "5.weight", "8.weight"):
        groups = found.start["snip"][name].movedim(1, -1).reshape(-1, 4)
        assert (groups.sum(1) == 2).all()
        expected = scores[name].movedim(1, -1).reshape(-1, 4)
        assert (
            expected.masked_fill(~groups, torch.inf).amin(1)
            >= expected.masked_fill(groups, -1.0).amax(1)
        ).all()


@pytest.mark.usefixtures("whole")
def test_han_cuts_in_equal_steps_at_the_fine_tuning_rate() -> None:
    recipe = recipes.Han(
        epochs=5, batch_size=ONE, sparsity=0.8, cuts=4, fine_tune=3, fine_tune_rate=2e-4
    )
    found, result = record(recipe)
    assert [stage.name for stage in result.stages] == ["training", "cuts"]
    assert rates(found, "training") == along(schedules.steps(0.4, 0.6, 0.8), 1e-3, 5)
    assert rates(found, "cuts") == along(schedules.constant, 2e-4, 12)
    assert {value for e in found.frozen["training"] for value in e.values()} == {1.0}
    # The first cut comes before the first epoch; what follows an epoch is seen at its end.
    start = found.start["cuts"]["0.weight"].float().mean().item()
    shares = [start] + [entry["0.weight"] for entry in found.frozen["cuts"]]
    expected = [0.8] * 3 + [0.6] * 3 + [0.4] * 3 + [0.2] * 4
    assert shares == pytest.approx(expected, abs=0.01)
    assert found.runs["cuts"].seed == 1
    assert result.original is not None and "before" in result.scores
    assert all((p != 0).all() for n, p in result.original.named_parameters() if "weight" in n)
    # Each layer alone.
    assert result.net[2].weight.count_nonzero() == 6 and result.net[0].weight.count_nonzero() == 12


class Shrinking(ps.infer.Callback):
    """Notes what is left after every epoch."""

    def __init__(self) -> None:
        self.masks: list[dict[str, torch.Tensor]] = []

    def on_epoch_end(self, run: ps.infer.Fit) -> dict[str, Any]:
        entries = run.lifted.guide.entries
        self.masks.append({entry.target.key: entry.mask.clone() for entry in entries})
        return {}


def test_masks_only_shrink() -> None:
    seen = Shrinking()
    recipe = recipes.Han(
        epochs=1, batch_size=20, sparsity=0.8, cuts=4, fine_tune=2, fine_tune_rate=0.05
    )
    ps.compress(net(), (X, Y), recipe, callbacks=[seen], progress=False)
    for before, after in zip(seen.masks[:-1], seen.masks[1:], strict=True):
        assert all(not (after[key] & ~before[key]).any() for key in before)


@pytest.mark.parametrize(("structure", "dims"), [("filter", (1, 2, 3)), ("kernel", (2, 3))])
def test_the_l1_norm_of_filters_and_kernels(structure: Any, dims: tuple[int, ...]) -> None:
    recipe = recipes.L1Norm(
        epochs=1, batch_size=48, sparsity=0.5, structure=structure, cuts=1, fine_tune=1
    )
    found, result = on_images(recipe)
    assert result.original is not None
    for name in ("3.weight", "5.weight"):
        norms = result.original.get_parameter(name).abs().sum(dims, keepdim=True)
        stays = norms >= norms.flatten().sort().values[norms.numel() // 2]
        mask = found.start["cuts"][name]
        assert torch.equal(mask, stays.expand_as(mask))
    # The first convolution and the dense layer stay whole.
    assert found.start["cuts"]["0.weight"].all() and "8.weight" not in found.start["cuts"]
    assert recipe.cell == f"l1-norm-{structure}-50"


def test_filters_of_the_last_layer_are_classes_and_stay() -> None:
    _, result = record(recipes.L1Norm(epochs=1, batch_size=ONE, sparsity=0.5, cuts=1, fine_tune=1))
    assert result.net[2].weight.count_nonzero() == 30
    assert (result.net[0].weight != 0).all(1).sum() == 5


def test_thinet_goes_layer_by_layer_and_trains_in_between() -> None:
    recipe = recipes.ThiNet(
        epochs=2,
        batch_size=48,
        sparsity=0.5,
        examples=20,
        fine_tune=2,
        last_fine_tune=3,
        fine_tune_rate=3e-4,
    )
    found, result = on_images(recipe)
    assert [stage.name for stage in result.stages] == ["training", "3", "5"]
    assert rates(found, "3") == along(schedules.constant, 3e-4, 2)
    assert rates(found, "5") == along(schedules.constant, 3e-4, 3)
    # Whole channels of the inputs, one layer after the other; the next network is as it was.
    assert found.start["3"]["5.weight"].all() and found.start["3"]["0.weight"].all()
    for stage, name, kept in (("3", "3.weight", 2), ("5", "5.weight", 4)):
        mask = found.start[stage][name]
        assert torch.equal(mask, mask[:1, :, :1, :1].expand_as(mask))
        assert int(mask[0, :, 0, 0].sum()) == kept
        assert torch.equal(result.net.get_parameter(name) != 0, mask)
    assert result.small is not None
    assert result.small.get_submodule("0").out_channels == 2
    assert torch.allclose(result.small(IMAGES), result.net.eval()(IMAGES), atol=1e-5)
    # The gains are in the weights: with no more training they are those of least squares.
    still = recipes.ThiNet(
        epochs=2, batch_size=48, sparsity=0.5, examples=20, fine_tune=0, last_fine_tune=0
    )
    _, plain = on_images(still)
    trained = plain.original
    assert trained is not None
    gains = ps.prune.thinet(
        trained, plain.data.some(20, 1), 0.5, on=ps.inputs(trained, "3"), seed=1
    )["3.input"]
    expected = trained.get_submodule("3").weight * gains.view(1, -1, 1, 1)
    assert torch.allclose(plain.net[3].weight, expected, atol=1e-6)


def test_lottery_tickets_are_rewound() -> None:
    recipe = recipes.Lottery(epochs=4, batch_size=40, sparsity=0.5, rewind=3, fraction=0.3)
    found, result = record(recipe)
    names = ["training", "level-1", "level-2"]
    assert [stage.name for stage in result.stages] == names
    falls = schedules.steps(0.4, 0.6, 0.8)
    assert rates(found, "training") == along(falls, 1e-3, 8)
    whole = [1e-3 * falls(step / 8) for step in range(8)]
    assert rates(found, "level-2") == pytest.approx(whole[3:])
    kept = [sum(int(mask.sum()) for mask in found.start[stage].values()) / 90 for stage in names]
    assert kept == pytest.approx([1.0, 0.7, 0.5], abs=0.01)
    assert result.sparsity == pytest.approx(0.5, abs=0.01)
    assert result.original is not None and "before" in result.scores


def test_how_far_tickets_are_rewound_by_default() -> None:
    split = recipes.Split((X, Y), None, None, N)
    assert recipes.Lottery(epochs=20, batch_size=ONE).resolve(net(), split).rewind == 2
    assert recipes.Lottery(epochs=9000, batch_size=ONE).resolve(net(), split).rewind == 500


QUICK: list[recipes.Recipe] = [
    recipes.Snip(epochs=3, batch_size=48, sparsity=0.5, first_weights="redrawn"),
    recipes.Han(epochs=2, batch_size=48, sparsity=0.5, cuts=2, fine_tune=1, fine_tune_rate=1e-2),
    recipes.ThiNet(epochs=2, batch_size=48, examples=20, last_fine_tune=2, fine_tune_rate=1e-2),
    recipes.Lottery(epochs=2, batch_size=24, sparsity=0.5, rewind=1, fraction=0.4),
]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", QUICK, ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("saves", [1, 3])
def test_a_stopped_run_ends_as_a_whole_one(tmp_path, recipe: recipes.Recipe, saves: int) -> None:
    if recipe.name == "snip" and saves == 3:
        saves = 2
    whole = on_images(recipe)[1]
    with stopped_after(saves):
        on_images(recipe, folder=tmp_path)
    again = on_images(recipe, folder=tmp_path)[1]
    for key, value in whole.net.state_dict().items():
        assert torch.equal(value, again.net.state_dict()[key]), key
    assert whole.scores == again.scores


def test_examples_are_chosen_by_the_seed_of_loaders_too() -> None:
    from torch.utils.data import DataLoader, TensorDataset

    loader = DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True)
    split = recipes.Split(loader, None, None, 100)
    state = torch.get_rng_state()
    one, again, other = (split.some(30, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(part) for part in one] == [30, 30]
    assert torch.equal(one[0], again[0]) and not torch.equal(one[0], other[0])
    assert len(split.some(1000, 0)[0]) == 100


def test_thinet_leaves_layers_that_it_cannot_thin_and_says_so_before_training() -> None:
    grouped = nn.Conv1d(4, 4, 3, groups=2)
    body = [nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3), nn.ReLU(), grouped, nn.Flatten()]
    recipe = recipes.ThiNet(epochs=1, examples=20, last_fine_tune=1)
    wider = nn.Sequential(*body, nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    with pytest.warns(UserWarning, match="leaves '3' as it is: it is a convolution of 2 groups"):
        result = ps.compress(wider, (X, Y), recipe, progress=False)
    assert result.posterior.masks()["7.weight"].all(0).sum() == 3
    with (
        pytest.warns(UserWarning, match="leaves '3'"),
        pytest.raises(ValueError, match="thinet finds no layer"),
    ):
        ps.compress(nn.Sequential(*body, nn.Linear(8, 3)), (X, Y), recipe, progress=False)
