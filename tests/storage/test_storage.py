"""Sparse storage: what comes back is what went in, and nothing else comes back."""

import json
import math
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pyrosparse.infer import checkpoint
from pyrosparse.storage.layouts import _gaps, _in_rectangles, decode, layout_bytes
from pyrosparse.storage.storage import FORMAT, StorageError, load_sparse, save_sparse
from pyrosparse.storage.weights_file import load_weights
from pyrosparse.util import tensor_file

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.complex64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def same(first: Tensor, second: Tensor) -> bool:
    return (
        first.dtype == second.dtype and first.shape == second.shape and bits(first) == bits(second)
    )


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(0, 9), max_size=3))
    dtype = draw(st.sampled_from(DTYPES))
    density = draw(st.sampled_from([0.0, 0.02, 0.2, 0.9, 1.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = torch.randn(shape, generator=generator) * 50
    values[torch.rand(shape, generator=generator) >= density] = 0
    if dtype == torch.bool:
        return values != 0
    return values.abs().to(dtype) if dtype == torch.uint8 else values.to(dtype)


@given(st.dictionaries(st.text(min_size=1, max_size=8), tensors(), max_size=4))
@settings(max_examples=60, deadline=None)
def test_round_trip_is_exact_and_bytes_are_fewest(content: dict[str, Tensor]) -> None:
    # Surrogates are no text that JSON and safetensors could hold.
    content = {n: t for n, t in content.items() if n.isprintable() and n.isascii()}
    with tempfile.TemporaryDirectory() as folder:
        stored = save_sparse(Path(folder, "a"), content)
        loaded = load_sparse(Path(folder, "a"))
    assert loaded.keys() == content.keys() == stored.keys()
    for name, tensor in content.items():
        assert same(loaded[name], tensor)
        n, size = tensor.numel(), tensor.element_size()
        nonzero = [any(bits(element)) for element in tensor.flatten()]
        sizes = layout_bytes(tensor)
        assert stored[name].dense_bytes == sizes["dense"] == n * size
        assert sizes["bitmask"] == math.ceil(n / 8) + sum(nonzero) * size
        # No tensor here has 255 zeros or more: one byte tells the gap before each value.
        assert sizes["gaps"] == (1 + size) * sum(nonzero)
        assert stored[name].bytes == min(sizes.values())


@given(
    st.lists(st.integers(0, 300), max_size=6),
    st.sampled_from([0, 1, 254, 255, 256, 509, 510, 65_535, 70_000]),
    st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_gaps_of_any_length(lengths: list[int], long: int, last: int) -> None:
    zeros = [*lengths, long]
    tensor = torch.cat([torch.cat([torch.zeros(n), torch.ones(1)]) for n in zeros])
    tensor = torch.cat([tensor, torch.zeros(last)])
    pieces = {"gaps": _gaps((tensor != 0).numpy()), "values": torch.ones(len(zeros))}
    by_width = [width * sum(1 + n // (256**width - 1) for n in zeros) for width in (1, 2, 4)]
    assert pieces["gaps"].nbytes == min(by_width)
    assert torch.equal(decode("w", "gaps", list(tensor.shape), pieces), tensor) and not pieces


@st.composite
def clustered(draw: st.DrawFn) -> Tensor:
    """Rectangles of non-zeros in a tensor of up to five dimensions, and single ones beside them."""
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    dtype = draw(st.sampled_from(DTYPES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = torch.randint(1, 100, shape, generator=generator)
    support = torch.rand(shape, generator=generator) < 0.05
    box = [draw(st.tuples(st.integers(0, side), st.integers(0, side))) for side in shape]
    support[tuple(slice(min(ends), max(ends) + 1) for ends in box)] = True
    return (values * support).to(dtype)


@given(clustered())
@settings(max_examples=100, deadline=None)
def test_rectangles_give_every_tensor_back(tensor: Tensor) -> None:
    pieces = _in_rectangles(tensor)
    again = decode("w", "rectangles", list(tensor.shape), pieces)
    assert same(again, tensor) and again.is_contiguous() and not pieces


def test_clusters_take_less_in_rectangles(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    fc = torch.zeros(500, 784)
    fc[40:48, 300:340] = torch.randn(8, 40, generator=generator)
    fc[44, 320] = 0  # a hole
    fc[45, 320] = -0.0
    fc[46, 320] = math.nan
    fc[400:450, 10:12] = 1
    stored = save_sparse(tmp_path / "a", {"fc": fc})
    assert same(load_sparse(tmp_path / "a")["fc"], fc)
    assert stored["fc"].layout == "rectangles"
    # Corners beyond 255 take two bytes, sizes one.
    assert stored["fc"].bytes == 2 * (2 * 2 + 2) + 4 * (8 * 40 + 50 * 2)


def test_kernels_are_tiled() -> None:
    kernels = torch.zeros(6, 4, 3, 3)
    kernels[2:5, 1:3] = 1  # three outputs of two inputs: 6 rows and 9 columns
    pieces = _in_rectangles(kernels)
    assert pieces["corners"].tolist() == [[3, 6]] and pieces["sizes"].tolist() == [[6, 9]]


def test_layouts_of_earlier_files_are_read(tmp_path: Path) -> None:
    tensor = torch.zeros(20, 50)
    tensor[3, [4, 9]] = torch.tensor([2.0, -0.0])
    pieces = {
        "indices:w": torch.tensor([154, 159], dtype=torch.int32),
        "values:w": torch.tensor([2.0, -0.0]),
    }
    headers = {"w": {"layout": "indices", "shape": [20, 50]}}
    tensor_file.save(tmp_path / "a", pieces, {FORMAT: json.dumps(headers)})
    assert same(load_sparse(tmp_path / "a")["w"], tensor)


def test_negative_zero_nan_and_infinity_survive(tmp_path: Path) -> None:
    tensor = torch.zeros(200)
    tensor[:4] = torch.tensor([-0.0, math.nan, math.inf, -math.inf])
    stored = save_sparse(tmp_path / "a", {"w": tensor})
    assert stored["w"].layout == "gaps"
    assert same(load_sparse(tmp_path / "a")["w"], tensor)


def test_views_shared_memory_and_parameters(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.randn(6, 4))
    save_sparse(tmp_path / "a", {"w": weight, "tied": weight, "turned": weight.T})
    loaded = load_sparse(tmp_path / "a")
    assert same(loaded["tied"], weight.detach()) and same(loaded["turned"], weight.detach().T)


def test_each_layout_is_taken_where_it_is_smallest(tmp_path: Path) -> None:
    content = {name: torch.zeros(32, 32) for name in ("full", "third", "few", "cluster")}
    content["full"][:] = 1
    content["third"].view(-1)[::3] = 1
    content["few"][7, 7] = 1
    content["cluster"][3:9, 5:20] = 1
    stored = save_sparse(tmp_path / "a", content)
    assert [s.layout for s in stored.values()] == ["dense", "bitmask", "gaps", "rectangles"]


def test_refuses_what_safetensors_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not an ordinary"):
        save_sparse(tmp_path / "a", {"w": torch.eye(3).to_sparse()})
    with pytest.raises(ValueError, match="dtypes"):
        save_sparse(tmp_path / "a", {"w": torch.ones(3, dtype=torch.complex128)})
    assert not list(tmp_path.iterdir())


def rewrite(path: Path, **changes: object) -> None:
    """Change pieces (tensors, or None to drop one) or a header entry of a file of ours."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    pieces = load_file(path)
    headers = json.loads(metadata[FORMAT])
    for name, change in changes.items():
        if isinstance(change, Tensor):
            pieces[f"{name}:w"] = change
        elif change is None:
            del pieces[f"{name}:w"]
        else:
            headers["w"][name] = change
    tensor_file.save(path, pieces, {FORMAT: json.dumps(headers)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": torch.tensor([127, 0, 0, 0, 0], dtype=torch.uint8)}, "places for 7 values"),
        ({"mask": torch.tensor([127, 0, 0, 0, 1 << 7], dtype=torch.uint8)}, "bits beyond"),
        ({"mask": torch.tensor([7], dtype=torch.uint8)}, "one bit for each"),
        ({"mask": None}, "no 'mask' of 'w'"),
        ({"shape": [5, 50]}, "one bit for each"),
        ({"shape": [-5, -7]}, "no shape"),
        ({"layout": "dense"}, "shape"),
        ({"layout": "zip"}, "unknown"),
        ({"values": torch.ones(2, 2)}, "one row"),
        ({"extra": torch.ones(1)}, "belong to no tensor"),
    ],
)
def test_tampered_bitmask(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    tensor = torch.zeros(5, 7)
    tensor.view(-1)[[0, 2, 4, 11, 13, 19, 21, 30]] = 1
    path = tmp_path / "a.safetensors"
    assert save_sparse(path, {"w": tensor})["w"].layout == "bitmask"
    rewrite(path, **changes)
    with pytest.raises(StorageError, match=message):
        load_sparse(path)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (torch.tensor([3, 3], dtype=torch.int32), "rise strictly"),
        (torch.tensor([9, 3], dtype=torch.int32), "rise strictly"),
        (torch.tensor([-1, 3], dtype=torch.int32), "outside"),
        (torch.tensor([3, 1000], dtype=torch.int32), "outside"),
        (torch.tensor([3, 4, 5], dtype=torch.int32), "places for 3 values"),
        (torch.tensor([3, 4]), "int32"),
    ],
)
def test_tampered_indices(tmp_path: Path, indices: Tensor, message: str) -> None:
    tensor = torch.zeros(1000)
    tensor[[3, 9]] = 1
    path = tmp_path / "a.safetensors"
    assert save_sparse(path, {"w": tensor})["w"].layout == "gaps"
    rewrite(path, gaps=None, layout="indices", indices=indices)
    with pytest.raises(StorageError, match=message):
        load_sparse(path)


@pytest.mark.parametrize(
    ("gaps", "message"),
    [
        (torch.tensor([3, 255, 255, 255, 231], dtype=torch.uint8), "outside its 1000"),
        (torch.tensor([3, 5, 0], dtype=torch.uint8), "places for 3 values"),
        (torch.tensor([3, 5, 255], dtype=torch.uint8), "do not end before a value"),
        (torch.tensor([2**32 - 2, 5], dtype=torch.uint32), "outside its 1000"),
        (torch.tensor([3, 5]), "unsigned"),
        (torch.tensor([[3, 5]], dtype=torch.uint8), "one row"),
    ],
)
def test_tampered_gaps(tmp_path: Path, gaps: Tensor, message: str) -> None:
    tensor = torch.zeros(1000)
    tensor[[3, 9]] = 1
    path = tmp_path / "a.safetensors"
    save_sparse(path, {"w": tensor})
    rewrite(path, gaps=gaps)
    with pytest.raises(StorageError, match=message):
        load_sparse(path)


def pairs(*rows: list[int], dtype: torch.dtype = torch.uint8) -> Tensor:
    return torch.tensor(rows, dtype=dtype)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corners": pairs([2, 3], [17, 30])}, "outside its 20 by 40"),
        ({"corners": pairs([2, 3], [2**32 - 1, 3], dtype=torch.uint32)}, "outside its 20 by 40"),
        ({"corners": pairs([2, 3], [4, 7])}, "overlap"),
        ({"sizes": pairs([5, 6], [0, 9])}, "outside"),
        ({"sizes": pairs([5, 6], [9, 11])}, "more cells than values"),
        ({"sizes": pairs([5, 6], [4, 8])}, "places for 63 values, but 67"),
        ({"sizes": pairs([5, 6])}, "pairs of unsigned"),
        ({"corners": pairs([2, 3], [8, 20], dtype=torch.int16)}, "pairs of unsigned"),
        ({"corners": torch.zeros(2, dtype=torch.uint8)}, "pairs of unsigned"),
        ({"gaps": torch.tensor([255, 255, 255, 0], dtype=torch.uint8)}, "lead outside its 734"),
        ({"gaps": torch.tensor([], dtype=torch.uint8)}, "places for 66 values"),
        ({"mask": torch.zeros(92, dtype=torch.uint8)}, "places for 66 values"),
        ({"values": None}, "no 'values' of 'w'"),
        ({"gaps": None}, "no 'gaps' of 'w'"),
        ({"shape": [800]}, "outside its 1 by 800"),
        ({"shape": [10**6, 10**6]}, "more than int32"),
    ],
)
def test_tampered_rectangles(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    tensor = torch.zeros(20, 40)
    tensor[2:7, 3:9] = 1
    tensor[8:12, 20:29] = 1
    tensor[19, 39] = 1
    path = tmp_path / "a.safetensors"
    assert save_sparse(path, {"w": tensor})["w"].layout == "rectangles"
    rewrite(path, **changes)
    with pytest.raises(StorageError, match=message):
        load_sparse(path)


def test_foreign_and_truncated_files(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.ones(3)}, path)
    with pytest.raises(StorageError, match="not one of"):
        load_sparse(path)
    save_sparse(path, {"w": torch.ones(300)})
    content = path.read_bytes()
    for length in (0, 5, 60, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(StorageError, match="truncated"):
            load_sparse(path)
        with pytest.raises(StorageError, match="truncated"):
            load_weights(path)
    with pytest.raises(FileNotFoundError):
        load_sparse(tmp_path / "none")


def test_weights_from_each_kind_of_file(tmp_path: Path) -> None:
    state = {name: tensor.detach() for name, tensor in torch.nn.Linear(3, 2).state_dict().items()}
    lifted = {f"net.{name}": tensor for name, tensor in state.items()}
    lifted["guide.posterior.weight.mask"] = torch.ones(2, 3)
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "nested.pt")
    save_file(state, tmp_path / "plain.safetensors")
    save_sparse(tmp_path / "sparse.safetensors", state)
    checkpoint.save(tmp_path / "checkpoint.safetensors", {"modules": [lifted]})
    for file in tmp_path.iterdir():
        loaded = load_weights(file)
        assert loaded.keys() == state.keys(), file
        assert all(same(loaded[name], state[name]) for name in state), file


def test_weights_files_that_are_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(3, 2), tmp_path / "module.pt")
    with pytest.raises(StorageError, match="could run code"):
        load_weights(tmp_path / "module.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(StorageError, match="instead of a state dict"):
        load_weights(tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("not weights")
    with pytest.raises(StorageError):
        load_weights(tmp_path / "text.pt")
    (tmp_path / "short.pt").write_bytes((tmp_path / "module.pt").read_bytes()[:100])
    with pytest.raises(StorageError):
        load_weights(tmp_path / "short.pt")
    checkpoint.save(tmp_path / "other.safetensors", {"modules": []})
    with pytest.raises(StorageError, match="without a lifted network"):
        load_weights(tmp_path / "other.safetensors")
