"""Shrink a trained vision network for deployment.

    python examples/tutorial_vision_deployment.py

The code of docs/tutorials/vision-deployment.md, which explains it.
`python docs/tutorials/scripts.py` writes this file from that page.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

import pyrosparse as ps

epochs = 16
images = 1797


# Your images
workplace = tempfile.TemporaryDirectory()
folder = Path(workplace.name, "images")
digits = load_digits()
pairs = zip(digits.images[:images], digits.target[:images], strict=True)
for number, (pixels, label) in enumerate(pairs):
    file = folder / str(label) / f"{number}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels * 15.9).astype("uint8")).save(file)

data = ps.data.image_folder(folder, test=0.2, grey=True)
print(data.train, data.test, data.image_shape, len(data.classes), "classes")


# Your network
def block(inputs, outputs):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


torch.manual_seed(0)
net = nn.Sequential(
    block(1, 32),
    block(32, 64),
    nn.MaxPool2d(2),
    block(64, 64),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(64, len(data.classes)),
)
optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
shuffle = torch.Generator().manual_seed(0)  # a folder is sorted by class
for _ in range(epochs):
    for x, y in data.train.batches(64, shuffle):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
net.eval()
accuracy = (net(data.test.x).argmax(1) == data.test.y).float().mean()
print(f"test accuracy before: {accuracy:.3f}")


# Shrink it
recipe = ps.recipes.BetaBernoulli(pretrain=0, epochs=2 * epochs, kl_scale=2.0, gate_rate=0.2)
result = ps.compress(net, data, recipe, progress=False)
print(result)


print(result.account)


# What it costs
report = result.report
before_after = {
    "parameters": report.parameters,
    "MACs": report.total_macs,
    "bytes": report.bytes,
    "latency, batch 1": report.seconds[1],
    "latency, batch 128": report.seconds[128],
}
figure, axes = plt.subplots(figsize=(6, 2.8), layout="constrained")
axes.barh(list(before_after), [100 * after / before for before, after in before_after.values()])
axes.axvline(100, color="grey", linewidth=0.8)
axes.set(xlabel="compact network, % of the original")
plt.show()


# Deploy it
example = data.test.x[:1]
saved = ps.save(Path(workplace.name, "small.safetensors"), result.small)
again = ps.load(saved)
print(torch.equal(again(example), result.small(example)), saved.stat().st_size, "bytes")
try:
    exported = ps.export_onnx(result.small, Path(workplace.name, "small.onnx"), example)
    print(exported.name, exported.stat().st_size, "bytes")
except ImportError as missing:
    print(missing)
workplace.cleanup()
