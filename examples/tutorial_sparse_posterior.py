"""From a torch model to a sparse posterior and a smaller network.

    python examples/tutorial_sparse_posterior.py

The code of docs/tutorials/sparse-posterior.md, which explains it.
`python docs/tutorials/scripts.py` writes this file from that page.
"""

import copy

import matplotlib.pyplot as plt
import torch
from torch import nn

import pyrosparse as ps
from pyrosparse.evidence import evaluate

epochs = 30
hidden = 64


# The network and the data
torch.manual_seed(0)
data = ps.data.load("digits", validation=0.1)
net = nn.Sequential(
    nn.Flatten(),
    nn.Linear(64, hidden),
    nn.ReLU(),
    nn.Linear(hidden, hidden),
    nn.ReLU(),
    nn.Linear(hidden, 10),
)
print(data.train, data.test)


# A prior, a guide, and inference
bnn = ps.lift(net, ps.Gaussian(scale=0.3, posterior="normal"))
model = ps.classifier(bnn, n=len(data.train))
rates = {"guide.*": 1e-2, "*": 3e-3}
run = ps.fit(model, bnn.guide, data.train, epochs=epochs, learning_rate=rates, progress=False)

dense = evaluate(model, bnn.guide, data.test)
print(f"test accuracy {dense['accuracy']:.3f}, NLL {dense['nll']:.3f} nats per image")

figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
axes.plot([entry["epoch"] for entry in run.history], [entry["loss"] for entry in run.history])
axes.set(xlabel="epoch", ylabel="negative ELBO (nats)")
plt.show()


# Which weights do the data need?
scores = torch.cat([score.flatten() for score in bnn.scores().values()])

figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
axes.hist(scores.clamp(max=8).numpy(), bins=60)
axes.set(xlabel="|mean| / standard deviation", ylabel="weights")
plt.show()
print(f"{(scores < 1).float().mean():.0%} of the weights have a score below 1")


sparsities = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
accuracies = []
for sparsity in sparsities:
    pruned = copy.deepcopy(bnn)
    pruned.freeze(ps.prune.magnitude(pruned.scores(), sparsity))
    likelihood = ps.classifier(pruned, n=len(data.train))
    accuracies.append(evaluate(likelihood, pruned.guide, data.validation)["accuracy"])

figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
axes.plot(sparsities, accuracies, "o-")
axes.set(xlabel="sparsity", ylabel="accuracy")
plt.show()


# Prune and train on
bnn.freeze(ps.prune.magnitude(bnn.scores(), 0.8))
ps.fit(model, bnn.guide, data.train, epochs=epochs // 3, learning_rate=rates, progress=False)
sparse = evaluate(model, bnn.guide, data.test)
print(f"80 % of the weights are zero: test accuracy {sparse['accuracy']:.3f}")


# A smaller network
gated = ps.lift(net, ps.BetaBernoulli(temperature=0.3, pi="collapsed"))
ps.fit(
    ps.classifier(gated, len(data.train)),
    gated.guide,
    data.train,
    epochs=2 * epochs,
    learning_rate={"guide.*": 0.1, "*": 2e-3},
    kl_warmup=epochs // 6,
    progress=False,
)
example = data.test.x[:1]
small = ps.compact(net, gated.masks(at_least=1), example)
print(small.account)


report = ps.report(net, small, example, data=data.test, batch_sizes=(1,), repeats=10)
print(report)
