"""Safetensors files with a digest of all their bytes, so that damage is noticed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Collection, Mapping

from safetensors import safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from pyrosparse.util.files import open_file, writing_atomically

DIGEST = "digest"
"""The entry of the metadata: SHA-256 of the file with zeros for these 64 digits."""

_NONE = "0" * 64
# In a fixed place, behind the eight bytes of the header's length.
_START = b'{"__metadata__":{"digest":"'
_HEAD = re.compile(rb".{8}" + re.escape(_START) + rb"([0-9a-f]{64})\"", re.DOTALL)
_CHUNK = 1 << 20


class DigestError(ValueError):
    """A file is not as it was written."""


class OtherFileError(ValueError):
    """A safetensors file of another kind, whose ``metadata`` lack an entry."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        super().__init__("it is a safetensors file of another kind")
        self.metadata = metadata


def save(
    path: str | os.PathLike[str],
    tensors: dict[str, Tensor],
    metadata: Mapping[str, str],
    *,
    parents: bool = True,
) -> None:
    """Write tensors and texts to a safetensors file, whole or not at all, with their digest.

    tensors: by name, contiguous, without shared memory, on the CPU. Equal ones give equal bytes.
    parents: make the file's folder where it is missing.

    Raises what ``safetensors`` raises on dtypes that it does not know, and OSError where the file
    cannot be written.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/a.safetensors", {"w": torch.ones(2)}, {"kind": "example"})
    ...     load(f"{folder}/a.safetensors", {"kind"})
    ({'kind': 'example'}, {'w': tensor([1., 1.])})
    """
    content = memoryview(serialize(tensors))
    length = int.from_bytes(content[:8], "little")
    entries = json.loads(bytes(content[8 : 8 + length]))
    data = content[8 + length :]
    # Written here and not by safetensors, which writes metadata in any order.
    texts = {DIGEST: _NONE, **dict(sorted(metadata.items()))}
    header = json.dumps(
        {"__metadata__": texts, **entries}, separators=(",", ":"), ensure_ascii=False
    ).encode()
    header += b" " * (-len(header) % 8)  # as the format asks for
    head = len(header).to_bytes(8, "little") + header
    digest = hashlib.sha256(head)
    digest.update(data)
    start = 8 + len(_START)
    with writing_atomically(path, parents=parents) as file:
        file.write(head[:start] + digest.hexdigest().encode() + head[start + len(_NONE) :])
        file.write(data)


def load(
    path: str | os.PathLike[str], entries: Collection[str]
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata, without the digest, and the tensors of a file that ``save`` wrote.

    entries: the metadata that it must have.

    Warns where the file has no digest, as those that earlier versions wrote.

    Raises DigestError if the file is not as it was written, OtherFileError if it has not
    these metadata, and what ``open_file`` and ``safetensors`` raise.
    """
    whole = _verified(path)
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata() or {})
        if not metadata.keys() >= set(entries):
            raise OtherFileError(metadata)
        unknown = metadata.keys() - set(entries) - ({DIGEST} if whole else set())
        if unknown:
            raise DigestError(f"its metadata have {', '.join(map(repr, sorted(unknown)))}, too")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if not whole:
        warnings.warn(
            f"{os.fspath(path)} has no digest, as earlier versions wrote it, so that damage to its "
            "numbers would not be noticed: save it again to add one",
            stacklevel=2,
        )
    metadata.pop(DIGEST, None)
    return metadata, tensors


def _verified(path: str | os.PathLike[str]) -> bool:
    """Whether the file has a digest; raises DigestError where that is of other contents."""
    with open_file(path) as file:
        head = file.read(8 + len(_START) + len(_NONE) + 1)
        match = _HEAD.fullmatch(head)
        if match is None:
            return False
        digest = hashlib.sha256(head[: match.start(1)] + _NONE.encode() + head[match.end(1) :])
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != match[1].decode():
        raise DigestError("its digest is not that of its contents")
    return True
