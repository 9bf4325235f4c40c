"""The compiled pass and the torch kernel against plain numpy, to the bit."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data import batches
from pipeline.data.augmentation import PAD, augment, flips, offsets
from pipeline.data.counter_rng import Stream, below, draw
from pipeline.data.numba_kernel import fill
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.readers import Splits
from pipeline.params import Crop, Flip

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


def test_every_flip_and_offset_of_an_image_that_shows_each_pixels_place() -> None:
    """Every byte names its row, column or channel, so that one pixel out of place shows."""
    image = np.stack(np.broadcast_arrays(np.arange(32)[:, None], 100 + np.arange(32), 255), -1).astype(np.uint8)
    mirrored, rows, columns = (a.reshape(-1) for a in np.mgrid[0:2, 0 : 2 * PAD + 1, 0 : 2 * PAD + 1])
    assert agree(image[None], np.zeros(162, np.int64), (mirrored.astype(np.bool_), rows, columns))


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


def test_a_place_of_another_shape_is_refused(tiny_images: Splits) -> None:
    images, at = tiny_images["train"][0], np.zeros(4, np.int64)
    moves = draws("none", "none", 1, 0, 4)
    for shape, axes in [((5, 32, 32, 3), (0, 1, 2, 3)), ((4, 32, 31, 3), (0, 1, 2, 3)), ((4, 3, 32, 32), (0, 2, 3, 1))]:
        with pytest.raises(ValueError, match="does not hold 4 images"):
            fill(np.zeros(shape, np.uint32).transpose(axes), images, at, *moves, np.zeros((3, 256), np.uint32))
