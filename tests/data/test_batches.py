"""Finished mini-batches from real splits: their bits, whose they are, and that no image depends on its batch; and the
color jitter and PCA lighting of ImageNet's, held against a plain reference and the recipe's formulas."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import photos
import pytest
import torch
from made_up_runs import changed
from scipy.stats import chisquare, kstest

from pipeline.data import augmentation
from pipeline.data.augmentation import color_draws, flips, offsets, random_boxes
from pipeline.data.batches import Input, Inputs, Preprocessing
from pipeline.data.loader import Loader
from pipeline.data.readers import Splits
from pipeline.data.sampler import sample_order
from pipeline.params import Color, Crop, Flip, Protocol

EACH = pytest.mark.parametrize("era", [("per-image", "per-image"), ("half-batch", "per-batch"), ("none", "none")])
PRECISION = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
Era = tuple[Flip, Crop]
N, SEED = 9, 7
Pixels = npt.NDArray[Any]


def inputs(
    folder: Path, era: Era = ("per-image", "per-image"), dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Inputs:
    preprocessing = Preprocessing("meanstd").to(device)
    return Inputs(Loader(folder, "train", 48, "numpy"), preprocessing, *era, SEED, dtype, torch.device(device))


def same(ones: Iterable[Input], others: Iterable[Input]) -> None:
    for one, other in zip(ones, others, strict=True):
        assert np.array_equal(one.indices, other.indices)
        assert one.images.dtype == other.images.dtype
        assert one.images.stride() == other.images.stride()
        assert torch.equal(one.images.float(), other.images.float())
        assert torch.equal(one.labels, other.labels)


@PRECISION
@EACH
def test_batches_are_a_plain_reference_batch_by_batch_and_an_epoch_continues_where_it_was_left(
    tiny_beton: Path, tiny_images: Splits, era: Era, dtype: torch.dtype
) -> None:
    images, labels = tiny_images["train"]
    order, of = sample_order(SEED, 3, 260), inputs(tiny_beton, era, dtype)
    made = list(of.batches(3, order))  # all are kept, so one that was overwritten would show
    assert [len(batch.indices) for batch in made] == [48] * 5 + [20]
    for number, batch in enumerate(made):
        chosen = order[number * 48 : (number + 1) * 48]
        moves = flips(era[0], SEED, 3, chosen), *offsets(era[1], SEED, 3, chosen, number)
        expected = Preprocessing("meanstd")(torch.from_numpy(photos.moved(images[chosen], *moves))).to(dtype)
        assert batch.images.dtype == dtype
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(batch.images, expected)
        assert np.array_equal(batch.indices, chosen)
        assert np.array_equal(batch.labels.numpy(), labels[chosen])
        same(of.batches(3, order[number * 48 :], number), made[number:])
    # The ways of a GPU give the same bits.
    moves = np.stack([flips(era[0], SEED, 3, order, 48), *offsets(era[1], SEED, 3, order, np.arange(260) // 48)])
    same(of.by_torch(of.resident(order), moves, 3), made)
    same(of.by_torch(of.streamed(order, augmentation.central_boxes), moves, 3), made)


def reference(image: Pixels, order: Sequence[int], factors: Pixels, lighting: Pixels) -> Pixels:
    """One image, float32 [H,W,3] of 0..255: each operation of `colored` in its order, rounded to float32."""

    def grey_of(x: Pixels) -> Pixels:
        return x[..., 0] * np.float32(0.299) + x[..., 1] * np.float32(0.587) + x[..., 2] * np.float32(0.114)

    x = image
    for kind in order:
        factor, grey = factors[kind], grey_of(x)
        if kind == augmentation.BRIGHTNESS:
            x = x * factor
        elif kind == augmentation.SATURATION:
            x = x * factor + ((np.float32(1) - factor) * grey)[..., None]
        else:
            total = (grey.astype(np.float64) * 2**32).astype(np.int64).sum()  # of whole numbers: in any order
            x = x * factor + (np.float32(1) - factor) * np.float32(float(total) * (1 / (2.0**32 * grey.size)))
    amounts = [float(amount) * (255 * value) for amount, value in zip(lighting, augmentation.EIGENVALUES, strict=True)]
    shift = [amounts[0] * row[0] + amounts[1] * row[1] + amounts[2] * row[2] for row in augmentation.EIGENVECTORS]
    return x + np.array(shift).astype(np.float32)


def recipe(image: Pixels, order: Sequence[int], factors: Pixels, lighting: Pixels) -> Pixels:
    """fb.resnet.torch's transforms of one image in [0,1], in double precision; back in 0..255."""
    x = image.astype(np.float64) / 255
    for kind in order:
        grey = np.repeat((x @ [0.299, 0.587, 0.114])[..., None], 3, axis=2)
        other = (np.zeros_like(x), np.full_like(x, math.fsum(grey[..., 0].ravel()) / grey[..., 0].size), grey)[kind]
        x = x * float(factors[kind]) + (1 - float(factors[kind])) * other
    vectors = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    return 255 * (x + (vectors * lighting * [0.2175, 0.0188, 0.0045]).sum(axis=1))


def colored(images: Pixels, coefficients: Sequence[Pixels]) -> Pixels:
    made: Pixels = augmentation.colored(torch.from_numpy(images), *map(torch.from_numpy, coefficients)).numpy()
    return made


