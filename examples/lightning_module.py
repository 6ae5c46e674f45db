"""A lifted network in a LightningModule, which trains the ELBO.

pip install lightning && python examples/lightning_module.py --epochs 20
"""

from __future__ import annotations

import argparse

import lightning
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import pyrosparse as ps


class Sparse(lightning.LightningModule):
    """Trains a network under a Gaussian prior.

    net: a classifier.
    n:   the number of training data, in which the ELBO is counted.
    """

    def __init__(self, net: torch.nn.Module, n: int) -> None:
        super().__init__()
        self.n = n
        self.bnn = ps.lift(net, ps.Gaussian(scale=0.3, posterior="normal"))
        self.model = ps.classifier(self.bnn, n)
        self.elbo = TraceMeanField_ELBO()

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        loss = self.elbo.differentiable_loss(self.model, self.bnn.guide, *batch) / self.n
        self.log("loss", loss.detach())  # negative ELBO, nats per datum
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.bnn.parameters(), lr=3e-3)


def main(epochs: int = 20, hidden: int = 64, seed: int = 0) -> dict[str, float]:
    lightning.seed_everything(seed, verbose=False)
    data = ps.data.load("digits")
    net = ps.networks.fcn(data.image_shape, hidden=(hidden, hidden))
    module = Sparse(net, n=len(data.train))
    loader = DataLoader(TensorDataset(data.train.x, data.train.y), batch_size=64, shuffle=True)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)

    module.eval()
    scores = ps.evidence.evaluate(module.model, module.bnn.guide, data.test)
    masks = module.bnn.masks(threshold=1.0, at_least=1)
    print(f"test accuracy {scores['accuracy']:.3f}; {masks.sparsity:.0%} of the weights can go")
    return {
        "accuracy": scores["accuracy"],
        "loss": float(trainer.callback_metrics["loss"]),
        "sparsity": masks.sparsity,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
