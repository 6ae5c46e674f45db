"""The point mass against Pyro's own Delta."""

import pyro.distributions as dist
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyrosparse.distributions import Point

SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple)


@given(SHAPES)
def test_point_agrees_with_delta(shape):
    value = torch.randn(shape)
    point, delta = Point(value), dist.Delta(value, event_dim=len(shape))
    assert (point.batch_shape, point.event_shape) == (delta.batch_shape, delta.event_shape)
    other = value.clone()
    other.view(-1)[0] += 1
    for x in (value, value.clone(), other):
        assert torch.equal(point.log_prob(x), delta.log_prob(x))
    assert torch.equal(point.sample((3,)), delta.sample((3,)))
    assert torch.equal(point.mean, value)


def test_a_draw_is_the_tensor_itself_and_carries_its_gradient():
    value = torch.randn(2, 3, requires_grad=True)
    draw = Point(value).rsample()
    assert draw is value


@given(SHAPES, st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple))
def test_expanding_agrees_with_delta(shape, batch_shape):
    value = torch.randn(shape)
    point = Point(value).expand(batch_shape)
    assert (point.batch_shape, point.event_shape) == (batch_shape, shape)
    assert torch.equal(point.sample(), value.expand(batch_shape + shape))
    assert torch.equal(point.log_prob(point.sample()), torch.zeros(batch_shape))
