"""Files of networks that were cut in place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import pyrosparse as ps
from pyrosparse.storage import StorageError
from tests.compaction.cases import same
from tests.compaction.test_gains import Looking
from tests.compaction.test_in_place import Grouped, draw, randomise


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 4, 12, batch_first=True)
    return randomise(nn.TransformerEncoder(layer, 1, enable_nested_tensor=False))


def test_a_network_comes_back_into_one_like_the_original(tmp_path: Path) -> None:
    net = randomise(Grouped(False))
    net.o.weight.data[:, 8:16] = 0
    small = ps.compact(net, None, draw(2, 5, 8))
    path = ps.save(tmp_path / "small.safetensors", small)
    whole = Grouped(False)
    again = ps.load(path, into=whole)
    assert type(again) is Grouped and again.num_heads == 4 and whole.num_heads == 6
    assert torch.equal(again(draw(3, 4, 8)), small(draw(3, 4, 8)))
    assert str(again.account) == str(small.account)
    assert ps.save(tmp_path / "again.safetensors", again).read_bytes() == path.read_bytes()


def test_attention_of_torchs_that_was_cut_comes_back(tmp_path: Path) -> None:
    net = encoder()
    net.layers[0].self_attn.out_proj.weight.data[:, 2:4] = 0
    small = ps.compact(net, None, draw(2, 5, 8))
    again = ps.load(ps.save(tmp_path / "small.safetensors", small), into=encoder())
    assert again.layers[0].self_attn.num_heads == 3
    with torch.no_grad():
        assert same(again(draw(2, 3, 8)), small(draw(2, 3, 8)))


def test_an_encoder_that_was_cut_takes_padded_batches(tmp_path: Path) -> None:
    def nested() -> nn.Module:
        layer = nn.TransformerEncoderLayer(8, 4, 12, batch_first=True)
        return randomise(nn.TransformerEncoder(layer, 2))

    net = nested()
    net.layers[0].self_attn.out_proj.weight.data[:, 2:4] = 0
    small = ps.compact(net, None, draw(2, 5, 8))
    again = ps.load(ps.save(tmp_path / "small.safetensors", small), into=nested())
    padding = torch.tensor([[0, 0, 1]] * 2).bool()
    with torch.no_grad():
        expected = net(draw(2, 3, 8), src_key_padding_mask=padding)[:, :2]
        assert same(again(draw(2, 3, 8), src_key_padding_mask=padding)[:, :2], expected)


def test_what_it_does_not_fit_is_refused(tmp_path: Path) -> None:
    net = randomise(Grouped(False))
    net.o.weight.data[:, 8:16] = 0
    path = ps.save(tmp_path / "small.safetensors", ps.compact(net, None, draw(2, 5, 8)))
    with pytest.raises(StorageError, match=r"cut in place.*into=net"):
        ps.load(path)
    with pytest.raises(StorageError, match=r"class .*Grouped, but `into` is a .*Linear"):
        ps.load(path, into=nn.Linear(2, 2))
    other = Grouped(False)
    other.q_norm = nn.Identity()
    with pytest.raises(StorageError, match="q_norm"):
        ps.load(path, into=other)


def test_a_hugging_face_model_comes_back_by_its_class(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="Hugging Face's models")
    config = transformers.LlamaConfig(
        vocab_size=20,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=2,
    )
    torch.manual_seed(0)
    net = randomise(transformers.LlamaForCausalLM(config))
    for layer in net.model.layers:
        layer.mlp.down_proj.weight.data[:, ::2] = 0
        layer.self_attn.o_proj.weight.data[:, :4] = 0
    ids = torch.randint(0, 20, (2, 5), generator=torch.Generator().manual_seed(0))
    small = ps.compact(net, None, {"input_ids": ids})
    path = ps.save(tmp_path / "small.safetensors", small)
    with pytest.raises(StorageError, match=r"trusted=\[LlamaForCausalLM\]"):
        ps.load(path)
    again = ps.load(path, trusted=[transformers.LlamaForCausalLM])
    assert torch.equal(again(ids).logits, small(ids).logits)
    # All its layers agree, so that a configuration makes it, and Hugging Face's own files hold it.
    assert (small.config.num_key_value_heads, small.config.intermediate_size) == (1, 6)
    small.save_pretrained(tmp_path / "model")
    own = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float64)
    assert same(own.eval()(ids).logits, net(ids).logits)


def test_gains_beside_modules_come_back(tmp_path: Path) -> None:
    net = randomise(Looking())
    ids = torch.arange(10).view(2, 5) % 9
    masks = {"head.input": torch.linspace(0.5, 1.5, 6), "down.input": torch.arange(8) % 2}
    small = ps.compact(net, masks, ids)
    path = ps.save(tmp_path / "small.safetensors", small)
    again = ps.load(path, into=Looking())
    assert again.head.weight is again.table.weight
    for batch in (ids, ids[:1, :3]):
        assert torch.equal(again(batch), small(batch))
    assert ps.save(tmp_path / "again.safetensors", again).read_bytes() == path.read_bytes()


def test_parametrizations_are_permanent_in_files(tmp_path: Path) -> None:
    """As in the compact network: the network that is loaded into may have them."""

    def parametrized() -> nn.Module:
        net = randomise(Grouped(False))
        nn.utils.parametrizations.weight_norm(net.o)
        return net

    net = parametrized()
    net.o.parametrizations.weight.original1.data[:, 8:16] = 0
    small = ps.compact(net, None, draw(2, 5, 8))
    path = ps.save(tmp_path / "small.safetensors", small)
    whole = parametrized()
    again = ps.load(path, into=whole)
    assert torch.equal(again(draw(3, 4, 8)), small(draw(3, 4, 8)))
    assert nn.utils.parametrize.is_parametrized(whole.o)
