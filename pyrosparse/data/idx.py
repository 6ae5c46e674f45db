"""The idx format of MNIST."""

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyrosparse.util.files import open_file

_GZIP = 1032  # the most bytes that one byte of gzip can represent
_AGAIN = "Delete it and download it again"


def read_idx(path: str | os.PathLike[str], dimensions: int) -> Tensor:
    """Read a file of unsigned bytes in the idx format of MNIST, gzipped if its name ends in .gz.

    Returns a uint8 tensor with that number of dimensions. Raises ValueError, naming the file, if it
    has another format, is truncated or damaged, and OSError if there is no such file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "labels-idx1-ubyte")
    ...     _ = file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 0, 4]))
    ...     read_idx(file, dimensions=1)
    tensor([5, 0, 4], dtype=torch.uint8)
    """
    path = Path(path)
    header = 4 + 4 * dimensions
    packed = path.suffix == ".gz"
    with open_file(path) as file, gzip.GzipFile(fileobj=file) if packed else file as opened:
        stored = os.fstat(file.fileno()).st_size
        try:
            start = opened.read(header)
            if len(start) < header or start[:4] != bytes([0, 0, 8, dimensions]):
                raise ValueError(
                    f"{path} is not an idx file of bytes in {dimensions} dimensions: it starts "
                    f"with {start[:4].hex(' ') or 'nothing'}. {_AGAIN}"
                )
            shape = np.frombuffer(start, dtype=">u4", offset=4).tolist()
            size = math.prod(shape)
            # Read no more than a file of this length can hold.
            content = b"" if size > stored * (_GZIP if packed else 1) else opened.read(size + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is damaged: {error}. {_AGAIN}") from error
    if len(content) != size:
        has = f"more than {size}" if len(content) > size else len(content) or "fewer"
        raise ValueError(
            f"{path} is truncated or damaged: its header says {shape}, which takes {size} bytes, "
            f"but it has {has}. {_AGAIN}"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8).reshape(shape).copy())
