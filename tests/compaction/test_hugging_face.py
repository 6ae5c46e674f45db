"""Hugging Face's models stay such models; hooks of theirs that only record do not matter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pyrosparse as ps

transformers = pytest.importorskip("transformers", reason="needs transformers")


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=24, max_position_embeddings=20,
    )  # fmt: skip
    net = transformers.BertForSequenceClassification(config).eval()
    for layer in net.bert.encoder.layer:
        layer.output.dense.weight.data[:, ::2] = 0
    return net


def test_a_model_that_has_recorded_is_cut_like_others(tmp_path: Path) -> None:
    ids = torch.randint(30, (3, 7))
    plain, used = model(), model()
    with torch.no_grad():
        used(ids, output_hidden_states=True, output_attentions=True)
    assert any(module._forward_hooks for module in used.modules())
    expected, small = (ps.compact(net, None, {"input_ids": ids}) for net in (plain, used))
    assert small.account.parameters == expected.account.parameters
    assert small.account.parameters[1] < small.account.parameters[0]
    with torch.no_grad():
        found = small(ids, output_hidden_states=True)
        original = used(ids, output_hidden_states=True)
    torch.testing.assert_close(found.logits, original.logits, rtol=1e-4, atol=1e-5)
    assert len(found.hidden_states) == len(original.hidden_states)
    path = ps.save(tmp_path / "a", small)
    for again in (
        ps.load(path, trusted=[type(used)]),
        ps.load(path, into=used),
    ):
        assert torch.equal(again(ids).logits, small(ids).logits)


def test_gates_act_on_it() -> None:
    ids = torch.randint(30, (3, 7))
    net = model()
    with torch.no_grad():
        net(ids, output_hidden_states=True)
    bnn = ps.lift(net, ps.BetaBernoulli(initial=0.5), ps.ffn(net)).eval()
    with torch.no_grad():
        assert not torch.equal(bnn(ids).logits, net(ids).logits)


def test_a_model_that_torch_fx_can_trace_stays_one() -> None:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", num_labels=3
    )
    net = transformers.ResNetForImageClassification(config).eval()
    net.resnet.encoder.stages[1].layers[0].layer[1].convolution.weight.data[:, ::2] = 0
    images = torch.randn(2, 3, 32, 32)
    small = ps.compact(net, None, images)
    assert type(small) is type(net)
    assert small.account.parameters[1] < small.account.parameters[0]
    with torch.no_grad():
        torch.testing.assert_close(small(images).logits, net(images).logits, rtol=1e-4, atol=1e-5)
