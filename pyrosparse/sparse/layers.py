"""Dense and convolutional layers that skip the zeros in their weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from pyrosparse.sparse.products import products


class SparseLinear(nn.Module):
    """A dense layer, x W^T + b, by a product that skips zeros in W.

    x: (.., in) -> (.., out).
    product: a module, (in, N) -> (out, N): W times columns, plus b.

    >>> import torch
    >>> from pyrosparse.sparse.products import Submatrix
    >>> SparseLinear(Submatrix(torch.eye(3)[:2], torch.zeros(2)))(torch.ones(4, 3)).shape
    torch.Size([4, 2])
    """

    def __init__(self, product: nn.Module) -> None:
        super().__init__()
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.product(x.reshape(-1, x.shape[-1]).t())
        return result.t().contiguous().view(*x.shape[:-1], len(result))


class SparseConv2d(nn.Module):
    """A convolution as the product of its weights, (out, in k l), with all patches of its input.

    x: (N, in, H, W) or (in, H, W) -> (N, out, H', W') or (out, H', W').
    conv:    the convolution; ungrouped, with equal zero padding on opposite sides.
    product: a module, (in k l, P) -> (out, P): weights times patches, plus the bias.

    >>> import torch
    >>> from pyrosparse.sparse.products import Submatrix
    >>> conv = nn.Conv2d(2, 3, 3).requires_grad_(False)
    >>> product = Submatrix(conv.weight.flatten(1), conv.bias)
    >>> SparseConv2d(conv, product)(torch.ones(4, 2, 5, 6)).shape
    torch.Size([4, 3, 3, 4])
    """

    def __init__(self, conv: nn.Conv2d, product: nn.Module) -> None:
        super().__init__()
        self.product = product
        self.kernel_size, self.stride, self.dilation = conv.kernel_size, conv.stride, conv.dilation
        left, _, top, _ = paddings(conv)
        self.padding = (top, left)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3:
            return self.forward(x[None])[0]
        patches = F.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)
        count, _, places = patches.shape
        product = self.product(patches.transpose(0, 1).flatten(1))
        sides = [
            (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            for size, pad, dilation, kernel, stride in zip(
                x.shape[2:], self.padding, self.dilation, self.kernel_size, self.stride, strict=True
            )
        ]
        result: Tensor = product.view(-1, count, places).transpose(0, 1).contiguous()
        return result.view(count, -1, *sides)


def candidates(layer: nn.Linear | nn.Conv2d) -> Iterator[tuple[str, nn.Module]]:
    """Modules that compute the same as a layer with zeros in its weight, by name, one by one.

    >>> layer = nn.Linear(64, 64)
    >>> layer.weight.data[2:] = 0
    >>> [name for name, _ in candidates(layer)]
    ['csr', 'bsr 4', 'bsr 8', 'bsr 16', 'submatrix', 'rectangles']
    """
    if isinstance(layer, nn.Linear):
        for name, product in products(layer.weight, layer.bias).items():
            yield name, SparseLinear(product)
    elif layer.padding_mode == "zeros":
        small = smaller_kernel(layer)
        if small is not None:
            yield "smaller kernel", small
        left, right, top, bottom = paddings(layer)
        if layer.groups == 1 and left == right and top == bottom:
            for name, product in products(layer.weight.flatten(1), layer.bias).items():
                yield name, SparseConv2d(layer, product)


def smaller_kernel(conv: nn.Conv2d) -> nn.Module | None:
    """The convolution with the smallest kernel that contains all its kernels; None if that is the
    same. Rows and columns cut from one side of the kernel are also cut from the padding there.

    conv: a convolution with zero padding.

    >>> conv = nn.Conv2d(1, 1, 5, padding=2)
    >>> conv.weight.data[..., (0, 4), :] = 0
    >>> smaller_kernel(conv)
    Conv2d(1, 1, kernel_size=(3, 5), stride=(1, 1), padding=(1, 2))
    """
    weight = conv.weight.detach()
    used = (weight != 0).flatten(0, 1).any(0)
    if not used.any():
        used[0, 0] = True
    rows, columns = used.any(1).nonzero().flatten(), used.any(0).nonzero().flatten()
    above, left = int(rows[0]), int(columns[0])
    below, right = len(used) - 1 - int(rows[-1]), used.shape[1] - 1 - int(columns[-1])
    if above == left == below == right == 0:
        return None
    kernel = weight[:, :, above : len(used) - below, left : used.shape[1] - right]
    down, across = conv.dilation
    steps = across, across, down, down
    cuts = zip(paddings(conv), (left, right, above, below), steps, strict=True)
    pads = tuple(pad - cut * step for pad, cut, step in cuts)
    alike = pads[0] == pads[1] >= 0 and pads[2] == pads[3] >= 0
    small = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        tuple(kernel.shape[2:]),  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        (pads[2], pads[0]) if alike else 0,
        conv.dilation,  # type: ignore[arg-type]
        conv.groups,
        conv.bias is not None,
        device="meta",
    )
    small.weight = nn.Parameter(kernel.clone(), requires_grad=False)
    if conv.bias is not None:
        small.bias = nn.Parameter(conv.bias.detach().clone(), requires_grad=False)
    # A negative padding removes rows and columns that only the zeros would read.
    return small if alike else nn.Sequential(nn.ZeroPad2d(pads), small)  # type: ignore[arg-type]


def paddings(conv: nn.Conv2d) -> tuple[int, int, int, int]:
    """The padding of a convolution: left, right, above, below.

    >>> paddings(nn.Conv2d(1, 1, (2, 5), padding="same"))
    (2, 2, 0, 1)
    """
    if conv.padding == "valid":
        return 0, 0, 0, 0
    if conv.padding == "same":
        down, across = (d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
        return across // 2, across - across // 2, down // 2, down - down // 2
    above, beside = (int(pad) for pad in conv.padding)
    return beside, beside, above, above
