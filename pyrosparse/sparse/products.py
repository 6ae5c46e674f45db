"""W x + b for a matrix W with zeros and dense columns x; one module for each way to compute it."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from pyrosparse.storage.rectangles import rectangles

BLOCKS = (4, 8, 16, 32)
PANEL = 32  # rows in a panel
MOST_RECTANGLES = 16


class Compressed(nn.Module):
    """A matrix in one of torch's compressed formats; the product reads only stored elements.

    matrix: (out, in), with layout ``torch.sparse_csr`` or ``torch.sparse_bsr``.
    bias:   (out,).

    >>> Compressed(compressed(torch.eye(3)), torch.ones(3))(torch.ones(3, 1)).flatten()
    tensor([2., 2., 2.])
    """

    matrix: Tensor
    bias: Tensor

    def __init__(self, matrix: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == 1:  # the product with a vector has half the overhead
            return torch.addmv(self.bias, self.matrix, x[:, 0])[:, None]
        return torch.addmm(self.bias[:, None], self.matrix, x)

    def __deepcopy__(self, memo: dict[int, Any]) -> Compressed:
        # torch can copy these formats only with clone.
        memo[id(self)] = new = Compressed(self.matrix.clone(), self.bias.clone())
        return new.train(self.training)


class Panels(nn.Module):
    """Panels of rows, each a dense product with the columns that have a non-zero in the panel.

    weight: (out, in).
    bias:   (out,).
    height: rows in a panel.

    >>> Panels(torch.eye(5), torch.zeros(5), 2)(torch.ones(5, 1)).flatten()
    tensor([1., 1., 1., 1., 1.])
    """

    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, height: int) -> None:
        super().__init__()
        self.register_buffer("bias", bias)
        panels = weight.split(height)
        self.count = len(panels)
        # Neighbouring columns are a slice, which copies nothing.
        self.spans: list[tuple[int, int] | None] = []
        for number, panel in enumerate(panels):
            columns = panel.count_nonzero(0).nonzero().flatten()
            self.register_buffer(f"panel_{number}", panel[:, columns].contiguous())
            first, last = (int(columns[0]), int(columns[-1])) if len(columns) else (0, -1)
            dense = last - first + 1 == len(columns)
            self.spans.append((first, len(columns)) if dense else None)
            self.register_buffer(f"columns_{number}", None if dense else columns)

    def forward(self, x: Tensor) -> Tensor:
        products = []
        for number, span in enumerate(self.spans):
            if span is None:
                read = x.index_select(0, getattr(self, f"columns_{number}"))
            else:
                read = x.narrow(0, *span)
            products.append(getattr(self, f"panel_{number}") @ read)
        return torch.cat(products) + self.bias[:, None]


class Submatrix(nn.Module):
    """One dense product of the rows and columns that have a non-zero.

    weight: (out, in).
    bias:   (out,).

    >>> weight = torch.tensor([[0.0, 0.0], [0.0, 3.0]])
    >>> Submatrix(weight, torch.ones(2))(torch.ones(2, 1)).flatten()
    tensor([1., 4.])
    """

    bias: Tensor
    rows: Tensor
    columns: Tensor
    matrix: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        rows, columns = (weight.count_nonzero(dim).nonzero().flatten() for dim in (1, 0))
        self.register_buffer("bias", bias)
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)
        self.register_buffer("matrix", weight[rows][:, columns].contiguous())

    def forward(self, x: Tensor) -> Tensor:
        product = self.matrix @ x.index_select(0, self.columns)
        return self.bias[:, None].repeat(1, x.shape[1]).index_add_(0, self.rows, product)


class Rectangles(nn.Module):
    """A dense product for each of the rectangles that contain the non-zeros.

    weight: (out, in).
    bias:   (out,).
    table:  the rectangles' (row, column, height, width), which together contain all non-zeros.

    >>> product = Rectangles(torch.eye(3)[:2], torch.ones(2), [(0, 0, 1, 1), (1, 1, 1, 1)])
    >>> product(torch.ones(3, 1)).flatten()
    tensor([2., 2.])
    """

    bias: Tensor

    def __init__(
        self, weight: Tensor, bias: Tensor, table: list[tuple[int, int, int, int]]
    ) -> None:
        super().__init__()
        self.table = table
        self.register_buffer("bias", bias)
        for number, (row, column, height, width) in enumerate(table):
            cluster = weight[row : row + height, column : column + width]
            self.register_buffer(f"cluster_{number}", cluster.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        product = self.bias[:, None].repeat(1, x.shape[1])
        for number, (row, column, height, width) in enumerate(self.table):
            cluster = getattr(self, f"cluster_{number}")
            product.narrow(0, row, height).addmm_(cluster, x.narrow(0, column, width))
        return product


def products(weight: Tensor, bias: Tensor | None) -> dict[str, nn.Module]:
    """The ways to compute W x + b, by name: CSR, BSR with square blocks, panels, rows and columns,
    and rectangles if there are no more than 16 of them.

    weight: (out, in).
    bias:   (out,), or None.

    Returns modules, (in, N) -> (out, N).

    >>> list(products(torch.eye(64), None))
    ['csr', 'bsr 4', 'bsr 8', 'bsr 16']
    """
    weight = weight.detach()
    bias = weight.new_zeros(len(weight)) if bias is None else bias.detach()
    found: dict[str, nn.Module] = {"csr": Compressed(compressed(weight), bias)}
    for block in BLOCKS:
        if any(side % block for side in weight.shape):
            continue
        matrix = compressed(weight, block)
        # Blocks and panels that contain half of the matrix or more cannot be faster.
        if 2 * matrix.values().numel() < weight.numel():
            found[f"bsr {block}"] = Compressed(matrix, bias)
    panels = Panels(weight, bias, PANEL)
    if 2 * _stored(panels) < weight.numel():
        found["panels"] = panels
    if not (weight.count_nonzero(0).all() and weight.count_nonzero(1).all()):
        found["submatrix"] = Submatrix(weight, bias)
    table, rest = rectangles((weight != 0).cpu().numpy(), record_bytes=0)
    if len(table) <= MOST_RECTANGLES and not rest.any():
        corners = [tuple(map(int, row)) for row in table]
        found["rectangles"] = Rectangles(weight, bias, corners)  # type: ignore[arg-type]
    return found


def compressed(weight: Tensor, block: int | None = None) -> Tensor:
    """A matrix in torch's compressed rows, or in compressed rows of square blocks.

    >>> compressed(torch.eye(4), 2).values().shape
    torch.Size([2, 2, 2])
    """
    with warnings.catch_warnings():
        # torch warns once that its compressed formats are in beta.
        warnings.filterwarnings("ignore", "Sparse .* tensor support is in beta", UserWarning)
        long = weight.to_sparse_csr() if block is None else weight.to_sparse_bsr((block, block))
        # Indices of 32 bits, as the library needs: others would be converted at each call.
        return torch.sparse_compressed_tensor(
            long.crow_indices().int(),
            long.col_indices().int(),
            long.values(),
            long.shape,
            layout=long.layout,
            check_invariants=False,
        )


def _stored(panels: Panels) -> int:
    return sum(panel.numel() for name, panel in panels.named_buffers() if "panel" in name)
