"""Write your own prior and recipe.

    python examples/tutorial_own_prior_and_recipe.py

The code of docs/tutorials/own-prior-and-recipe.md, which explains it.
`python docs/tutorials/scripts.py` writes this file from that page.
"""

from dataclasses import dataclass
from typing import ClassVar

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch

import pyrosparse as ps
from pyrosparse.recipes import Recipe, option

epochs = 10
hidden = 32


# A prior
@dataclass(frozen=True)
class StudentT:
    """A prior of independent Student t distributions."""

    degrees: float = 3.0
    scale: float = 0.1

    def __call__(self, target):
        zeros = torch.zeros_like(target.value)
        prior = dist.StudentT(self.degrees, zeros, self.scale)
        return pyro.sample(target.site, prior.to_event(zeros.dim()))


torch.manual_seed(0)
data = ps.data.load("digits")
net = ps.networks.fcn(data.image_shape, hidden=(hidden, hidden))
bnn = ps.lift(net, ps.from_pyro(StudentT()))
model = ps.classifier(bnn, n=len(data.train))
rates = {"guide.*": 1e-2, "*": 3e-3}
ps.fit(model, bnn.guide, data.train, epochs=epochs, learning_rate=rates, progress=False)
print(ps.evidence.evaluate(model, bnn.guide, data.test))
print(bnn.masks(threshold=1.0, at_least=1).table())


# A recipe
@dataclass(frozen=True)
class HeavyTails(Recipe):
    """Train under Student t priors, prune by signal-to-noise once, and train on."""

    name: ClassVar[str] = "heavy-tails"
    knob: ClassVar[str] = "sparsity"
    sparsity: float = option(0.9, "share of the pruned weights", within="[0, 1)", share=True)
    degrees: float = option(3.0, "degrees of freedom of the prior", within="(0, inf)")
    epochs: int = option(30, "passes over the training data, before and after", within="1..")
    batch_size: int = option(64, "examples in a step", within="1..")

    def train(self, job):
        bnn = ps.lift(job.net, ps.from_pyro(StudentT(self.degrees)))
        rates = {"guide.*": 1e-2, "*": 3e-3}
        job.fit(bnn, stage="dense", epochs=self.epochs, learning_rate=rates)
        bnn.freeze(ps.prune.magnitude(bnn.scores(), self.sparsity))
        job.fit(bnn, stage="sparse", epochs=self.epochs, learning_rate=rates)
        return bnn


# Compare it
sparsities = (0.5, 0.8, 0.9, 0.95)
recipes = {
    "heavy-tails": lambda sparsity: HeavyTails(sparsity=sparsity, epochs=epochs),
    "magnitude": lambda sparsity: ps.recipes.Magnitude(sparsity=sparsity, epochs=2 * epochs),
}
accuracies = {
    name: {
        sparsity: [
            ps.compress(net, data, make(sparsity), dense=False, progress=False).quality["accuracy"]
        ]
        for sparsity in sparsities
    }
    for name, make in recipes.items()
}

figure, axes = plt.subplots(figsize=(5.5, 3.2), layout="constrained")
for name, found in accuracies.items():
    axes.plot(list(found), [values[0] for values in found.values()], "o-", label=name)
axes.set(xlabel="sparsity", ylabel="test accuracy")
axes.legend()
plt.show()
