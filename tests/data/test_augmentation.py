"""Draws, orders, flips, crops and boxes: pure, even, never shared, and those of plain references."""

from decimal import Decimal, getcontext
from typing import Any

import numpy as np
import photos
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from pipeline.data import batches
from pipeline.data.augmentation import ATTEMPTS, central_boxes, flips, offsets, random_boxes
from pipeline.data.batches import Preprocessing
from pipeline.data.readers import Splits
from pipeline.data.sampler import Stream, below, draw, held_out, sample_order
from pipeline.models.resnet import build
from pipeline.params import Crop, Flip

getcontext().prec = 60
BATCH = 16
ERAS: list[tuple[Flip, Crop]] = [("per-image", "per-image"), ("half-batch", "per-batch"), ("none", "random-resized")]
WORDS = {torch.float32: np.uint32, torch.bfloat16: np.uint16}
MEAN, STD = np.array([125.3, 123.0, 113.9], np.float32), np.array([63.0, 62.1, 66.7], np.float32)
SEEDS, EPOCHS, SIDES = st.integers(0, 2**32 - 1), st.integers(0, 10_000), st.integers(1, 2000)


def test_seeds_epochs_and_streams_share_nothing_and_held_out_samples_are_drawn_evenly() -> None:
    """FFCV's own order for seed 2, epoch 0 is that of seed 1, epoch 1."""
    orders = {sample_order(seed, epoch, 50).tobytes() for seed in range(30) for epoch in range(30)}
    assert len(orders) == 900
    draws = np.stack([draw(7, stream, 3, np.arange(20_000)) for stream in Stream])
    assert len(np.unique(draws)) == draws.size
    correlation = np.corrcoef((draws >> np.uint64(63)).astype(float)) - np.eye(len(Stream))
    assert np.abs(correlation).max() < 0.04  # 5.6 standard deviations of 20,000 coin flips
    assert chisquare(np.bincount(held_out(50_000, 5_000) // 5_000, minlength=10)).pvalue > 1e-3


def agree(images: np.ndarray, at: np.ndarray, *moves: np.ndarray) -> None:
    """The compiled pass and torch give the bits of the plain reference, in both precisions."""
    expected = (photos.moved(images[at], *moves).astype(np.float32) - MEAN) / STD
    preprocessing, places = Preprocessing("meanstd"), np.stack(moves)
    for dtype, words in WORDS.items():
        bits = torch.from_numpy(expected).to(dtype).view(torch.uint8).numpy().tobytes()
        out = np.empty((len(at), *images.shape[1:]), words)
        batches.fill(out, images, at, places, preprocessing.table(dtype).view(torch.uint8).numpy().view(words))
        assert out.tobytes() == bits
        made = batches.augment(torch.from_numpy(images), torch.from_numpy(at), *torch.from_numpy(places))
        made = preprocessing(made).to(dtype).permute(0, 2, 3, 1).contiguous()
        assert made.view(torch.uint8).numpy().tobytes() == bits


@settings(max_examples=25)
@given(st.integers(1, 12), st.integers(1, 12), SEEDS, EPOCHS, st.sampled_from(ERAS))
def test_any_size_seed_and_epoch(height: int, width: int, seed: int, epoch: int, era: tuple[Flip, Crop]) -> None:
    images = draw(seed, Stream.INIT, epoch, np.arange(5 * height * width * 3)).astype(np.uint8)
    indices = np.arange(40)
    moves = flips(era[0], seed, epoch, indices, BATCH), *offsets(era[1], seed, epoch, indices, indices // BATCH)
    at = below(draw(seed, Stream.ORDER, epoch, indices), 5)
    agree(images.reshape(5, height, width, 3), at, *moves)


@pytest.mark.parametrize(("place", "value"), [(0, 260), (0, -1), (2, 9), (2, -1), (3, 9), (3, -1)])
def test_an_image_or_crop_that_is_not_there_is_refused(tiny_images: Splits, place: int, value: int) -> None:
    places = np.zeros((4, 4), np.int64)
    places[place, 2] = value
    out, table = np.empty((4, 32, 32, 3), np.uint32), np.zeros((3, 256), np.uint32)
    with pytest.raises(IndexError, match="no such image or crop"):
        batches.fill(out, tiny_images["train"][0], places[0], places[1:], table)


def test_per_image_offsets_are_even_and_independent_and_per_batch_ones_are_one_pair_a_batch() -> None:
    indices = np.arange(400_000)
    mirrored = flips("per-image", 1, 0, indices)
    rows, columns = offsets("per-image", 1, 0, indices, 0)
    cells = np.bincount((rows * 9 + columns) * 2 + mirrored, minlength=162)
    assert len(cells) == 162
    assert chisquare(cells).pvalue > 1e-4
    rows, columns = offsets("per-batch", 1, 0, indices, indices // 200)
    assert len({*zip(rows.tolist(), columns.tolist(), strict=True)}) == 81
    for each in (rows, columns):
        assert (each.reshape(-1, 200) == each[::200, None]).all()


def box(seed: int, epoch: int, index: int, height: int, width: int) -> tuple[int, int, int, int]:
    """The recipe's random resized crop of one image, in 60 decimal digits."""

    def bits(stream: Stream, i: int) -> int:
        return int(draw(seed, stream, epoch, i)[0])

    def pick(stream: Stream, n: int) -> int:
        return (bits(stream, index) >> 32) * n >> 32

    def nearest(x: Decimal) -> int:
        return int(x + Decimal("0.5"))

    for attempt in range(ATTEMPTS):
        at = index * ATTEMPTS + attempt
        share = Decimal("0.08") + Decimal("0.92") * (bits(Stream.BOX_AREA, at) >> 11) / Decimal(2**53)
        step = bits(Stream.BOX_RATIO, at) >> 48
        ratio = Decimal("0.75") * (Decimal(16) / 9) ** (Decimal(step) / 65536)
        area = share * height * width
        h, w = nearest((area / ratio).sqrt()), nearest((area * ratio).sqrt())
        if 0 < h <= height and 0 < w <= width:
            return pick(Stream.BOX_TOP, height - h + 1), pick(Stream.BOX_LEFT, width - w + 1), h, w
    h, w = min(height, nearest(Decimal(4 * width) / 3)), min(width, nearest(Decimal(4 * height) / 3))
    return (height - h) // 2, (width - w) // 2, h, w


@settings(max_examples=60)
@given(SEEDS, EPOCHS, st.lists(st.tuples(st.integers(0, 2_000_000), SIDES, SIDES), min_size=1, max_size=8))
def test_the_boxes_are_the_reference_and_lie_in_the_image(
    seed: int, epoch: int, images: list[tuple[int, int, int]]
) -> None:
    indices, heights, widths = (np.array(column, np.int64) for column in zip(*images, strict=True))
    made = random_boxes(seed, epoch, indices, heights, widths)
    assert made.dtype == np.int64
    assert [tuple(each) for each in made.tolist()] == [box(seed, epoch, *image) for image in images]
    for top, left, height, width in (made.T, central_boxes(indices, heights, widths).T):
        assert (np.minimum(top, left) >= 0).all()
        assert (np.minimum(height, width) >= 1).all()
        assert (top + height <= heights).all()
        assert (left + width <= widths).all()


def test_an_image_that_no_attempt_fits_shows_its_largest_central_box_and_a_test_the_centre() -> None:
    largest = {(10, 1000): (0, 493, 10, 13), (1000, 10): (493, 0, 13, 10), (1, 1): (0, 0, 1, 1), (1, 5): (0, 2, 1, 1)}
    for size, expected in largest.items():
        one = [np.array([side]) for side in size]
        drawn = (random_boxes(1, epoch, np.array([0]), *one)[0].tolist() for epoch in range(50))
        assert list(expected) in list(drawn)
    central = {
        (256, 256): (16, 16, 224, 224),
        (256, 400): (16, 88, 224, 224),
        (512, 300): (125, 19, 262, 262),
        (8, 9): (0, 1, 7, 7),
        (1, 3): (0, 1, 1, 1),
    }
    assert central_boxes(np.arange(5), *np.array(list(central)).T).tolist() == [list(each) for each in central.values()]


def test_a_value_that_has_no_code_yet_is_not_taken_for_another() -> None:
    """Whoever adds one to pipeline/params.py alone would train silently by the last of those that there are."""
    new: Any = "of another paper"
    with pytest.raises(AssertionError, match=new):
        flips(new, 1, 0, np.arange(4))
    with pytest.raises(KeyError, match=new):
        offsets(new, 1, 0, np.arange(4), 0)
    with pytest.raises(KeyError, match=new):
        build("WRN-10-1", 10, conv_init=new, bn_init="ones", seed=1)
    with pytest.raises(AssertionError, match=new):
        build("WRN-10-1", 10, conv_init="fan_in", bn_init=new, seed=1)
