"""Flip and crop against a plain reference: mirror, pad by reflection, cut out; and the compiled pass and the torch
kernel against that, to the bit."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from pipeline.data import batches
from pipeline.data.augmentation import PAD, augment, flips, offsets
from pipeline.data.counter_rng import Stream, below, draw
from pipeline.data.numba_kernel import fill
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.readers import Splits
from pipeline.params import Crop, Flip


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


@pytest.mark.parametrize("crop", ["none", "random-resized"])  # the latter has been cropped by the loader
def test_no_flip_and_no_crop_leave_images_alone(tiny_images: Splits, crop: Crop) -> None:
    images, indices = tiny_images["test"][0], np.arange(104)
    made = augment(images, flips("none", 1, 0, indices), *offsets(crop, 1, 0, indices, 0))
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


BATCH = 128
ERAS: list[tuple[Flip, Crop]] = [("per-image", "per-image"), ("half-batch", "per-batch"), ("none", "none")]
WORDS = {torch.float32: np.uint32, torch.bfloat16: np.uint16}
MEAN, STD = np.array([125.3, 123.0, 113.9], np.float32), np.array([63.0, 62.1, 66.7], np.float32)


def draws(flip: Flip, crop: Crop, seed: int, epoch: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    batches = np.arange(n) // BATCH
    return flips(flip, seed, epoch, np.arange(n), BATCH), *offsets(crop, seed, epoch, np.arange(n), batches)


def by_numpy(images: np.ndarray, at: np.ndarray, moves: tuple[np.ndarray, ...], dtype: torch.dtype) -> bytes:
    made = augment(images[at], *moves)
    if made.dtype == np.uint8:
        made = (made.astype(np.float32) - MEAN) / STD
    return torch.from_numpy(made).to(dtype).view(torch.uint8).numpy().tobytes()


def by_numba(images: np.ndarray, at: np.ndarray, moves: tuple[np.ndarray, ...], dtype: torch.dtype) -> bytes:
    table = Preprocessing("meanstd" if images.dtype == np.uint8 else "zca").table(dtype)
    words = None if table is None else table.view(torch.int16 if dtype == torch.bfloat16 else torch.int32).numpy()
    out = np.empty((len(at), *images.shape[1:]), WORDS[dtype])
    fill(out, images, at, *moves, None if words is None else words.view(WORDS[dtype]))
    return out.tobytes()


def by_torch(images: np.ndarray, at: np.ndarray, moves: tuple[np.ndarray, ...], dtype: torch.dtype) -> bytes:
    made = batches.augment(torch.from_numpy(images), *(torch.from_numpy(a) for a in (at, *moves)))
    preprocessing = Preprocessing("meanstd" if images.dtype == np.uint8 else "zca")
    made = preprocessing(made).to(dtype).permute(0, 2, 3, 1)
    return made.contiguous().view(torch.uint8).numpy().tobytes()


def agree(images: np.ndarray, at: np.ndarray, moves: tuple[np.ndarray, ...]) -> bool:
    """All three ways give the same bits, in both precisions."""
    return all(
        by_numpy(images, at, moves, dtype) == by_numba(images, at, moves, dtype) == by_torch(images, at, moves, dtype)
        for dtype in WORDS
    )


@pytest.mark.parametrize("stored", ["bytes", "floats"])
@pytest.mark.parametrize(("flip", "crop"), ERAS)
def test_real_images_get_the_same_bits(tiny_images: Splits, flip: Flip, crop: Crop, stored: str) -> None:
    images = tiny_images["train"][0].copy()
    if stored == "floats":
        images = (images.astype(np.float32) - images.mean(0, dtype=np.float32)) / 77
    at = below(draw(3, Stream.ORDER, 1, np.arange(2000)), len(images))
    assert agree(images, at, draws(flip, crop, 3, 1, len(at)))


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1), st.integers(0, 10_000), st.sampled_from(ERAS))
def test_any_size_seed_and_epoch(height: int, width: int, seed: int, epoch: int, era: tuple[Flip, Crop]) -> None:
    images = draw(seed, Stream.INIT, epoch, np.arange(5 * height * width * 3)).astype(np.uint8)
    images = images.reshape(5, height, width, 3)
    at = below(draw(seed, Stream.ORDER, epoch, np.arange(150)), 5)
    assert agree(images, at, draws(*era, seed, epoch, 150))


def test_floats_round_to_the_nearest_bf16_as_torch_rounds_them() -> None:
    """Half-way cases to even and away, both zeros, subnormals, and the largest, which becomes infinite."""
    edges = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x80000000, 1, 0x8000, 0x7F7FFFFF], np.uint32)
    bits = np.concatenate([edges, draw(1, Stream.INIT, 0, np.arange(3 * 64**2 - 8)).astype(np.uint32)])
    bits[(bits & 0x7F800000) == 0x7F800000] = 0x7F7FFFFF  # whitening makes neither infinities nor NaN
    images = bits.view(np.float32).reshape(1, 64, 64, 3)
    assert agree(images, np.array([0]), draws("none", "none", 1, 0, 1))


@pytest.mark.parametrize(("place", "value"), [(0, 260), (0, -1), (2, 9), (2, -1), (3, 9), (3, -1)])
def test_an_image_or_crop_that_is_not_there_is_refused(tiny_images: Splits, place: int, value: int) -> None:
    arguments = [np.zeros(4, np.int64), np.zeros(4, np.bool_), np.zeros(4, np.int64), np.zeros(4, np.int64)]
    arguments[place][2] = value
    with pytest.raises(IndexError, match="no such image or crop"):
        fill(np.empty((4, 32, 32, 3), np.uint32), tiny_images["train"][0], *arguments, np.zeros((3, 256), np.uint32))
