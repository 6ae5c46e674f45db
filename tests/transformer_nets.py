"""Tiny transformers as people have them, with random weights: each with its inputs and its logits.

Those of libraries that are not installed are skipped by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

CLASSES, WORDS = 3, 20


@dataclass
class Case:
    """A network, what it is called with, two data of it, and where its logits are."""

    net: nn.Module
    inputs: dict[str, Tensor]
    output: str | None = None

    def logits(self, net: Callable[..., Any]) -> Tensor:
        result = net(**self.inputs)
        return result if self.output is None else result[self.output]

    @property
    def labels(self) -> Tensor:
        return torch.tensor([0, 2])


def images() -> Tensor:
    return torch.randn(2, 3, 8, 8)


def words() -> dict[str, Tensor]:
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    return {"input_ids": torch.randint(2, WORDS, (2, 5)), "attention_mask": mask}


def hugging_face(name: str, config: str, **options: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    plain = {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 12,
        "vocab_size": WORDS,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "num_labels": CLASSES,
        "use_cache": False,
    }
    net = getattr(transformers, name)(getattr(transformers, config)(**plain | options))
    if name.endswith(("CausalLM", "LMHeadModel")):
        # The others look at the values of a mask, which a captured step cannot.
        net.set_attn_implementation("eager")
    return net


class Encoder(nn.Module):
    """A classifier of sequences around torch's encoder layers, whose evaluation has a fast path."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            8, 4, 12, dropout=0.0, activation="gelu", batch_first=batch_first
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=batch_first)
        self.head = nn.Linear(8, CLASSES)
        self.batch_first = batch_first

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        x = self.encoder(x, src_key_padding_mask=padding)
        return self.head((x if self.batch_first else x.transpose(0, 1))[:, 0])


def encoder() -> Case:
    padding = torch.tensor([[False] * 5, [False, False, False, True, True]])
    return Case(Encoder(), {"x": torch.randn(2, 5, 8), "padding": padding})


def encoder_time_first() -> Case:
    return Case(Encoder(batch_first=False), {"x": torch.randn(2, 5, 8)})


def torchvision_vit() -> Case:
    from torchvision.models import VisionTransformer

    net = VisionTransformer(8, 4, 2, 4, 8, 12, num_classes=CLASSES)
    nn.init.normal_(net.heads.head.weight)  # zeros otherwise, and nothing would be seen behind it
    return Case(net, {"x": images()})


def timm_vit() -> Case:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    net = timm.models.VisionTransformer(
        img_size=8,
        patch_size=4,
        embed_dim=8,
        depth=2,
        num_heads=4,
        mlp_ratio=1.5,
        num_classes=CLASSES,
    )
    return Case(net, {"x": images()})


def bert() -> Case:
    net = hugging_face("BertForSequenceClassification", "BertConfig")
    return Case(net, words(), "logits")


def gpt2() -> Case:
    options = {"n_embd": 8, "n_head": 4, "n_layer": 2, "n_inner": 12, "n_positions": 8}
    net = hugging_face("GPT2LMHeadModel", "GPT2Config", **options)
    return Case(net, words(), "logits")


def llama() -> Case:
    net = hugging_face("LlamaForCausalLM", "LlamaConfig", num_key_value_heads=2)
    return Case(net, words(), "logits")


def vit() -> Case:
    net = hugging_face("ViTForImageClassification", "ViTConfig", image_size=8, patch_size=4)
    return Case(net, {"pixel_values": images()}, "logits")


CASES = {
    one.__name__: one
    for one in (encoder, encoder_time_first, torchvision_vit, timm_vit, bert, gpt2, llama, vit)
}


def case(name: str, dtype: torch.dtype = torch.float64) -> Case:
    """A case by name, in evaluation mode, its weights far enough from 0 for each to be seen."""
    torch.manual_seed(0)
    made = CASES[name]()
    made.net.to(dtype).eval()
    with torch.no_grad():
        for parameter in made.net.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    made.inputs = {
        key: value.to(dtype) if value.is_floating_point() else value
        for key, value in made.inputs.items()
    }
    return made
