"""Which weights go: Algorithms 2 and 3 of Mathew and Rowe."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pyrosparse as ps
from pyrosparse.prune.criteria import criterion, magnitude, random_masks
from tests.monte_carlo import assert_mean

# With more than one element left, so that `at_least=1` changes nothing.
SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=4)
SPARSITIES = st.floats(0, 1, exclude_max=True)
BOTH = pytest.mark.parametrize("prune", [magnitude, random_masks])


def weights_of(sizes: list[int], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"w{i}": torch.randn(n, generator=generator) for i, n in enumerate(sizes)}


@BOTH
@given(sizes=SIZES, sparsity=SPARSITIES)
def test_exactly_the_wanted_number_goes_from_each_tensor(prune, sizes, sparsity):
    weights = weights_of(sizes)
    masks = prune(weights, sparsity, torch.Generator().manual_seed(0), at_least=0)
    for name, weight in weights.items():
        n = weight.numel()
        assert int((~masks[name]).sum()) == round(n * sparsity)
        assert masks[name].dtype == torch.bool and masks[name].shape == weight.shape


@BOTH
@given(sizes=SIZES, sparsity=SPARSITIES)
def test_exactly_the_wanted_number_goes_from_all_together(prune, sizes, sparsity):
    masks = prune(weights_of(sizes), sparsity, torch.Generator(), scope="global", at_least=0)
    assert masks.size - masks.kept == round(sum(sizes) * sparsity)


@BOTH
@given(sizes=SIZES, sparsity=SPARSITIES, at_least=st.integers(0, 5))
@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_each_tensor_keeps_at_least_so_many(prune, scope, sizes, sparsity, at_least):
    masks = prune(weights_of(sizes), sparsity, None, scope=scope, at_least=at_least)
    for n, mask in zip(sizes, masks.values(), strict=True):
        assert int(mask.sum()) >= min(n, at_least)


@given(SIZES, SPARSITIES)
def test_magnitude_takes_the_smallest(sizes, sparsity):
    weights = weights_of(sizes)
    for name, mask in magnitude(weights, sparsity).items():
        sizes_kept, sizes_gone = weights[name].abs()[mask], weights[name].abs()[~mask]
        if len(sizes_gone):
            assert sizes_kept.min() >= sizes_gone.max()


@given(SIZES, SPARSITIES)
def test_global_magnitude_takes_the_smallest_of_all(sizes, sparsity):
    weights = weights_of(sizes)
    masks = magnitude(weights, sparsity, scope="global", at_least=0)
    flat = torch.cat(list(weights.values())).abs()
    mask = torch.cat(list(masks.values()))
    if 0 < int(mask.sum()) < len(mask):
        assert flat[mask].min() >= flat[~mask].max()


@given(SIZES, SPARSITIES, st.floats(0.01, 100))
def test_magnitude_does_not_depend_on_scale_or_sign(sizes, sparsity, scale):
    weights = weights_of(sizes)
    other = {name: -scale * weight for name, weight in weights.items()}
    masks, others = magnitude(weights, sparsity), magnitude(other, sparsity)
    assert all(torch.equal(mask, others[name]) for name, mask in masks.items())


def test_scopes_differ_where_tensors_do():
    weights = {"small": torch.full((4,), 0.1), "large": torch.ones(4)}
    together = magnitude(weights, 0.5, scope="global", at_least=0)
    apart = magnitude(weights, 0.5)
    assert (int(together["small"].sum()), int(together["large"].sum())) == (0, 4)
    assert (int(apart["small"].sum()), int(apart["large"].sum())) == (2, 2)


@given(st.integers(2, 40), SPARSITIES, st.data())
def test_random_counts_the_zeros_there_are(n, sparsity, data):
    zeros = data.draw(st.integers(0, n))
    weight = torch.ones(n)
    weight[torch.randperm(n)[:zeros]] = 0
    mask = random_masks({"w": weight}, sparsity, torch.Generator().manual_seed(1), at_least=0)["w"]
    wanted = round(n * sparsity)
    assert int(((weight * mask) == 0).sum()) == max(wanted, zeros)


def test_random_is_uniform_over_the_weights_that_are_not_zero():
    weight = torch.tensor([0.0, 5.0, 0.1, -3.0, 0.0, 2.0])
    generator = torch.Generator().manual_seed(2)
    masks = torch.stack([random_masks({"w": weight}, 0.5, generator)["w"] for _ in range(2000)])
    # Three of six go: both zeros, and one of the four others.
    assert not masks[:, weight == 0].any()
    assert_mean(masks[:, weight != 0].double(), 0.75)


def test_random_is_repeated_by_its_generator_and_leaves_the_global_one():
    weights = weights_of([50])
    state = torch.get_rng_state()
    first, again, other = (
        random_masks(weights, 0.5, torch.Generator().manual_seed(seed))["w0"] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@BOTH
def test_weights_are_left_as_they_are(prune):
    weights = weights_of([10])
    before = weights["w0"].clone()
    prune(weights, 0.9)
    assert torch.equal(weights["w0"], before)


@BOTH
@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, math.nan])
def test_sparsity_out_of_range_is_refused(prune, sparsity):
    with pytest.raises(ValueError, match="sparsity"):
        prune(weights_of([4]), sparsity)


@BOTH
def test_unknown_scope_is_refused(prune):
    with pytest.raises(ValueError, match="'layer'"):
        prune(weights_of([4]), 0.5, scope="layer")


@BOTH
def test_nan_weights_are_refused_by_name(prune):
    with pytest.raises(ValueError, match="1 elements of 'w' are NaN"):
        prune({"w": torch.tensor([1.0, math.nan])}, 0.5)


def test_criteria_by_name():
    assert criterion("magnitude") is magnitude
    assert criterion(random_masks) is random_masks
    with pytest.raises(ValueError, match="did you mean 'magnitude'"):
        criterion("magnitud")


def test_result_is_masks():
    assert isinstance(magnitude(weights_of([4]), 0.5), ps.Masks)
