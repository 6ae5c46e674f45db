"""Blocks that stay by the sum of their scores, and n of every m."""

import math

import pytest
import torch
from torch import Tensor

import pyrosparse as ps
from pyrosparse.prune import keep_largest, magnitude, random_masks

W = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
DENSE = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
# What each structure sums over, of a convolution.
SUMS = {"filter": (1, 2, 3), "channel": (0, 2, 3), "kernel": (2, 3)}


@pytest.mark.parametrize("structure", SUMS)
def test_blocks_of_the_smallest_l1_norm_go(structure: str) -> None:
    norms = W.abs().sum(SUMS[structure], keepdim=True)
    mask = magnitude({"w": W}, 0.5, structure=structure)["w"]
    threshold = norms.flatten().sort().values[norms.numel() // 2]
    assert torch.equal(mask, (norms >= threshold).expand_as(W))


def test_the_norm_is_l1_and_not_the_root_mean_square() -> None:
    # l1 norms 4 and 3, l2 norms 2 and 3.
    weight = torch.tensor([[1.0, 1.0, 1.0, 1.0], [3.0, 0.0, 0.0, 0.0]])
    assert magnitude({"w": weight}, 0.5, structure="filter")["w"].all(1).tolist() == [True, False]


def test_a_function_arranges_blocks_of_its_own() -> None:
    def pairs(weight: Tensor) -> Tensor:  # of columns 0 and 2, 1 and 3, of each row
        return weight.view(-1, 2, 2).movedim(-1, -2).reshape(-1, 2)

    weight = torch.tensor([[3.0, 1.0, 3.0, 1.0], [1.0, 2.0, 0.0, 2.0]])
    mask = magnitude({"w": weight}, 0.5, structure=pairs)["w"]
    assert mask.tolist() == [[True, False, True, False], [False, True, False, True]]


@pytest.mark.parametrize(("structure", "n", "m"), [("2:4", 2, 4), ("1:2", 1, 2), ("3:4", 3, 4)])
@pytest.mark.parametrize("weight", [W, DENSE], ids=["convolution", "dense"])
def test_n_of_every_m_consecutive_inputs_stay_and_they_are_the_largest(
    structure: str, n: int, m: int, weight: Tensor
) -> None:
    mask = magnitude({"w": weight}, 1 - n / m, structure=structure)["w"]
    groups = weight.abs().movedim(1, -1).reshape(-1, m)
    kept = mask.movedim(1, -1).reshape(-1, m)
    assert (kept.sum(1) == n).all()
    for group, stays in zip(groups, kept, strict=True):
        assert group[stays].min() > group[~stays].max()


def test_the_sparsity_of_n_of_m_is_its_own() -> None:
    with pytest.raises(ValueError, match=r"1 - 2/4 = 0\.5, got 0\.9"):
        magnitude({"w": DENSE}, 0.9, structure="2:4")
    with pytest.raises(ValueError, match="scope must be"):
        magnitude({"w": DENSE}, 0.5, structure="2:4", scope="global")
    with pytest.raises(ValueError, match="divided into groups of 3"):
        magnitude({"w": DENSE}, 1 / 3, structure="2:3")


def test_global_blocks_are_counted_together() -> None:
    weights = {"small": 0.01 * W, "large": W}
    masks = keep_largest(
        {name: w.abs() for name, w in weights.items()},
        0.5,
        scope="global",
        structure="filter",
        at_least=2,
    )
    filters = {name: mask.flatten(1).all(1) for name, mask in masks.items()}
    assert torch.equal(masks["small"].flatten(1).any(1), filters["small"])
    # Six of twelve stay, all of them large; two small ones as no layer is emptied.
    assert (int(filters["small"].sum()), int(filters["large"].sum())) == (2, 6)


def test_random_blocks_are_uniform_and_zeros_go_first() -> None:
    weight = torch.ones(4, 2)
    weight[1] = 0
    weight[2, 0] = 0  # half a block is no zero block
    generator = torch.Generator().manual_seed(3)
    drawn = [random_masks({"w": weight}, 0.5, generator, structure="filter") for _ in range(3000)]
    kept = torch.stack([masks["w"] for masks in drawn])
    assert torch.equal(kept[..., 0], kept[..., 1])
    share = kept[..., 0].double().mean(0)
    assert share[1] == 0
    # Two of three stay: each with probability 2/3, standard error 0.009.
    assert (share[[0, 2, 3]] - 2 / 3).abs().max() < 0.035


def test_random_blocks_of_all_tensors_have_the_same_chance() -> None:
    weights = {"narrow": torch.ones(20, 1), "wide": torch.ones(20, 50)}
    generator = torch.Generator().manual_seed(4)
    counts = [
        int(
            random_masks(weights, 0.5, generator, structure="filter", scope="global")["wide"].sum()
            / 50
        )
        for _ in range(300)
    ]
    assert abs(sum(counts) / 300 - 10) < 0.5  # sd of one count 1.6


def test_minus_infinity_goes_first_and_nan_is_refused() -> None:
    scores = {"w": torch.tensor([-math.inf, -5.0, -7.0, 2.0])}
    assert keep_largest(scores, 0.25)["w"].tolist() == [False, True, True, True]
    with pytest.raises(ValueError, match="1 elements of 'w' are NaN"):
        keep_largest({"w": torch.tensor([math.nan, 1.0])}, 0.5, structure="filter")


def test_unknown_structures_are_refused() -> None:
    with pytest.raises(ValueError, match="structure must be 'weight'"):
        magnitude({"w": W}, 0.5, structure="row")


def test_a_pruner_of_structures() -> None:
    import functools

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    bnn = ps.lift(net, ps.Gaussian())
    pruner = ps.prune.Pruner(
        functools.partial(magnitude, structure="2:4"), 0.5, at="end", freeze=True
    )
    data = (torch.randn(20, 4), torch.zeros(20, dtype=torch.int64))
    model = ps.classifier(bnn, 20)
    ps.fit(model, bnn.guide, data, epochs=1, callbacks=[pruner], progress=False, capture=False)
    for layer in (net[0], net[2]):
        assert ((layer.weight != 0).view(-1, 4).sum(1) == 2).all()
