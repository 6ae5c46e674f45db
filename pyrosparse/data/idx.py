"""The idx format of MNIST."""

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def read_idx(path: str | os.PathLike[str], dimensions: int) -> Tensor:
    """Read a file of unsigned bytes in the idx format of MNIST, gzipped if its name ends in .gz.

    Returns a uint8 tensor of that many dimensions. Raises ValueError, naming the file, if it is no
    such file, truncated or damaged.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "labels-idx1-ubyte")
    ...     _ = file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 0, 4]))
    ...     read_idx(file, dimensions=1)
    tensor([5, 0, 4], dtype=torch.uint8)
    """
    path = Path(path)
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes([0, 0, 8, dimensions]):
        raise ValueError(
            f"{path} is not an idx file of bytes in {dimensions} dimensions: it starts with "
            f"{content[:4].hex(' ') or 'nothing'}"
        )
    shape = np.frombuffer(content, dtype=">u4", offset=4, count=dimensions).tolist()
    if len(content) != header + math.prod(shape):
        raise ValueError(
            f"{path} is truncated or damaged: its header says {shape}, which takes "
            f"{header + math.prod(shape)} bytes, but it has {len(content)}"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy())
