"""Regression with uncertainty, pruned, checked in ArviZ.

    python examples/tutorial_regression.py

The code of docs/tutorials/regression.md, which explains it.
`python docs/tutorials/scripts.py` writes this file from that page.
"""

import copy

import matplotlib.pyplot as plt
import torch
from arviz_stats import loo, summary
from pyro.infer import Predictive
from torch import nn

import pyrosparse as ps

epochs = 1500
draws = 100


# Data with a gap
def truth(x):
    return torch.sin(3 * x) + 0.3 * x


torch.manual_seed(0)
x = torch.cat([torch.linspace(-2, -0.5, 60), torch.linspace(0.5, 2, 60)])[:, None]
y = truth(x) + 0.1 * torch.randn_like(x)
held_out = 4 * torch.rand(60, 1) - 2
held_out = held_out[held_out.abs()[:, 0] > 0.5]
test = held_out, truth(held_out) + 0.1 * torch.randn_like(held_out)


# Two runs
def train(bnn, epochs, seed=0):
    model = ps.regressor(bnn, n=len(x), noise=0.1)
    rates = {"guide.*": 1e-2, "*": 1e-2}
    ps.fit(
        model,
        bnn.guide,
        (x, y),
        epochs=epochs,
        batch_size=len(x),
        learning_rate=rates,
        seed=seed,
        progress=False,
    )
    return model


runs, models = [], []
for seed in range(2):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1))
    runs.append(ps.lift(net, ps.Gaussian(scale=1.0, posterior="normal")))
    models.append(train(runs[-1], epochs, seed))


# Prune, and train on
pruned = copy.deepcopy(runs[0])
pruned.freeze(ps.prune.magnitude(pruned.scores(), 0.75))
pruned_model = train(pruned, epochs)
models[0] = train(runs[0], epochs)


# Prediction with uncertainty
grid = torch.linspace(-3, 3, 100)[:, None]
figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
shown = {"dense": runs[0], "75 % pruned": pruned}
for axes, (name, bnn) in zip(panels, shown.items(), strict=True):
    bnn.eval()
    predict = Predictive(bnn, guide=bnn.guide, num_samples=draws, return_sites=("_RETURN",))
    with torch.no_grad():
        f = predict(grid)["_RETURN"][..., 0]
    mean, deviation = f.mean(0), f.std(0)
    axes.plot(grid[:, 0], mean)
    axes.fill_between(grid[:, 0], mean - 2 * deviation, mean + 2 * deviation, alpha=0.25)
    axes.plot(grid[:, 0], truth(grid)[:, 0], "k--", linewidth=0.8)
    axes.plot(x[:, 0], y[:, 0], ".", markersize=3)
    axes.set(title=name, xlabel="x", ylim=(-3, 3))
plt.show()


# In ArviZ
tree = ps.to_datatree(runs, models, test, draws=draws)
print(summary(tree, var_names=["norm"], kind="stats"))
agreement = ps.diagnostics.rhat(tree)["y"].nanmedian().item()
print(f"R-hat in function space, median over the test data: {agreement:.2f}")


for name, (bnn, model) in {"dense": (runs[0], models[0]), "pruned": (pruned, pruned_model)}.items():
    print(name, loo(ps.to_datatree(bnn, model, (x, y), draws=draws)), sep="\n")


compared = {"dense": (runs[0], models[0]), "pruned": (pruned, pruned_model)}
comparison = ps.compare_models(compared, test, draws=draws)
print(comparison)
