"""Compress networks of Hugging Face on data by name: a classifier of sequences, a language model.

    python examples/compress_hugging_face.py

Both are tiny and start from random weights, so that nothing is downloaded. Give your own network,
such as ``AutoModelForSequenceClassification.from_pretrained(...)``, and your tokenizer's batches.
A network that is trained already goes with ``pretrain=0`` into recipes that have the option.
This needs transformers.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

import pyrosparse as ps

WORDS, LENGTH = 20, 12


def texts(count: int) -> dict[str, Tensor]:
    """Sequences that go up by one or two, padded; the label is by how much."""
    step = torch.randint(1, 3, (count, 1))
    ids = 1 + (torch.randint(WORDS - 1, (count, 1)) + step * torch.arange(LENGTH)) % (WORDS - 1)
    mask = (torch.arange(LENGTH) < torch.randint(4, LENGTH + 1, (count, 1))).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": step[:, 0] - 1}


def loader(named: dict[str, Tensor]) -> DataLoader[Any]:
    """Batches as a tokenizer and a collator give them: dicts."""
    rows: Any = [
        {key: one[row] for key, one in named.items()} for row in range(len(named["labels"]))
    ]
    return DataLoader(rows, batch_size=32, shuffle=True)


def main(epochs: int = 20, count: int = 512) -> dict[str, float]:
    training, test = texts(count), texts(count // 4)

    # A classifier. Its logits have a name, which the model says; its test data are a dict.
    bert = BertForSequenceClassification(
        BertConfig(
            vocab_size=WORDS,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            num_labels=2,
        )
    )
    recipe = ps.recipes.OneShot(
        epochs=epochs, structure="filter", sparsity=0.5, fine_tune=epochs, learning_rate=3e-3
    )
    classified = ps.compress(
        bert,
        loader(training),
        recipe,
        model=lambda network, n: ps.classifier(network, n, output="logits"),
        test=test,
    )
    print(classified, end="\n\n")

    # A language model: the labels are the tokens themselves. All data at once are a dict, too.
    tokens, held_out = (
        {name: one for name, one in data.items() if name != "labels"} for data in (training, test)
    )
    gpt = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=WORDS,
            n_positions=LENGTH,
            n_embd=16,
            n_layer=2,
            n_head=4,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    gpt.set_attn_implementation("eager")  # whose steps are captured
    predicted = ps.compress(
        gpt,
        tokens,
        replace(recipe, batch_size=32),
        model=lambda network, n: ps.language_model(network, n, output="logits"),
        test=held_out,
        dense=False,
    )
    print(predicted)
    return {
        "accuracy": classified.quality["accuracy"],
        "perplexity": predicted.quality["perplexity"],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--count", type=int, default=512, help="training sequences")
    torch.manual_seed(0)
    main(**vars(parser.parse_args()))
