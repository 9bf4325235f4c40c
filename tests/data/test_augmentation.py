"""Flip and crop against a plain reference: mirror, pad by reflection, cut out."""

import numpy as np
import pytest
from scipy.stats import chisquare

from pipeline.data.augmentation import PAD, augment, flips, offsets
from pipeline.data.readers import Splits


def reference(image: np.ndarray, mirrored: bool, row: int, column: int) -> np.ndarray:
    if mirrored:
        image = image[:, ::-1]
    height, width = image.shape[:2]
    padded = np.pad(image, ((PAD, PAD), (PAD, PAD), (0, 0)), mode="reflect")
    return padded[row : row + height, column : column + width]


def test_every_offset_and_flip_of_real_images_is_the_reference(tiny_images: Splits) -> None:
    images = tiny_images["train"][0][:162]
    rows, columns = (grid.reshape(-1) for grid in np.meshgrid(np.arange(9), np.arange(9), indexing="ij"))
    mirrored = np.repeat([False, True], 81)
    rows, columns = np.tile(rows, 2), np.tile(columns, 2)
    made = augment(images, mirrored, rows, columns)
    assert made.dtype == np.uint8
    for i in range(162):
        assert np.array_equal(made[i], reference(images[i], mirrored[i], rows[i], columns[i])), i


def test_no_flip_and_no_crop_leave_images_alone(tiny_images: Splits) -> None:
    images, indices = tiny_images["test"][0], np.arange(104)
    made = augment(images, flips("none", 1, 0, indices), *offsets("none", 1, 0, indices, 0))
    assert np.array_equal(made, images)


def test_draws_follow_the_sample_and_not_its_place() -> None:
    indices = np.random.default_rng(0).permutation(1000)
    whole = flips("per-image", 3, 5, np.arange(1000)), *offsets("per-image", 3, 5, np.arange(1000), 0)
    shuffled = flips("per-image", 3, 5, indices), *offsets("per-image", 3, 5, indices, 17)
    for one, other in zip(whole, shuffled, strict=True):
        assert np.array_equal(one[indices], other)


def test_per_image_offsets_are_even_and_independent() -> None:
    indices = np.arange(400_000)
    mirrored = flips("per-image", 1, 0, indices)
    rows, columns = offsets("per-image", 1, 0, indices, 0)
    cells = np.bincount((rows * 9 + columns) * 2 + mirrored, minlength=162)
    assert len(cells) == 162
    assert chisquare(cells).pvalue > 1e-4


@pytest.mark.parametrize("other", ["epoch", "seed", "index"])
def test_draws_of_an_image_are_independent_of_those_of_another_epoch_seed_and_image(other: str) -> None:
    indices = 2 * np.arange(500_000)
    seed, epoch, moved = {"epoch": (1, 5, 0), "seed": (2, 4, 0), "index": (1, 4, 1)}[other]
    one = offsets("per-image", 1, 4, indices, 0)[0] * 2 + flips("per-image", 1, 4, indices)
    two = offsets("per-image", seed, epoch, indices + moved, 0)[0] * 2 + flips(
        "per-image", seed, epoch, indices + moved
    )
    assert chisquare(np.bincount(one * 18 + two, minlength=324)).pvalue > 1e-4


def test_several_batches_at_once_are_drawn_as_each_alone() -> None:
    order = np.random.default_rng(1).permutation(1000)
    numbers = np.arange(1000) // 96
    mirrored = flips("half-batch", 5, 2, order, 96)
    rows, columns = offsets("per-batch", 5, 2, order, numbers)
    for number in range(11):
        batch = slice(number * 96, (number + 1) * 96)
        assert np.array_equal(mirrored[batch], flips("half-batch", 5, 2, order[batch]))
        alone = offsets("per-batch", 5, 2, order[batch], number)
        assert np.array_equal(rows[batch], alone[0])
        assert np.array_equal(columns[batch], alone[1])


def test_per_batch_offsets_are_one_pair_a_batch() -> None:
    pairs = set()
    for batch in range(2000):
        rows, columns = offsets("per-batch", 1, 0, np.arange(batch, batch + 128), batch)
        assert len(set(rows)) == len(set(columns)) == 1
        pairs.add((int(rows[0]), int(columns[0])))
    assert len(pairs) == 81


@pytest.mark.parametrize("size", [1, 2, 127, 128])
def test_half_batch_mirrors_exactly_half(size: int) -> None:
    mirrored = [flips("half-batch", 1, epoch, np.arange(size)) for epoch in range(200)]
    assert {int(m.sum()) for m in mirrored} == {size // 2}
    if size == 128:
        assert chisquare(np.sum(mirrored, axis=0), [100] * 128).pvalue > 1e-4


def test_what_the_loader_has_cropped_at_random_sizes_is_not_shifted_again() -> None:
    rows, columns = offsets("random-resized", 1, 0, np.arange(4), 0)
    assert (rows == PAD).all()
    assert (columns == PAD).all()