def test_the_bits_are_those_of_an_image_by_itself_and_the_values_those_of_the_recipe() -> None:
    images = np.random.default_rng(0).integers(0, 256, (24, 13, 17, 3)).astype(np.float32)
    images[:3] = np.array([0, 255, 1])[:, None, None, None]
    drawn = color_draws(SEED, 2, np.arange(24))
    assert len({tuple(order) for order in drawn[0].tolist()}) == 6
    before = images.copy()
    made = colored(images, drawn)
    assert made.dtype == np.float32
    assert np.array_equal(images, before), "what was given is not changed"
    for image, one, order, factors, lighting in zip(images, made, *drawn, strict=True):
        assert np.array_equal(one, reference(image, order, factors, lighting))
        assert np.abs(one - recipe(image, order, factors, lighting)).max() < 2e-4
    assert made.min() < 0 < 255 < made.max(), "nothing is clipped"


@pytest.mark.parametrize("threads", [1, 2])
def test_neither_the_batch_nor_the_threads_nor_a_flip_change_the_bits(threads: int) -> None:
    images = np.random.default_rng(1).integers(0, 256, (6, 224, 224, 3)).astype(np.float32)
    drawn = color_draws(SEED, 0, np.arange(6))
    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        whole = colored(images, drawn)
        flipped = colored(np.ascontiguousarray(images[:, :, ::-1]), drawn)
        single = [colored(images[i : i + 1], [part[i : i + 1] for part in drawn])[0] for i in range(6)]
    finally:
        torch.set_num_threads(usual)
    assert np.array_equal(whole, np.stack(single))
    assert np.array_equal(whole, flipped[:, :, ::-1])


def test_the_draws_have_the_recipes_distribution_are_pure_and_these_numbers() -> None:
    """On every machine; other ones would make every training that used them another one."""
    orders, factors, lighting = color_draws(SEED, 0, np.arange(60_000))
    codes, counts = np.unique(orders @ [9, 3, 1], return_counts=True)
    assert len(codes) == 6
    assert chisquare(counts).pvalue > 1e-3
    for column in factors.T:
        assert kstest(column, "uniform", (0.6, 0.8)).pvalue > 1e-3
    for column in lighting.T:
        assert column.std() == pytest.approx(0.1, rel=0.012)  # 4 standard errors
        assert kstest(column[:5000], "norm", (0, 0.1)).pvalue > 1e-3
    together = np.corrcoef(np.column_stack([orders[:, 0], factors, lighting]).T) - np.eye(7)
    assert np.abs(together).max() < 5 / math.sqrt(60_000)
    for whole, part in zip((orders, factors, lighting), color_draws(SEED, 0, np.array([31, 4])), strict=True):
        assert np.array_equal(whole[[31, 4]], part)
    drawn = color_draws(7, 3, np.array([0, 1_281_166]))
    assert drawn[0].tolist() == [[2, 0, 1], [1, 0, 2]]
    digest = hashlib.sha256(b"".join(part.tobytes() for part in drawn)).hexdigest()
    assert digest == "d5eba1c6b70b85acb17840b9c6efd7b04ec6769eaa2f34280838196c61b441dd"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = [photos.cutting(n, np.random.default_rng(n), 120) for n in range(N)]
    return photos.make_beton(tmp_path_factory.mktemp("photos") / "photos-jpeg", "train", images, np.arange(N) % 3)


@pytest.mark.parametrize("kind", ["none", "jitter-lighting"])
@PRECISION
def test_photos_are_cropped_colored_flipped_and_normalised(folder: Path, dtype: torch.dtype, kind: Color) -> None:
    def shown(size: int) -> Inputs:
        loader, device = Loader(folder, "train", size, "numpy"), torch.device("cpu")
        preprocessing = Preprocessing("imagenet")
        return Inputs(loader, preprocessing, "per-image", "random-resized", SEED, dtype, device, color=kind)

    order, of, boxes = sample_order(SEED, 1, N), shown(4), partial(random_boxes, SEED, 1)
    expected = np.concatenate([batch.images for batch in of.loader.batches(order, boxes)]).astype(np.float32)
    if kind != "none":
        drawn = color_draws(SEED, 1, order)
        expected = np.stack([reference(*one) for one in zip(expected, *drawn, strict=True)])
    mirrored = flips("per-image", SEED, 1, order)
    assert 0 < mirrored.sum() < N
    expected[mirrored] = expected[mirrored, :, ::-1]
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    images = ((torch.from_numpy(expected) - mean) / std).permute(0, 3, 1, 2).to(dtype)
    made = list(of.batches(1, order))
    assert [len(batch.labels) for batch in made] == [4, 4, 1]
    assert all(batch.images.is_contiguous(memory_format=torch.channels_last) for batch in made)
    assert torch.cat([batch.labels for batch in made]).tolist() == (order % 3).tolist()
    # Nothing depends on the batch that an image is in, nor on where the epoch begins, nor on the way: the last a GPU's.
    moves = np.stack([mirrored, *[np.full(N, 4)] * 2])
    ways = made, shown(7).batches(1, order), of.by_torch(of.streamed(order, boxes), moves, 1)
    for way in ways:
        assert torch.equal(torch.cat([batch.images for batch in way]), images)
    assert torch.equal(torch.cat([batch.images for batch in of.batches(1, order[4:], 1)]), images[4:])


def test_color_needs_random_resized_crops_and_a_recipe_from_before_there_was_color_has_none() -> None:
    with pytest.raises(ValueError, match="color jitter-lighting needs crop random-resized, not per-image"):
        changed("paper-meanstd", color="jitter-lighting")
    recipe = changed("paper-meanstd").model_dump()
    del recipe["color"]
    assert Protocol.model_validate(recipe) == changed("paper-meanstd")
