"""Finished mini-batches from a real split: their bits, whose they are, and that no image depends on its batch."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.augmentation import augment, flips, offsets
from pipeline.data.batches import Input, Inputs
from pipeline.data.loader import Loader
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.readers import Splits
from pipeline.data.sampler import sample_order
from pipeline.params import Crop, Flip

ERAS: list[tuple[Flip, Crop]] = [("per-image", "per-image"), ("half-batch", "per-batch"), ("none", "none")]
PRECISIONS = [torch.float32, torch.bfloat16]


def inputs(
    folder: Path,
    era: tuple[Flip, Crop] = ERAS[0],
    dtype: torch.dtype = torch.float32,
    batch_size: int = 48,
    seed: int = 7,
    device: str = "cpu",
) -> Inputs:
    loader = Loader(folder, "train", batch_size, "numpy")
    preprocessing = Preprocessing("meanstd").to(device)
    return Inputs(loader, preprocessing, *era, seed, dtype, torch.device(device))


def same(ones: Iterable[Input], others: Iterable[Input]) -> None:
    for one, other in zip(ones, others, strict=True):
        assert np.array_equal(one.indices, other.indices)
        assert one.images.dtype == other.images.dtype
        assert one.images.stride() == other.images.stride()
        assert torch.equal(one.images.float(), other.images.float())
        assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("era", ERAS)
def test_batches_are_what_numpy_and_torch_make_batch_by_batch(
    tiny_beton: Path, tiny_images: Splits, era: tuple[Flip, Crop], dtype: torch.dtype
) -> None:
    images, labels = tiny_images["train"]
    order = sample_order(7, 3, 260)
    made = list(
        inputs(tiny_beton, era, dtype).batches(3, order)
    )  # all are kept, so one that was overwritten would show
    assert [len(batch.indices) for batch in made] == [48] * 5 + [20]
    for number, batch in enumerate(made):
        chosen = order[number * 48 : (number + 1) * 48]
        moved = augment(images[chosen], flips(era[0], 7, 3, chosen), *offsets(era[1], 7, 3, chosen, number))
        expected = Preprocessing("meanstd")(torch.from_numpy(moved)).to(dtype)
        assert batch.images.dtype == dtype
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(batch.images, expected)
        assert np.array_equal(batch.indices, chosen)
        assert np.array_equal(batch.labels.numpy(), labels[chosen])


@pytest.mark.parametrize("era", ERAS)
def test_an_epoch_continues_where_it_was_left(tiny_beton: Path, era: tuple[Flip, Crop]) -> None:
    order, of = sample_order(7, 1, 260), inputs(tiny_beton, era)
    whole = list(of.batches(1, order))
    for first in range(6):
        same(of.batches(1, order[first * 48 :], first), whole[first:])


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("era", ERAS)
def test_the_way_of_a_gpu_gives_the_bits_of_the_cpu(
    tiny_beton: Path, era: tuple[Flip, Crop], dtype: torch.dtype
) -> None:
    of, order = inputs(tiny_beton, era, dtype), sample_order(7, 0, 260)
    moves = flips(era[0], 7, 0, order, 48), *offsets(era[1], 7, 0, order, np.arange(260) // 48)
    same(of.by_torch(of.resident(order), *moves, 0), of.batches(0, order))
    same(of.by_torch(of.streamed(order, None), *moves, 0), of.batches(0, order))


def test_the_host_reads_nothing_from_the_device(tiny_beton: Path) -> None:
    """Tensors on torch's meta device have no values: whoever waits for one gets an error."""
    of = inputs(tiny_beton, dtype=torch.bfloat16, device="meta")
    made = [batch for epoch in range(2) for batch in of.batches(epoch, sample_order(7, epoch, 260))]
    assert {str(batch.images.device) for batch in made} == {str(batch.labels.device) for batch in made} == {"meta"}
    assert made[-1].images.shape == (20, 3, 32, 32)
    assert made[-1].images.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises((NotImplementedError, RuntimeError)):
        made[0].labels.sum().item()


def test_bytes_are_no_whitened_images(tiny_beton: Path) -> None:
    of = inputs(tiny_beton)
    of.preprocessing = Preprocessing("zca")
    with pytest.raises(TypeError, match=r"zca takes torch\.float32"):
        next(of.batches(0, np.arange(260)))
