"""Color jitter and PCA lighting: the bits of a plain reference, the recipe's formulas and the draws' distribution."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import photos
import pytest
import torch
from made_up_runs import changed
from scipy.stats import chisquare, kstest

from pipeline.data import color
from pipeline.data.augmentation import RandomCrops, flips
from pipeline.data.batches import Inputs
from pipeline.data.loader import Loader
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.sampler import sample_order
from pipeline.params import Color, Protocol

N, SEED = 9, 7
Pixels = npt.NDArray[Any]


def reference(image: Pixels, order: Sequence[int], factors: Pixels, lighting: Pixels) -> Pixels:
    """One image, float32 [H,W,3] of 0..255: each operation of `color.apply` in its order, rounded to float32."""

    def grey_of(x: Pixels) -> Pixels:
        return x[..., 0] * np.float32(0.299) + x[..., 1] * np.float32(0.587) + x[..., 2] * np.float32(0.114)

    x = image
    for kind in order:
        factor, grey = factors[kind], grey_of(x)
        if kind == color.BRIGHTNESS:
            x = x * factor
        elif kind == color.SATURATION:
            x = x * factor + ((np.float32(1) - factor) * grey)[..., None]
        else:
            total = (grey.astype(np.float64) * 2**32).astype(np.int64).sum()  # of whole numbers: in any order
            x = x * factor + (np.float32(1) - factor) * np.float32(float(total) * (1 / (2.0**32 * grey.size)))
    amounts = [float(amount) * (255 * value) for amount, value in zip(lighting, color.EIGENVALUES, strict=True)]
    shift = [amounts[0] * row[0] + amounts[1] * row[1] + amounts[2] * row[2] for row in color.EIGENVECTORS]
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


def applied(images: Pixels, coefficients: Sequence[Pixels]) -> Pixels:
    made: Pixels = color.apply(torch.from_numpy(images), *map(torch.from_numpy, coefficients)).numpy()
    return made


def test_the_bits_are_those_of_an_image_by_itself_and_the_values_those_of_the_recipe() -> None:
    images = np.random.default_rng(0).integers(0, 256, (24, 13, 17, 3)).astype(np.float32)
    images[:3] = np.array([0, 255, 1])[:, None, None, None]
    drawn = color.coefficients(SEED, 2, np.arange(24))
    assert len({tuple(order) for order in drawn[0].tolist()}) == 6
    before = images.copy()
    made = applied(images, drawn)
    assert made.dtype == np.float32
    assert np.array_equal(images, before), "what was given is not changed"
    for image, one, order, factors, lighting in zip(images, made, *drawn, strict=True):
        assert np.array_equal(one, reference(image, order, factors, lighting))
        assert np.abs(one - recipe(image, order, factors, lighting)).max() < 2e-4
    assert (made < 0).any()
    assert (made > 255).any(), "nothing is clipped"


@pytest.mark.parametrize("threads", [1, 2])
def test_neither_the_batch_nor_the_threads_nor_a_flip_change_the_bits(threads: int) -> None:
    images = np.random.default_rng(1).integers(0, 256, (6, 224, 224, 3)).astype(np.float32)
    drawn = color.coefficients(SEED, 0, np.arange(6))
    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        whole = applied(images, drawn)
        flipped = applied(np.ascontiguousarray(images[:, :, ::-1]), drawn)
        single = [applied(images[i : i + 1], [part[i : i + 1] for part in drawn])[0] for i in range(6)]
    finally:
        torch.set_num_threads(usual)
    assert np.array_equal(whole, np.stack(single))
    assert np.array_equal(whole, flipped[:, :, ::-1])


def test_the_draws_have_the_recipes_distribution() -> None:
    orders, factors, lighting = color.coefficients(SEED, 0, np.arange(60_000))
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


def test_the_draws_are_pure_and_these_numbers() -> None:
    """On every machine; other ones would make every training that used them another one."""
    whole, part = color.coefficients(SEED, 1, np.arange(50)), color.coefficients(SEED, 1, np.array([31, 4]))
    assert all(np.array_equal(one[[31, 4]], other) for one, other in zip(whole, part, strict=True))
    drawn = color.coefficients(7, 3, np.array([0, 1_281_166]))
    assert drawn[0].tolist() == [[2, 0, 1], [1, 0, 2]]
    digest = hashlib.sha256(b"".join(part.tobytes() for part in drawn)).hexdigest()
    assert digest == "d5eba1c6b70b85acb17840b9c6efd7b04ec6769eaa2f34280838196c61b441dd"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = [photos.cutting(n, np.random.default_rng(n), 120) for n in range(N)]
    return photos.make_beton(tmp_path_factory.mktemp("photos") / "photos-jpeg", "train", images, np.arange(N) % 3)


def inputs(
    folder: Path,
    batch_size: int = 4,
    kind: Color = "jitter-lighting",
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Inputs:
    loader, preprocessing = Loader(folder, "train", batch_size, "numpy"), Preprocessing("imagenet").to(device)
    return Inputs(loader, preprocessing, "per-image", "random-resized", SEED, dtype, torch.device(device), color=kind)


def shown(of: Inputs, epoch: int, order: npt.NDArray[np.int64], first: int = 0) -> torch.Tensor:
    return torch.cat([batch.images for batch in of.batches(epoch, order, first)])


@pytest.mark.parametrize("kind", ["none", "jitter-lighting"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batches_are_cropped_colored_flipped_and_normalised(folder: Path, dtype: torch.dtype, kind: Color) -> None:
    order, of = sample_order(SEED, 1, N), inputs(folder, dtype=dtype, kind=kind)
    cropped = np.concatenate([batch.images for batch in of.loader.batches(order, RandomCrops(SEED, 1))])
    colored = cropped.astype(np.float32)
    if kind != "none":
        drawn = color.coefficients(SEED, 1, order)
        colored = np.stack([reference(*one) for one in zip(colored, *drawn, strict=True)])
    mirrored = flips("per-image", SEED, 1, order)
    assert 0 < mirrored.sum() < N
    colored[mirrored] = colored[mirrored, :, ::-1]
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    expected = ((torch.from_numpy(colored) - mean) / std).permute(0, 3, 1, 2).to(dtype)
    made = list(of.batches(1, order))
    assert [len(batch.labels) for batch in made] == [4, 4, 1]
    assert all(batch.images.is_contiguous(memory_format=torch.channels_last) for batch in made)
    assert torch.equal(torch.cat([batch.images for batch in made]), expected)
    assert torch.cat([batch.labels for batch in made]).tolist() == (order % 3).tolist()
    # Nothing depends on the batch that an image is in, nor on where the epoch begins, nor on the way: here a GPU's.
    assert torch.equal(shown(inputs(folder, 7, kind, dtype), 1, order), expected)
    assert torch.equal(shown(of, 1, order[4:], 1), expected[4:])
    still = np.full(N, 4)
    streamed = of.by_torch(of.streamed(order, RandomCrops(SEED, 1)), (mirrored, still, still), 1)
    assert torch.equal(torch.cat([batch.images for batch in streamed]), expected)


@pytest.mark.soak  # torch imports for seconds before it makes a tensor without values
def test_the_host_reads_nothing_from_the_device(folder: Path) -> None:
    """Tensors on torch's meta device have no values: whoever waits for one gets an error."""
    made = shown(inputs(folder, device="meta"), 0, sample_order(SEED, 0, N))
    assert (str(made.device), made.shape, made.dtype) == ("meta", (N, 3, 224, 224), torch.float32)


def test_color_needs_random_resized_crops_and_a_recipe_from_before_there_was_color_has_none() -> None:
    with pytest.raises(ValueError, match="color jitter-lighting needs crop random-resized, not per-image"):
        changed("paper-meanstd", color="jitter-lighting")
    recipe = changed("paper-meanstd").model_dump()
    del recipe["color"]
    assert Protocol.model_validate(recipe) == changed("paper-meanstd")
