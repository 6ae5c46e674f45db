"""Transformers of torch, torchvision, timm and Hugging Face: gates of heads and of neurons."""

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.compaction.masked import masked
from pyrosparse.compaction.reference import reference
from pyrosparse.lifting.layers import is_conv1d
from tests.transformer_nets import CASES, Encoder, case

EXACT = {"rtol": 1e-12, "atol": 1e-12}


class Given(ps.Method):
    """Gates of which each is what it is set to: a point."""

    kinds = ("input",)

    def init(self, target):
        return {"gain": torch.ones(target.shape)}

    def prior(self, target, q, x):
        return pyro.sample(target.site, dist.Delta(q["gain"]).to_event(1))

    guide = prior

    def score(self, target, q):
        return q["gain"].abs()

    def mean(self, target, q, x):
        return q["gain"]


class PerExample(Given):
    """The same gates, drawn for each example."""

    def prior(self, target, q, x):
        pyro.sample(target.site, dist.Delta(q["gain"]).to_event(1))
        return q["gain"].expand(len(x), -1)

    def guide(self, target, q, x):
        return pyro.sample(target.site, dist.Delta(q["gain"]).to_event(1))


def both(net: nn.Module) -> list[ps.Target]:
    return [*ps.heads(net), *ps.ffn(net)]


def set_gain(bnn: ps.Lifted, key: str, place: int, value: float) -> None:
    (entry,) = [one for one in bnn.guide.entries if one.target.key == key]
    with torch.no_grad():
        entry.tensors()["gain"][place] = value


def columns(layer: nn.Module) -> Tensor:
    """A layer's weight with its inputs in the second dimension."""
    return layer.weight.T if is_conv1d(layer) else layer.weight


@pytest.mark.parametrize("method", [Given, PerExample])
@pytest.mark.parametrize("name", CASES)
def test_gates_of_one_change_nothing_and_one_of_zero_takes_its_columns(name, method):
    made = case(name)
    expected = made.logits(made.net)
    targets = both(made.net)
    bnn = ps.lift(made.net, method(), targets).eval()
    torch.testing.assert_close(made.logits(bnn), expected, **EXACT)
    torch.testing.assert_close(made.logits(bnn.mean_forward), expected, **EXACT)
    for target in targets[:1] + targets[-1:]:
        set_gain(bnn, target.key, 1, 0.0)
        layer = made.net.get_submodule(target.name)
        before = layer.weight.detach().clone()
        with torch.no_grad():
            columns(layer)[:, target.block : 2 * target.block] = 0.0
            expected = made.logits(made.net)
            layer.weight.copy_(before)
        assert not torch.allclose(expected, made.logits(made.net))
        torch.testing.assert_close(made.logits(bnn), expected, **EXACT)
        with torch.no_grad():
            torch.testing.assert_close(made.logits(bnn), expected, **EXACT)
            torch.testing.assert_close(made.logits(bnn.mean_forward), expected, **EXACT)
        set_gain(bnn, target.key, 1, 1.0)
    for target in targets:
        set_gain(bnn, target.key, 0, 0.0)
    masks = bnn.masks(0.5)
    assert {len(masks[t.key]) for t in targets} == {t.shape[0] for t in targets}
    assert all(mask[0] == 0 and mask[1:].all() for mask in masks.values())
    expected = made.logits(bnn.mean_forward)
    torch.testing.assert_close(made.logits(reference(made.net, masks)), expected, **EXACT)
    folded = masked(made.net, masks)
    torch.testing.assert_close(made.logits(folded), expected, **EXACT)
    for target in targets:  # what cuts them needs nothing but these zeros
        assert not columns(folded.get_submodule(target.name))[:, : target.block].any()
    bnn.freeze(masks)
    torch.testing.assert_close(made.logits(bnn), expected, **EXACT)


@pytest.mark.parametrize("name", CASES)
def test_gradients_reach_every_gate_and_every_weight(name):
    made = case(name)
    gated = both(made.net)
    bnn = ps.lift(
        made.net,
        [(ps.BetaBernoulli(), gated), (ps.Gaussian(posterior="normal"), ps.weights(made.net))],
    )

    def program(**inputs):
        result = bnn(**inputs)
        logits = result if made.output is None else result[made.output]
        pyro.factor("likelihood", -logits.square().sum())

    Trace_ELBO().differentiable_loss(program, bnn.guide, **made.inputs).backward()
    unused = {name for name, p in bnn.named_parameters() if p.requires_grad and p.grad is None}
    assert not unused, unused
    silent = [
        e.target.key
        for e in bnn.guide.entries
        if not any(p.grad.abs().sum() > 0 for p in e.tensors().values() if p.requires_grad)
    ]
    assert not silent


def fits(made):
    """A model, its data as tuples and as dicts, of which two are enough."""
    if made.net.__class__.__name__.endswith("CausalLM") or "LMHead" in type(made.net).__name__:
        return ps.language_model, made.inputs
    return ps.classifier, made.inputs | {"labels": made.labels}


@pytest.mark.parametrize("capture", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_fit_takes_dicts_and_lowers_the_loss(name, capture):
    made = case(name, torch.float32)
    targets = both(made.net)
    bnn = ps.lift(made.net, ps.HardConcrete(), targets)
    model, data = fits(made)
    run = ps.fit(
        model(bnn, 2, output=made.output),
        bnn.guide,
        data,
        epochs=3,
        batch_size=2,
        learning_rate=1e-2,
        capture=capture,
        progress=False,
        validation=data,
    )
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    assert run.history[-1]["validation_nll"] > 0
    if capture:
        said = run.svi.explain()
        assert said.startswith("Captured") and "; ran" in said, said
