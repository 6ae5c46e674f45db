"""A lifted network inside my own Pyro model.

    python examples/tutorial_own_pyro_model.py

The code of docs/tutorials/own-pyro-model.md, which explains it.
`python docs/tutorials/scripts.py` writes this file from that page.
"""

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS, SVI, Predictive, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pyrosparse as ps

steps = 1500
samples = 80


# Counts in groups
pyro.set_rng_seed(0)
groups, n = 6, 60
x = 4 * torch.rand(n, 1) - 2
group = torch.arange(n) % groups
truth = 0.5 * torch.randn(groups)
rate = (1.5 + torch.sin(1.5 * x[:, 0]) + truth[group]).exp()
y = torch.poisson(rate)


# The model
net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
bnn = ps.lift(net, ps.Gaussian(scale=1.5, posterior="normal"), on=ps.weights(net, "*"))


def model(x, group, y=None):
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    with pyro.plate("groups", groups):
        offset = pyro.sample("offset", dist.Normal(0.0, tau))
    log_rate = bnn(x)[:, 0] + offset[group]
    with pyro.plate("data", n):
        return pyro.sample("y", dist.Poisson(log_rate.exp()), obs=y)


# SVI
head = AutoNormal(pyro.poutine.block(model, expose=["tau", "offset"]))


def guide(x, group, y=None):
    head(x, group, y)
    bnn.guide(x, group, y)


pyro.clear_param_store()
svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), TraceMeanField_ELBO())
losses = [svi.step(x, group, y) for _ in range(steps)]

figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
axes.plot(losses)
axes.set(xlabel="step", ylabel="negative ELBO (nats)", yscale="log")
plt.show()


# NUTS as the truth
nuts = MCMC(
    NUTS(model, max_tree_depth=5),
    num_samples=samples,
    warmup_steps=samples,
    disable_progbar=True,
)
nuts.run(x, group, y)
draws = nuts.get_samples()


bnn.eval()
grid = torch.linspace(-3, 3, 50)[:, None]
where = torch.zeros(50, dtype=torch.long)
weights = {target.site: draws[target.site] for target in bnn.targets}
with torch.no_grad():
    curves = {
        "SVI": Predictive(bnn, guide=bnn.guide, num_samples=200, return_sites=("_RETURN",))(grid),
        "NUTS": Predictive(bnn, posterior_samples=weights, return_sites=("_RETURN",))(grid),
    }

figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name, curve in curves.items():
    f = curve["_RETURN"][..., 0]
    mean, deviation = f.mean(0), f.std(0)
    axes.plot(grid[:, 0], mean, label=name)
    axes.fill_between(grid[:, 0], mean - 2 * deviation, mean + 2 * deviation, alpha=0.25)
axes.plot(grid[:, 0], 1.5 + torch.sin(1.5 * grid[:, 0]), "k--", label="truth")
axes.set(xlabel="x", ylabel="log rate f(x)")
axes.legend()
plt.show()

with torch.no_grad():
    tau = torch.stack([head(x, group, y)["tau"] for _ in range(200)])
print(f"tau by SVI:  {tau.mean():.2f} ± {tau.std():.2f}")
print(f"tau by NUTS: {draws['tau'].mean():.2f} ± {draws['tau'].std():.2f}")
print(f"true spread: {truth.std():.2f}")


# Sparsity from the draws of NUTS
bnn.match_moments(weights)
for name, score in bnn.scores().items():
    print(f"{name:9} {score.flatten().tolist()}")
