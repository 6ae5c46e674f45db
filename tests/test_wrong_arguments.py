"""Arguments of the wrong kind are refused by name, before any work."""

import re
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from torch import nn

import pyrosparse as ps

X, Y = torch.randn(12, 4), torch.arange(12) % 3


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


NET = network()
BNN = ps.lift(network(), ps.BetaBernoulli())
MODEL = ps.classifier(BNN, 12)
MASKS = BNN.masks()


def fit(*programs: Any, **options: Any) -> Any:
    return ps.fit(*programs or (MODEL, BNN.guide), (X, Y), **{"epochs": 1} | options)


CASES: dict[str, tuple[Callable[[], Any], str]] = {
    "compact an input": (lambda: ps.compact(NET, X), "by name: ps.compact(net, example=x)"),
    "compact a model": (lambda: ps.compact(MODEL, MASKS, X), "the lifted network 'network'"),
    "compact a class": (lambda: ps.compact(nn.ReLU), "got the class ReLU"),
    "masks of numpy": (
        lambda: ps.compact(BNN.net, {"0.input": MASKS["0.input"].numpy()}, X),
        "the mask '0.input' must be a tensor, got ndarray",
    ),
    "report of masks": (lambda: ps.report(BNN.net, MASKS, X), "got Masks"),
    "load a network": (lambda: ps.load(NET), "needs its path, got Sequential"),
    "predict by a function": (lambda: ps.predict(fit, X), "guide=guide, likelihood="),
    "compress data": (lambda: ps.compress((X, Y), NET), "got tuple"),
    "compress a class": (lambda: ps.compress(nn.ReLU, (X, Y)), "got the class ReLU"),
    "a recipe's name": (
        lambda: ps.compress(NET, (X, Y), "one-shot"),
        "such as ps.recipes.OneShot(); got 'one-shot'",
    ),
    "a recipe's class": (
        lambda: ps.compress(NET, (X, Y), ps.recipes.Magnitude),
        "such as ps.recipes.Magnitude(); got the class Magnitude",
    ),
    "a method's name": (lambda: ps.lift(NET, "gaussian"), "ps.BetaBernoulli()"),
    "a method's class": (lambda: ps.lift(NET, ps.Gaussian), "got the class Gaussian"),
    "methods without targets": (
        lambda: ps.lift(NET, [ps.Gaussian(), ps.BetaBernoulli()]),
        "pairs (method, targets)",
    ),
    "a class among methods": (
        lambda: ps.lift(NET, [(ps.Gaussian, ps.weights(NET))]),
        "pairs (method, targets)",
    ),
    "a glob for targets": (lambda: ps.lift(NET, ps.Gaussian(), "*"), "ps.weights(net, '*')"),
    "names for targets": (lambda: ps.lift(NET, ps.Gaussian(), ["0.weight"]), "got '0.weight'"),
    "data for their number": (lambda: ps.classifier(BNN, (X, Y)), "whole number, got tuple"),
    "a teacher's place": (lambda: ps.distill(BNN, 12, NET), "got int"),
    "a model for a network": (
        lambda: ps.to_datatree(MODEL, BNN, (X, Y)),
        "(bnn, model, data) with a lifted network, or a list of them; got classifier first",
    ),
    "a network without a name": (
        lambda: ps.diagnostics.predictive_quality(BNN, (X, Y)),
        "{'mine': network}; got Lifted",
    ),
    "fit a network": (lambda: fit(BNN, BNN.guide), "has no likelihood"),
    "score a network": (
        lambda: ps.evidence.elbo(BNN, BNN.guide, (X, Y)),
        "such as ps.classifier(bnn, n)",
    ),
    "a guide that was called": (lambda: fit(MODEL, BNN.guide()), "guide must be callable"),
    "an optimizer's name": (lambda: fit(optimizer="adam"), "torch.optim.SGD; got 'adam'"),
    "epochs in words": (lambda: fit(epochs="3"), "got '3'"),
    "an ELBO's class": (lambda: fit(elbo=pyro.infer.Trace_ELBO), "elbo=Trace_ELBO()"),
    "one callback": (lambda: fit(callbacks=print), "a list of objects of subclasses"),
    "a function as callback": (lambda: fit(callbacks=[print]), "ps.infer.Callback"),
    "a number as schedule": (lambda: fit(schedule=0.5), "a function of progress"),
    "a rate in words": (lambda: fit(learning_rate="1e-3"), "0 or more, got '1e-3'"),
    "a negative rate": (lambda: fit(learning_rate={"*": -1.0}), "0 or more, got -1.0"),
}


@pytest.mark.parametrize("name", CASES)
def test_arguments_of_the_wrong_kind_name_the_right_one(name: str) -> None:
    call, message = CASES[name]
    state = {key: value.clone() for key, value in BNN.state_dict().items()}
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        call()
    assert all(torch.equal(value, state[key]) for key, value in BNN.state_dict().items())
