"""R-hat in function space."""

import copy

import pytest
import torch

import pyrosparse as ps
from pyrosparse.diagnostics import rhat
from tests.nets import batch, mlp


def tree_of(nets, draws=200):
    runs = [ps.lift(net, ps.Gaussian(posterior="normal", initial_scale=0.1)) for net in nets]
    models = [ps.classifier(bnn, 7) for bnn in runs]
    return ps.to_datatree(runs, models, batch("mlp"), draws=draws, var_names="*")


def permuted(net):
    """The same function with its hidden units in another order."""
    other = copy.deepcopy(net)
    order = torch.tensor([4, 2, 0, 1, 3])
    with torch.no_grad():
        other[0].weight.copy_(net[0].weight[order])
        other[0].bias.copy_(net[0].bias[order])
        other[2].weight.copy_(net[2].weight[:, order])
    return other


def test_the_same_function_with_other_weights_agrees_in_function_space_alone():
    net = mlp()
    tree = tree_of([net, permuted(net)])
    assert float(rhat(tree)["y"].max()) < 1.05
    assert float(rhat(tree, "posterior")["0.weight"].max()) > 1.5


def test_other_functions_disagree():
    tree = tree_of([mlp(), mlp()])
    assert float(rhat(tree)["y"].median()) > 1.5


def test_one_chain_and_few_draws_are_refused():
    with pytest.raises(ValueError, match="one chain"):
        rhat(tree_of([mlp()], draws=4))
    with pytest.raises(ValueError, match="at least 4 draws"):
        rhat(tree_of([mlp(), mlp()], draws=3))
