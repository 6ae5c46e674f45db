"""The grids that weights lie on."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyrosparse.supports.grid import from_grid, to_grid

LAYOUTS = st.sampled_from(["kernel", "tiled", "channel"])
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)


def numbered(*shape: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel()).view(shape)


@given(SHAPES, LAYOUTS)
def test_every_element_has_one_place_and_comes_back(shape, layout):
    weight = numbered(*shape)
    grid = to_grid(weight, layout)
    assert grid.dim() >= 2
    assert torch.equal(grid.flatten().sort().values, weight.flatten())
    back = from_grid(grid.contiguous(), weight, layout)
    assert torch.equal(back, weight)


@given(st.integers(1, 4), st.integers(1, 4), LAYOUTS)
def test_a_dense_weight_has_an_input_a_row(outputs, inputs, layout):
    weight = numbered(outputs, inputs)
    assert torch.equal(to_grid(weight, layout), weight.t())


@given(*[st.integers(1, 3)] * 4)
def test_layouts_of_a_convolution(outputs, inputs, height, width):
    weight = numbered(outputs, inputs, height, width)
    assert torch.equal(to_grid(weight, "kernel"), weight)
    tiled, channel = to_grid(weight, "tiled"), to_grid(weight, "channel")
    assert tiled.shape == (inputs * height, outputs * width)
    for o in range(outputs):
        for i in range(inputs):
            rows = slice(i * height, (i + 1) * height)
            columns = slice(o * width, (o + 1) * width)
            # Neighbours within the tile are neighbours in the kernel.
            assert torch.equal(tiled[rows, columns], weight[o, i])
            assert torch.equal(channel[:, :, i, o], weight[o, i])


@given(*[st.integers(1, 3)] * 3)
def test_layouts_along_time(outputs, inputs, length):
    weight = numbered(outputs, inputs, length)
    assert torch.equal(to_grid(weight, "kernel"), weight.unsqueeze(-2))
    tiled = to_grid(weight, "tiled")
    assert tiled.shape == (inputs, outputs * length)
    for o in range(outputs):
        assert torch.equal(tiled[:, o * length : (o + 1) * length], weight[o])


@given(*[st.integers(1, 3)] * 5)
def test_layouts_of_volumes(outputs, inputs, depth, height, width):
    weight = numbered(outputs, inputs, depth, height, width)
    tiled = to_grid(weight, "tiled")
    assert tiled.shape == (depth, inputs * height, outputs * width)
    for place in range(depth):
        assert torch.equal(tiled[place], to_grid(weight[:, :, place], "tiled"))


@pytest.mark.parametrize("layout", ["kernel", "tiled", "channel"])
def test_a_vector_is_one_row(layout):
    assert to_grid(torch.zeros(5), layout).shape == (1, 5)
