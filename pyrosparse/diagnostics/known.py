"""The known elements of partly masked data, as a tree contains them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyrosparse.diagnostics.draws import Draw
from pyrosparse.diagnostics.variables import as_array


class KnownData:
    """The data with known elements, the same in all draws.

    places: by dimension of a tree, the places of its data among all data, (known,) int64:
        ``datum``, and one dimension for each site if the sites know different data.
    """

    def __init__(self, draw: Draw) -> None:
        self._elements = {name: known.cpu() for name, known in draw.known.items()}
        self._data = {name: known.cpu() for name, known in draw.known_data().items()}
        some = torch.stack([*self._data.values()]).any(0)
        self._differ = any(not torch.equal(known, some) for known in self._data.values())
        self.places = {"datum": some.nonzero()[:, 0].numpy()}
        if self._differ:
            self.places |= {
                self.dim(site): known.nonzero()[:, 0].numpy() for site, known in self._data.items()
            }
        if not some.any():
            raise ValueError("all data are masked: there is nothing to draw a tree of")

    def dim(self, site: str) -> str:
        """The name of the dimension of a site's data."""
        return f"{site}_datum" if self._differ else "datum"

    def scores(self, site: str, value: Tensor) -> np.ndarray:
        """Numbers of shape (n,), one for each datum, without the masked data."""
        return as_array(value.cpu()[self._data[site]])

    def values(self, site: str, value: Tensor) -> np.ndarray:
        """The values of a site, (n, ...), without the masked data; NaN where an element is masked.
        Shape (n, 1) becomes (n,), which plots of predictions need."""
        known = self._data[site]
        array = as_array(value.cpu()[known])
        elements = self._elements[site][known].numpy()
        if array.ndim == 2 and array.shape[1] == 1:
            array, elements = array[:, 0], elements[:, 0]
        if elements.all():
            return array
        if not np.issubdtype(array.dtype, np.floating):
            array = array.astype(np.float64)
        return np.where(elements, array, np.array(np.nan, array.dtype))
