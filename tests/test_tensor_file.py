"""A single flipped bit anywhere in a file of ours is noticed, and small files claim little."""

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import pyrosparse as ps
from pyrosparse.infer import checkpoint
from pyrosparse.infer.checkpoint import CheckpointError
from pyrosparse.storage import StorageError, load_sparse, save_sparse
from pyrosparse.storage.network_file import FORMAT as NETWORK
from pyrosparse.storage.storage import FORMAT as SPARSE
from pyrosparse.storage.weights_file import load_weights
from pyrosparse.util import tensor_file

Load = Callable[[Path], object]


def network(path: Path) -> Load:
    torch.manual_seed(0)
    ps.save(path, ps.compact(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))))
    return ps.load


def sparse(path: Path) -> Load:
    save_sparse(path, {"w": torch.eye(20), "ü": torch.randn(9)})
    return load_sparse


def state(path: Path) -> Load:
    checkpoint.save(path, {"step": 3, "w": torch.randn(20), "nested": [1, {"a": None}]})
    return checkpoint.load


KINDS = [network, sparse, state]


@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_bit_is_refused_by_name(tmp_path: Path, kind: Callable[[Path], Load]) -> None:
    path = tmp_path / "a.safetensors"
    load = kind(path)
    load(path)
    whole = path.read_bytes()
    # All of the beginning, where the digest is, and every seventh bit of the rest.
    for bit in [*range(8 * 120), *range(8 * 120, 8 * len(whole), 7)]:
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises((StorageError, CheckpointError), match=r"a\.safetensors.*(F|D|f)"):
            load(path)
    path.write_bytes(whole)
    load(path)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_contents_give_equal_bytes(tmp_path: Path, kind: Callable[[Path], Load]) -> None:
    for name in "ab":
        torch.manual_seed(0)
        kind(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("kind", "entries"),
    [(network, [NETWORK]), (sparse, [SPARSE]), (state, ["format", "content"])],
)
def test_files_of_before_the_digest_are_read_with_a_warning(
    tmp_path: Path, kind: Callable[[Path], Load], entries: list[str]
) -> None:
    path = tmp_path / "a.safetensors"
    load = kind(path)
    metadata, _ = tensor_file.load(path, entries)
    save_file(load_file(path), path, metadata=metadata)
    with pytest.warns(UserWarning, match=r"a\.safetensors has no digest.*save it again"):
        load(path)
    save_file(load_file(path), path, metadata={**metadata, "digest": "0" * 64})
    with pytest.raises((StorageError, CheckpointError), match="digest"):
        load(path)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: Callable[[Path], Load]) -> None:
    load = kind(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pipe.safetensors").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "pipe.safetensors"):
        with pytest.raises(OSError, match="is a pipe, not a file"):
            load(path)
        with pytest.raises(OSError, match="is a pipe, not a file"):
            load_weights(path)
    with pytest.raises((OSError, ValueError), match="is a folder"):
        load(tmp_path)
    with pytest.raises(OSError, match="is a folder"):
        load_weights(tmp_path)


def claiming(path: Path, elements: int) -> Path:
    """A sparse file of a tensor of zeros, of some hundred bytes."""
    parts = {"values:w": torch.ones(0), "gaps:w": torch.ones(0).byte()}
    header = {"w": {"layout": "gaps", "shape": [elements]}}
    tensor_file.save(path, parts, {SPARSE: json.dumps(header)})
    return path


def test_a_small_file_claims_no_gigabytes(tmp_path: Path) -> None:
    path = claiming(tmp_path / "a.safetensors", 2**31 - 1)
    assert path.stat().st_size < 1000
    for load in (load_sparse, load_weights):
        with pytest.raises(StorageError, match=r"'w' takes 8589934588 bytes.*memory="):
            load(path)
    claiming(path, 2**20)
    assert torch.equal(load_sparse(path)["w"], torch.zeros(2**20))
    with pytest.raises(StorageError, match=r"takes 4194304 bytes, but .* only 4194303 more"):
        load_sparse(path, memory=2**22 - 1)
    assert len(load_sparse(path, memory=2**22)["w"]) == 2**20


def test_the_limit_is_of_all_tensors_together(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_sparse(path, {name: torch.zeros(1000) for name in "abc"})
    assert len(load_sparse(path, memory=12_000)) == 3
    with pytest.raises(StorageError, match=r"'c' takes 4000 bytes, but .* only 3999 more"):
        load_sparse(path, memory=11_999)


def test_a_network_is_limited_too(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    network(path)
    with pytest.raises(StorageError, match="memory="):
        ps.load(path, memory=100)
    ps.load(path, memory=1000)


def test_a_checkpoint_of_wrong_contents_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    deep = "[" * 100_000
    for content in ("", "3", "{}", '{"tensor": "0"}', '{"value": 3}', '{"dict": [3]}', deep):
        tensor_file.save(path, {}, {"format": checkpoint.FORMAT, "content": content})
        with pytest.raises(CheckpointError, match=r"a\.safetensors is not a readable checkpoint"):
            checkpoint.load(path)


def test_a_checkpoint_that_lacks_entries_is_named_by_fit(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    bnn = ps.lift(nn.Linear(3, 2), ps.Gaussian())
    data = (torch.randn(8, 3), torch.zeros(8, dtype=torch.int64))
    for content in ({}, {"settings": 3}, {"settings": {}, "modules": 4}):
        checkpoint.save(path, content)
        with pytest.raises(CheckpointError, match=r"a\.safetensors"):
            ps.fit(
                ps.classifier(bnn, 8), bnn.guide, data, epochs=1, checkpoint=path, progress=False
            )
        with pytest.raises(StorageError, match=r"a\.safetensors"):
            load_weights(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04K\x03.", b"\x00" * 99])
def test_damaged_files_of_torch_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"a\.pt"):
        load_weights(path)


def test_cut_and_flipped_files_of_torch_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(nn.Linear(3, 2).state_dict(), path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 29):
        flipped = bytearray(whole)
        flipped[place] ^= 0x55
        for content in (whole[:place], bytes(flipped)):
            path.write_bytes(content)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what torch says of it
                try:
                    load_weights(path)
                except StorageError as error:
                    assert "a.pt" in str(error)
