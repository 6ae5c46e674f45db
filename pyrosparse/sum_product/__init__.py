"""Sum-product: exact on chains and trees, approximate on grids."""

from pyrosparse.sum_product.grid import (
    LoopyRegimeWarning,
    Messages,
    sum_product,
    sum_product_messages,
)
from pyrosparse.sum_product.tree import tree_sum_product

__all__ = [
    "LoopyRegimeWarning",
    "Messages",
    "sum_product",
    "sum_product_messages",
    "tree_sum_product",
]
