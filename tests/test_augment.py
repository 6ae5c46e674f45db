"""Augmented images: what they are made of, how often, and that the seed determines them."""

import pytest
import torch

from pyrosparse import data
from pyrosparse.data import Augmented, Examples


def augmented(x: torch.Tensor, seed: int = 0, size: int = 400, **options) -> torch.Tensor:
    data = Augmented(Examples(x, torch.arange(len(x))), **options)
    generator = torch.Generator().manual_seed(seed)
    found = list(data.batches(size, generator))
    x, y = (torch.cat(parts) for parts in zip(*found, strict=True))
    return x[y.argsort()]


def test_every_version_is_a_shift_or_its_mirror_image_and_all_are_as_probable():
    image = torch.arange(2 * 10 * 20.0).view(1, 2, 10, 20)
    padded = torch.nn.functional.pad(image, (2, 2, 1, 1), mode="replicate")
    versions = []
    for down in range(3):
        for right in range(5):
            one = padded[:, :, down : down + 10, right : right + 20]
            versions += [one, one.flip(3)]
    found = augmented(image.expand(6000, 2, 10, 20), size=7000, flip=True)
    counts = torch.tensor([int((found == one).flatten(1).all(1).sum()) for one in versions])
    assert counts.sum() == 6000 and len(counts) == 30
    assert ((counts - 200) ** 2 / 200).sum() < 29 + 5 * (2 * 29) ** 0.5


def test_without_flips_and_shifts_images_stay():
    x = torch.randn(5, 3, 8, 8)
    assert torch.equal(augmented(x, shift=0.0, flip=False), x)
    assert torch.equal(augmented(x, shift=0.05, flip=False), x)  # less than half a pixel


def test_the_seed_determines_them_and_evaluation_sees_the_originals():
    x = torch.randn(50, 1, 10, 10)
    assert torch.equal(augmented(x, 1), augmented(x, 1))
    assert not torch.equal(augmented(x, 1), augmented(x, 2))
    data = Augmented(Examples(x, torch.zeros(50, dtype=torch.int64)))
    assert torch.equal(torch.cat([x for x, _ in data.batches(7)]), x) and len(data) == 50


def test_what_is_no_image_is_refused():
    flat = Examples(torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="only images"):
        Augmented(flat)
    images = Examples(torch.zeros(3, 1, 4, 4), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="shift is a fraction"):
        Augmented(images, shift=1.0)


def test_only_what_keeps_its_class_is_flipped():
    x = torch.randn(50, 1, 10, 10)
    assert torch.equal(augmented(x, shift=0.0), x)
    assert not torch.equal(augmented(x, shift=0.0, flip=True), x)
    assert not data.load("digits").flip
