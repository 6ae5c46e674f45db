"""Structures: blocks of every kind, their inverse, and masks of n of m."""

import pytest
import torch
from torch import Tensor

from pyrosparse import structures


def by_columns(weight: Tensor) -> Tensor:
    return weight.flatten(1).t()


def places(*shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).view(shape)


CONVOLUTION = places(3, 4, 2, 2)


@pytest.mark.parametrize(
    ("structure", "block"),
    [
        ("filter", CONVOLUTION[1].flatten()),
        ("channel", CONVOLUTION[:, 1].flatten()),
        ("kernel", CONVOLUTION[0, 1].flatten()),
        ("2:4", CONVOLUTION[0, :, 0, 1]),
        ("1:2", CONVOLUTION[0, 2:, 0, 0]),
    ],
)
def test_a_block_is_what_goes_together(structure: str, block: Tensor) -> None:
    arranged = structures.blocks(CONVOLUTION, structure)
    assert torch.equal(arranged[1], block)
    assert arranged.flatten().sort().values.tolist() == list(range(48))


@pytest.mark.parametrize("structure", [*structures.NAMES, "2:4", "1:2", by_columns])
@pytest.mark.parametrize("shape", [(3, 4, 2, 2), (2, 8, 3), (5, 4)])
def test_unblocked_is_the_inverse_and_spread_repeats(
    structure: structures.Structure, shape: tuple[int, ...]
) -> None:
    if structure == "kernel" and len(shape) == 2:
        return
    tensor = places(*shape).double()
    assert torch.equal(
        structures.unblocked(structures.blocks(tensor, structure), structure, shape), tensor
    )
    means = structures.means(tensor, structure)
    at_elements = structures.spread(means, structure, shape)
    arranged = structures.blocks(tensor, structure)
    expected = arranged if means.shape == arranged.shape else means.expand_as(arranged)
    assert torch.equal(structures.blocks(at_elements, structure), expected)


def test_the_largest_are_n_of_every_m_even_of_equal_scores() -> None:
    torch.manual_seed(0)
    for scores in (torch.randn(5, 8, 3), torch.zeros(5, 8, 3)):
        for structure, n, m in (("2:4", 2, 4), ("1:2", 1, 2), ("5:8", 5, 8)):
            mask = structures.largest(scores, structure)
            grouped = mask.view(5, 8 // m, m, 3)
            assert torch.equal(grouped.sum(2), torch.full((5, 8 // m, 3), n))
            values = scores.view(5, 8 // m, m, 3)
            kept = values.masked_fill(~grouped, torch.inf).amin(2)
            assert (kept >= values.masked_fill(grouped, -torch.inf).amax(2)).all()


def test_what_is_no_structure_is_refused() -> None:
    for wrong in ("row", "0:4", "4:4", "4", "2:4:8", ""):
        with pytest.raises(ValueError, match=r"structure must be|0 < n < m"):
            structures.check(wrong)
    with pytest.raises(ValueError, match="has no dimension of inputs"):
        structures.blocks(torch.zeros(4), "2:4")
    with pytest.raises(ValueError, match="has no dimension of inputs"):
        structures.blocks(torch.zeros(4), "channel")
    with pytest.raises(ValueError, match="6 inputs, which cannot be divided into groups of 4"):
        structures.blocks(torch.zeros(2, 6), "2:4")
    with pytest.raises(ValueError, match="has no kernels"):
        structures.blocks(torch.zeros(2, 6), "kernel")
    with pytest.raises(ValueError, match="structure must be"):
        structures.blocks(torch.zeros(2, 6), "row")
    with pytest.raises(ValueError, match="must arrange the 12 elements"):
        structures.blocks(torch.zeros(2, 6), lambda w: w[:1])
    with pytest.raises(ValueError, match="structure must be 'n:m'"):
        structures.largest(torch.zeros(2, 6), "filter")
