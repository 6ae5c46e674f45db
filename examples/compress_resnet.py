"""Make a stock torchvision ResNet smaller on your own folder of images.

    python examples/compress_resnet.py --images photos/ --model resnet18 --epochs 20

The folder has one folder of images a class, or train/ and test/ with these in them. Without one the
digits that come with scikit-learn are written as images, to show that it runs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

import pyrosparse as ps
from pyrosparse.evidence import evaluate
from pyrosparse.infer import schedules


def write_digits(folder: Path, count: int) -> None:
    digits = load_digits()
    for number, (pixels, label) in enumerate(
        zip(digits.images[:count], digits.target[:count], strict=True)
    ):
        file = folder / str(label) / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray((pixels * 15.9).astype("uint8")).convert("RGB").save(file)


def main(
    images: str | None = None,
    model: str = "resnet18",
    size: int = 32,
    pretrain: int = 5,
    epochs: int = 15,
    kl_scale: float = 1.0,
    output: str | None = None,
    digits: int = 1797,
) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        if images is None:
            write_digits(Path(folder), digits)
        data = ps.data.image_folder(images or folder, size=(size, size))
    torch.manual_seed(0)
    net: nn.Module = torchvision.models.get_model(model, num_classes=len(data.classes))
    net = net.to(memory_format=torch.channels_last)
    n = len(data.train)

    # The dense network first; with weights of your own, load them and skip this.
    dense = ps.lift(net, ps.Gaussian(scale=1.0))
    ps.fit(ps.classifier(dense, n), dense.guide, data.train, epochs=pretrain)
    before = evaluate(ps.classifier(dense, n), dense.guide, data.test)

    # Gates behind every batch normalisation and before the last layer.
    bnn = ps.lift(net, ps.BetaBernoulli(kl_scale=kl_scale, temperature=0.3, pi="collapsed"))
    ps.fit(
        ps.classifier(bnn, n),
        bnn.guide,
        data.train,
        epochs=epochs,
        learning_rate={"guide.*": 0.05, "*": 1e-3},
        schedule=schedules.cosine(0.01),
        kl_warmup=2,
        compact_every=1,
    )
    example = data.test.x[:1]
    small = ps.compact(net, bnn.masks(), example)
    print(small.account)
    report = ps.report(net, small, example, data=data.test, batch_sizes=(1, 32))
    print(report)
    if output is not None:
        ps.save(output, small)  # ps.load(output) needs neither torchvision nor this script
    parameters, macs = report.parameters, report.total_macs
    assert report.quality is not None
    return {
        "accuracy before": before["accuracy"],
        "accuracy": report.quality[1].accuracy,
        "parameters left": parameters[1] / parameters[0],
        "MACs left": macs[1] / macs[0],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", metavar="FOLDER")
    parser.add_argument("--model", default="resnet18", help="any of torchvision's ResNets")
    parser.add_argument("--size", type=int, default=32, help="images are resized to its square")
    parser.add_argument("--pretrain", type=int, default=5, metavar="EPOCHS")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--kl-scale", type=float, default=1.0, help="above 1: smaller")
    parser.add_argument("--output", metavar="FILE", help="where the compact network is saved")
    main(**vars(parser.parse_args()))
