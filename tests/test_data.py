"""Data sets: splits, normalisation, minibatches, readers, and what happens to bad files."""

import gzip
import importlib
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pyrosparse import data
from pyrosparse.data import DataSet, Examples
from pyrosparse.util import errors


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise URLError("no route to host")

    broken = SimpleNamespace(MNIST=fail, FashionMNIST=fail, CIFAR10=fail)
    monkeypatch.setattr(data.sources, "torchvision", lambda: SimpleNamespace(datasets=broken))


def numbered(count: int) -> Examples:
    return Examples(torch.arange(2.0 * count).reshape(count, 2), torch.arange(count))


def write_idx(file: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    content = header + array.astype(np.uint8).tobytes()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


def write_mnist(root: Path, suffix: str = "") -> tuple[np.ndarray, np.ndarray]:
    """A small MNIST: 20 images to train on and 5 to test on."""
    images = np.random.default_rng(0).integers(0, 256, (25, 28, 28))
    labels = np.arange(25) % 10
    raw = root / "MNIST" / "raw"
    for part, chosen in (("train", slice(0, 20)), ("t10k", slice(20, 25))):
        write_idx(raw / f"{part}-images-idx3-ubyte{suffix}", images[chosen])
        write_idx(raw / f"{part}-labels-idx1-ubyte{suffix}", labels[chosen])
    return images, labels


def write_images(folder: Path, count: int = 10, size: tuple[int, int] = (4, 6)) -> None:
    """Two classes: cats are red, dogs are blue; PNG, so that the colours come back exactly."""
    for name, colour in (("cat", (200, 0, 0)), ("dog", (0, 0, 100))):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            image = Image.new("RGB", (size[1], size[0]), colour)
            image.save(folder / name / f"{index:02}.png")


# Examples


@settings(deadline=None, max_examples=50)
@given(
    count=st.integers(1, 40),
    size=st.integers(1, 50),
    seed=st.none() | st.integers(0, 100),
)
def test_batches_cover_every_datum_once(count: int, size: int, seed: int | None) -> None:
    examples = numbered(count)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    batches = list(examples.batches(size, generator))
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))

    assert sorted(y.tolist()) == list(range(count))
    torch.testing.assert_close(x, examples.x[y], rtol=0, atol=0)
    assert all(len(labels) == size for _, labels in batches[:-1])
    assert len(batches) == -(-count // size)
    if seed is None:
        assert y.tolist() == list(range(count))


def test_batches_are_shuffled_by_the_generator_alone() -> None:
    def order(seed: int) -> list[int]:
        batches = numbered(50).batches(7, torch.Generator().manual_seed(seed))
        return torch.cat([y for _, y in batches]).tolist()

    torch.manual_seed(0)
    first = order(1)
    torch.manual_seed(99)
    assert order(1) == first
    assert order(2) != first
    assert first != sorted(first)


def test_second_epoch_has_another_order() -> None:
    generator = torch.Generator().manual_seed(0)
    epochs = [torch.cat([y for _, y in numbered(50).batches(50, generator)]).tolist() for _ in "ab"]
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("size", [0, -1])
def test_batch_size_must_be_positive_at_the_call(size: int) -> None:
    with pytest.raises(ValueError, match="batch size must be positive"):
        numbered(3).batches(size)


def test_subset_keeps_x_and_y_together() -> None:
    part = numbered(6).subset(torch.tensor([4, 1]))
    assert part.y.tolist() == [4, 1]
    assert part.x.tolist() == [[8.0, 9.0], [2.0, 3.0]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_counted_and_located(value: float) -> None:
    x = torch.zeros(5, 1, 2, 2)
    x[3, 0, 1, 0] = x[4, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"2 values that are NaN or infinite, .* x\[3\]"):
        Examples(x, torch.zeros(5, dtype=torch.int64))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(4, dtype=torch.int64), "x has 3 data but y has 4"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), "no data"),
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), "x must be floating"),
        (torch.zeros(3, 2).byte(), torch.zeros(3, dtype=torch.int64), "x must be floating"),
        (torch.zeros(3, 2), torch.zeros(3, dtype=torch.int32), "y must be classes"),
        (torch.zeros(3, 2), torch.zeros(3, 1, dtype=torch.int64), "y must be classes"),
        (torch.zeros(3, 2), torch.zeros(3, 1, 1), "y must be classes"),
    ],
)
def test_bad_examples(x: torch.Tensor, y: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Examples(x, y)


def test_to_moves_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = data.load("digits")
    moved: list[Examples] = []

    def move(examples: Examples, device: str) -> Examples:
        assert device == "elsewhere"
        moved.append(examples)
        return examples

    monkeypatch.setattr(Examples, "to", move)
    digits.to("elsewhere")
    assert {id(part) for part in moved} == {
        id(part) for part in (digits.train, digits.validation, digits.test)
    }


def test_label_without_a_class() -> None:
    with pytest.raises(ValueError, match=r"label is outside 0\.\.1"):
        DataSet("Toy", numbered(2), None, numbered(3), classes=("a", "b"))


def test_parts_of_different_shapes() -> None:
    other = Examples(torch.zeros(2, 3), torch.arange(2))
    with pytest.raises(ValueError, match="different shapes"):
        DataSet("Toy", numbered(2), None, other, classes=("a", "b"))


# load


def rows(examples: Examples) -> list[bytes]:
    return [row.numpy().tobytes() for row in examples.x]


def test_digits_parts_are_the_whole_set_once() -> None:
    from sklearn.datasets import load_digits

    digits = data.load("digits", normalise="unit")
    assert digits.validation is not None
    together = rows(digits.train) + rows(digits.validation) + rows(digits.test)
    images = torch.from_numpy(load_digits().images).float() / 16
    assert sorted(together) == sorted(image.numpy().tobytes() for image in images)
    assert len(set(together)) == len(together) == 1797  # so disjoint too
    assert digits.image_shape == (1, 8, 8)


def test_digits_test_part_is_stratified() -> None:
    digits = data.load("digits", validation=0)
    tested, trained = digits.test.y.bincount(), digits.train.y.bincount()
    assert ((tested / (tested + trained) - 0.2).abs() < 0.005).all()


def test_digits_test_part_is_the_same_for_every_seed() -> None:
    first, second = (data.load("digits", normalise="unit", seed=seed) for seed in (0, 1))
    assert rows(first.test) == rows(second.test)
    assert rows(first.train) != rows(second.train)


def test_same_seed_same_parts() -> None:
    torch.manual_seed(0)
    first = data.load("digits", seed=3)
    torch.manual_seed(1)
    second = data.load("digits", seed=3)
    assert first.validation is not None and second.validation is not None
    assert torch.equal(first.train.x, second.train.x)
    assert torch.equal(first.validation.y, second.validation.y)


@pytest.mark.parametrize(("fraction", "held_out"), [(0.1, 144), (0.5, 719), (1e-9, 1)])
def test_validation_fraction(fraction: float, held_out: int) -> None:
    digits = data.load("digits", validation=fraction)
    assert digits.validation is not None
    assert len(digits.validation) == held_out
    assert len(digits.train) == 1438 - held_out


def test_images_of_a_data_set_are_averaged_to_a_smaller_size() -> None:
    whole, small = (data.load("digits", normalise="unit", size=size) for size in (None, (4, 2)))
    assert small.image_shape == (1, 4, 2)
    assert torch.equal(small.train.y, whole.train.y)
    blocks = whole.test.x.view(-1, 1, 4, 2, 2, 4)
    torch.testing.assert_close(small.test.x, blocks.mean((3, 5)))
    standard = data.load("digits", size=(4, 4)).train.x
    assert standard.mean().item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("size", [(3, 4), (4, 16), (0, 4)])
def test_a_size_that_does_not_divide_that_of_the_images(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"Digits are 8 x 8.*size must divide these numbers"):
        data.load("digits", size=size)


def test_no_validation() -> None:
    digits = data.load("digits", validation=0)
    assert digits.validation is None
    assert digits.to("cpu").validation is None


def test_standard_statistics_are_those_of_the_training_part_alone() -> None:
    unit, standard = (data.load("digits", normalise=n) for n in ("unit", "standard"))
    assert standard.train.x.mean().item() == pytest.approx(0, abs=1e-5)
    assert standard.train.x.var().item() == pytest.approx(1, abs=1e-4)
    mean, deviation = unit.train.x.mean(), unit.train.x.std()
    torch.testing.assert_close(
        standard.test.x, (unit.test.x - mean) / deviation, rtol=1e-4, atol=1e-4
    )
    # The whole set has other statistics: had they been used, this would be 0.
    assert abs(standard.test.x.mean().item()) > 1e-3


def test_unit_pixels() -> None:
    digits = data.load("digits", normalise="unit")
    assert digits.train.x.dtype == torch.float32
    assert (digits.train.x.min(), digits.train.x.max()) == (0, 1)


def test_loading_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    data.load("digits")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("name", "near"), [("mnsit", "mnist"), ("MNIST", "mnist")])
def test_unknown_name_has_a_near_match(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"unknown data set '{name}'; did you mean '{near}'"):
        data.load(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 1.0}, "validation must be a fraction"),
        ({"validation": -0.1}, "validation must be a fraction"),
        ({"normalise": "standart"}, "did you mean 'standard'"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.load("digits", **options)


# idx files


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_come_back(suffix: str, tmp_path: Path) -> None:
    images, labels = write_mnist(tmp_path, suffix)
    mnist = data.load("mnist", root=tmp_path, validation=0, normalise="unit", download=False)
    assert mnist.name == "MNIST"
    assert mnist.train.y.tolist() == labels[:20].tolist()
    torch.testing.assert_close(
        mnist.test.x, torch.tensor(images[20:, None] / 255, dtype=torch.float32)
    )


def test_idx_files_are_read_without_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert len(data.load("mnist", root=tmp_path).test) == 5


def test_root_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYROSPARSE_DATA", str(tmp_path))
    write_mnist(tmp_path)
    assert data.default_root() == tmp_path
    assert len(data.load("mnist", download=False).test) == 5


def test_default_root_is_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYROSPARSE_DATA", raising=False)
    assert data.default_root() == tmp_path / "cache" / "pyrosparse"


@pytest.mark.parametrize("change", [-1, 1])
def test_idx_file_of_the_wrong_length(change: int, tmp_path: Path) -> None:
    write_mnist(tmp_path)
    file = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    content = file.read_bytes()
    file.write_bytes(content[:-1] if change < 0 else content + b"\0")
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte is truncated or damaged"):
        data.load("mnist", root=tmp_path)


@pytest.mark.parametrize("content", [b"", b"\0\0\x08", b"<html>404</html>", b"\0\0\x0d\x03" * 9])
def test_file_that_is_no_idx_file(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="train-images-idx3-ubyte is not an idx file"):
        data.read_idx(file, dimensions=3)


def test_images_where_labels_should_be(tmp_path: Path) -> None:
    file = tmp_path / "labels"
    write_idx(file, np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match="not an idx file of bytes in 1 dimensions"):
        data.read_idx(file, dimensions=1)


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_damaged_gzip(damage: str, tmp_path: Path) -> None:
    file = tmp_path / "labels.gz"
    write_idx(file, np.arange(100))
    content = file.read_bytes()
    file.write_bytes(content[:-12] if damage == "cut" else b"not gzip at all")
    with pytest.raises(ValueError, match=r"labels\.gz is damaged"):
        data.read_idx(file, dimensions=1)


@pytest.mark.parametrize(
    ("name", "file"),
    [("mnist", "t10k-labels-idx1-ubyte"), ("cifar10", "cifar-10-batches-py")],
)
@pytest.mark.parametrize("download", [True, False])
@pytest.mark.usefixtures("no_network")
def test_missing_files_say_what_to_put_where(
    name: str, file: str, download: bool, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        data.load(name, root=tmp_path, download=download)
    message = str(caught.value)
    assert file in message and str(tmp_path) in message
    assert ("no route to host" in message) == download


def test_download_fills_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(root: Path, download: bool) -> None:
        assert download
        write_mnist(root)

    fake = SimpleNamespace(datasets=SimpleNamespace(MNIST=download))
    monkeypatch.setattr(data.sources, "torchvision", lambda: fake)
    assert len(data.load("mnist", root=tmp_path / "new").test) == 5
    assert (tmp_path / "new" / "MNIST").is_dir()


def test_download_into_the_cache_if_the_root_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = SimpleNamespace(
        datasets=SimpleNamespace(MNIST=lambda root, download: write_mnist(root) and None)
    )
    monkeypatch.setattr(data.sources, "torchvision", lambda: fake)
    monkeypatch.setattr(data.sources.os, "access", lambda folder, mode: False)
    assert len(data.load("mnist", root=tmp_path).test) == 5
    assert not (tmp_path / "MNIST").exists()


@pytest.mark.parametrize(
    "failure", [ModuleNotFoundError("none"), RuntimeError("torchvision::nms does not exist")]
)
def test_torchvision_that_does_not_import(
    failure: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise failure

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ImportError, match="pip install --upgrade torch torchvision"):
        data.load("mnist", root=tmp_path)


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")]
)
def test_the_real_files(name: str, folder: str) -> None:
    raw = data.default_root() / folder / "raw"
    if not any(raw.glob("train-images-idx3-ubyte*")):
        pytest.skip(f"{raw} has no files: set PYROSPARSE_DATA to a folder with {folder}/raw")
    real = data.load(name, validation=1 / 6, download=False)
    assert real.validation is not None
    assert (len(real.train), len(real.validation), len(real.test)) == (50000, 10000, 10000)
    assert real.image_shape == (1, 28, 28)
    assert real.test.y.unique().tolist() == list(range(10)) and len(real.classes) == 10
    assert real.train.x.mean().item() == pytest.approx(0, abs=1e-4)
    assert real.train.x.var().item() == pytest.approx(1, abs=1e-3)


# cifar10


def write_zip(root: Path, size: tuple[int, int] = (32, 32)) -> Path:
    write_images(root / "train", count=6, size=size)
    write_images(root / "test", count=3, size=size)
    archive = root / "cifar10-jpeg" / "cifar10-jpeg.zip"
    archive.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(archive, "w") as opened:
        for file in sorted(root.glob("t*/*/*.png")):
            opened.write(file, file.relative_to(root))
    return archive


def test_cifar10_from_a_zip_and_then_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_zip(tmp_path / "root")

    def load() -> DataSet:
        return data.load("cifar10", root=tmp_path / "root", validation=0, normalise="unit")

    first = load()
    assert first.name == "CIFAR-10 (JPEG)" and first.classes == ("cat", "dog")
    assert (len(first.train), len(first.test)) == (12, 6)
    cats = first.train.x[first.train.y == 0]
    assert torch.equal(cats.unique(), torch.tensor([0, 200 / 255]))

    monkeypatch.setattr(data.images, "read_images", None)  # decoding again would fail
    second = load()
    assert torch.equal(first.train.x, second.train.x) and torch.equal(first.test.y, second.test.y)
    assert second.classes == first.classes
    (kept,) = (tmp_path / "cache" / "pyrosparse").iterdir()  # and no temporary file
    assert kept.suffix == ".npz"


def test_another_zip_of_the_same_name_is_decoded_anew(tmp_path: Path) -> None:
    for folder, count in (("a", 12), ("b", 10)):
        archive = write_zip(tmp_path / folder)
        if folder == "b":
            with zipfile.ZipFile(archive, "w") as opened:
                for file in sorted((tmp_path / "b").glob("t*/*/*.png")):
                    if file.name != "05.png":
                        opened.write(file, file.relative_to(tmp_path / "b"))
        loaded = data.load("cifar10", root=tmp_path / folder, validation=0)
        assert len(loaded.train) == count


def test_cache_that_cannot_be_written_is_only_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_zip(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot keep the decoded images"):
        assert len(data.load("cifar10", root=tmp_path).test) == 6


def test_damaged_zip_is_named(tmp_path: Path) -> None:
    archive = write_zip(tmp_path)
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"cifar10-jpeg\.zip is damaged"):
        data.load("cifar10", root=tmp_path)


def test_cifar10_prefers_the_original_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cifar10:
        def __init__(self, root: Path, train: bool) -> None:
            assert root == tmp_path
            self.data = np.zeros((4, 32, 32, 3), dtype=np.uint8)
            self.data[..., 2] = 255
            self.targets = [0, 1, 0, 1] if train else [1, 1, 1, 1]
            self.classes = ["airplane", "automobile"]

    write_zip(tmp_path)
    (tmp_path / "cifar-10-batches-py").mkdir()
    fake = SimpleNamespace(datasets=SimpleNamespace(CIFAR10=Cifar10))
    monkeypatch.setattr(data.sources, "torchvision", lambda: fake)
    cifar = data.load("cifar10", root=tmp_path, validation=0, normalise="unit")
    assert cifar.name == "CIFAR-10"
    assert cifar.image_shape == (3, 32, 32)
    assert cifar.train.x.amax((0, 2, 3)).tolist() == [0, 0, 1]
    assert cifar.test.y.tolist() == [1, 1, 1, 1]


def test_damaged_batches_are_never_unpickled(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"no pickle")
    with pytest.raises(ValueError, match="cifar-10-batches-py is damaged"):
        data.load("cifar10", root=tmp_path)


# image_folder


def test_image_folder_is_split_in_each_class(tmp_path: Path) -> None:
    write_images(tmp_path)
    animals = data.image_folder(tmp_path, validation=0.25, normalise="unit")
    assert animals.classes == ("cat", "dog")
    assert animals.image_shape == (3, 4, 6)
    assert animals.validation is not None
    assert (len(animals.train), len(animals.validation), len(animals.test)) == (12, 4, 4)
    assert animals.test.y.tolist() == [0, 0, 1, 1]
    cats = animals.test.x[animals.test.y == 0]
    assert torch.equal(cats.amax((0, 2, 3)), torch.tensor([200 / 255, 0, 0]))


def test_image_folder_with_train_and_test(tmp_path: Path) -> None:
    write_images(tmp_path / "train", count=5)
    write_images(tmp_path / "test", count=2)
    animals = data.image_folder(tmp_path, validation=0)
    assert (len(animals.train), len(animals.test)) == (10, 4)


def test_load_takes_a_folder(tmp_path: Path) -> None:
    write_images(tmp_path / "pets")
    for name in (tmp_path / "pets", str(tmp_path / "pets")):
        assert data.load(name, validation=0).name == "pets"


@pytest.mark.parametrize("normalise", ["unit", "standard"])
def test_bounds_are_what_pixels_0_and_1_became(normalise: str) -> None:
    digits = data.load("digits", normalise=normalise)
    low, high = digits.bounds
    assert low.shape == high.shape == (1, 1, 1)
    # In the digits are pixels of 0 and of 1, which are to lie on the bounds without a rounding.
    assert torch.equal(low.flatten(), digits.train.x.min()[None])
    assert torch.equal(high.flatten(), digits.train.x.max()[None])
    pixels = data.load("digits", normalise="unit").test.x
    assert torch.allclose((digits.test.x - low) / (high - low), pixels, atol=1e-6)
    assert torch.equal(digits.to("cpu").bounds[1], high)


def test_colours_are_normalised_by_channel_and_a_constant_one_stays_finite(tmp_path: Path) -> None:
    write_images(tmp_path)
    animals = data.image_folder(tmp_path, validation=0)
    mean, variance = animals.train.x.mean((0, 2, 3)), animals.train.x.var((0, 2, 3))
    torch.testing.assert_close(mean, torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(variance, torch.tensor([1.0, 0.0, 1.0]), rtol=0, atol=0.01)


def test_size_and_grey(tmp_path: Path) -> None:
    write_images(tmp_path)
    animals = data.image_folder(tmp_path, size=(8, 5), grey=True, normalise="unit")
    assert animals.image_shape == (1, 8, 5)
    (grey,) = Image.new("RGB", (1, 1), (200, 0, 0)).convert("L").tobytes()
    assert animals.train.x[animals.train.y == 0].unique().tolist() == pytest.approx([grey / 255])


def test_hidden_files_and_other_files_are_passed_over(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "cat" / ".00.png").write_bytes(b"")
    (tmp_path / "cat" / "notes.txt").write_text("a cat")
    assert data.image_folder(tmp_path).classes == ("cat", "dog")


def test_folder_without_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no classes"):
        data.image_folder(tmp_path)


def test_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        data.image_folder(tmp_path / "nowhere")


def test_class_without_images(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / "eel").mkdir()
    with pytest.raises(ValueError, match="eel has no images"):
        data.image_folder(tmp_path)


def test_unreadable_image_is_named(tmp_path: Path) -> None:
    write_images(tmp_path)
    file = tmp_path / "dog" / "03.png"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"cannot read the image .*dog.03\.png"):
        data.image_folder(tmp_path)


def test_deep_colours_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    write_images(tmp_path)
    deep = np.full((4, 6), 40000, dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "cat" / "00.png")
    with pytest.raises(ValueError, match="more than 8 bits"):
        data.image_folder(tmp_path)


def test_images_of_different_sizes(tmp_path: Path) -> None:
    write_images(tmp_path)
    Image.new("RGB", (7, 7)).save(tmp_path / "dog" / "03.png")
    with pytest.raises(ValueError, match=r"03\.png is 7 x 7, others are 4 x 6; give size"):
        data.image_folder(tmp_path)
    assert data.image_folder(tmp_path, size=(4, 4)).image_shape == (3, 4, 4)


def test_class_that_only_the_test_part_has(tmp_path: Path) -> None:
    write_images(tmp_path / "train")
    write_images(tmp_path / "test")
    (tmp_path / "train" / "dog").rename(tmp_path / "dog")
    with pytest.raises(ValueError, match="only one of train and test has the classes dog"):
        data.image_folder(tmp_path)


@pytest.mark.parametrize("fraction", [0, 1, -0.5])
def test_test_fraction(fraction: float, tmp_path: Path) -> None:
    write_images(tmp_path)
    with pytest.raises(ValueError, match="test must be a fraction"):
        data.image_folder(tmp_path, test=fraction)


def test_too_few_images_for_a_test_part(tmp_path: Path) -> None:
    write_images(tmp_path, count=2)
    with pytest.raises(ValueError, match="no data"):
        data.image_folder(tmp_path, test=0.1)


def test_unknown_name_without_a_near_match() -> None:
    assert str(errors.unknown_name("thing", "zzz", ["abc"])) == "unknown thing 'zzz'; known: abc"
