"""Heads and neurons of a transformer.

    python examples/tutorial_transformer.py

The code of docs/tutorials/transformer.md, which explains it.
`python docs/tutorials/scripts.py` writes this file from that page.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import pyrosparse as ps

epochs = 30
images = 1500


# A transformer
class Rows(nn.Module):
    def __init__(self, width=32, heads=4, neurons=64, layers=2):
        super().__init__()
        self.read = nn.Linear(8, width)
        self.place = nn.Parameter(0.1 * torch.randn(8, width))
        layer = nn.TransformerEncoderLayer(width, heads, neurons, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.answer = nn.Linear(width, 10)

    def forward(self, x):
        rows = x.flatten(1).unflatten(1, (8, 8))
        return self.answer(self.encoder(self.read(rows) + self.place).mean(1))


data = ps.data.load("digits")
x, y = data.train.x[:images], data.train.y[:images]
torch.manual_seed(0)
net = Rows()
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
for _ in range(epochs):
    for rows in torch.randperm(len(x)).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
        optimizer.step()
net.eval()


def accuracy(one):
    with torch.no_grad():
        return (one(data.test.x).argmax(1) == data.test.y).float().mean().item()


print(f"test accuracy: {accuracy(net):.3f}")


# Gates on heads and neurons
targets = [*ps.heads(net), *ps.ffn(net)]
for target in targets:
    print(f"{target.key:<45} {target.shape[0]:>3} gates, {target.block} features each")


dense = accuracy(net)
parameters = sum(one.numel() for one in net.parameters())
method = ps.HardConcrete(cost={"*.heads": 128.0, "*.input": 8.0}, initial=0.9)
bnn = ps.lift(net, method, targets)
model = ps.distill(bnn, net, n=len(x))
run = ps.fit(
    model,
    bnn.guide,
    (x, y, model.teach(x)),
    epochs=epochs,
    learning_rate={"guide.*": 0.05, "*": 1e-3},
    progress=False,
)
masks = bnn.masks(at_least=1)
print(masks.table())


figure, axes = plt.subplots(2, 2, figsize=(7, 2.4), layout="constrained", width_ratios=[1, 4])
for (key, mask), place in zip(masks.items(), axes.flat, strict=True):
    place.imshow(mask[None].detach(), aspect="auto", vmin=0, vmax=1)
    kind = "heads" if key.endswith(".heads") else "neurons"
    place.set(yticks=[], title=f"{kind}, layer {key.split('.')[2]}")
plt.show()


# Cut them out
small = ps.compact(net, masks, x[:2])
print(small.account)


left = sum(one.numel() for one in small.parameters())
with torch.no_grad():
    difference = (small(data.test.x) - bnn.mean_forward(data.test.x)).abs().max()
print(f"parameters: {parameters} -> {left}")
print(f"test accuracy: {dense:.3f} -> {accuracy(small):.3f}")
print(f"largest difference of logits to the gated network: {difference:.1e}")
