"""Finished mini-batches from a real split: their bits, whose they are, and that no image depends on its batch."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import photos
import pytest
import torch

from pipeline.data.augmentation import flips, offsets
from pipeline.data.batches import Input, Inputs
from pipeline.data.loader import Loader
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.readers import Splits
from pipeline.data.sampler import sample_order
from pipeline.params import Crop, Flip

EACH = pytest.mark.parametrize("era", [("per-image", "per-image"), ("half-batch", "per-batch"), ("none", "none")])
PRECISION = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
Era = tuple[Flip, Crop]


def inputs(
    folder: Path, era: Era = ("per-image", "per-image"), dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Inputs:
    preprocessing = Preprocessing("meanstd").to(device)
    return Inputs(Loader(folder, "train", 48, "numpy"), preprocessing, *era, 7, dtype, torch.device(device))


def same(ones: Iterable[Input], others: Iterable[Input]) -> None:
    for one, other in zip(ones, others, strict=True):
        assert np.array_equal(one.indices, other.indices)
        assert one.images.dtype == other.images.dtype
        assert one.images.stride() == other.images.stride()
        assert torch.equal(one.images.float(), other.images.float())
        assert torch.equal(one.labels, other.labels)


@PRECISION
@EACH
def test_batches_are_a_plain_reference_batch_by_batch(
    tiny_beton: Path, tiny_images: Splits, era: Era, dtype: torch.dtype
) -> None:
    images, labels = tiny_images["train"]
    order, of = sample_order(7, 3, 260), inputs(tiny_beton, era, dtype)
    made = list(of.batches(3, order))  # all are kept, so one that was overwritten would show
    assert [len(batch.indices) for batch in made] == [48] * 5 + [20]
    for number, batch in enumerate(made):
        chosen = order[number * 48 : (number + 1) * 48]
        moved = photos.moved(images[chosen], flips(era[0], 7, 3, chosen), *offsets(era[1], 7, 3, chosen, number))
        expected = Preprocessing("meanstd")(torch.from_numpy(moved)).to(dtype)
        assert batch.images.dtype == dtype
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(batch.images, expected)
        assert np.array_equal(batch.indices, chosen)
        assert np.array_equal(batch.labels.numpy(), labels[chosen])
    # The ways of a GPU give the same bits.
    moves = flips(era[0], 7, 3, order, 48), *offsets(era[1], 7, 3, order, np.arange(260) // 48)
    same(of.by_torch(of.resident(order), moves, 3), made)
    same(of.by_torch(of.streamed(order, None), moves, 3), made)


@EACH
def test_an_epoch_continues_where_it_was_left(tiny_beton: Path, era: Era) -> None:
    order, of = sample_order(7, 1, 260), inputs(tiny_beton, era)
    whole = list(of.batches(1, order))
    for first in range(6):
        same(of.batches(1, order[first * 48 :], first), whole[first:])


@pytest.mark.soak  # torch imports for seconds before it makes a tensor without values
def test_the_host_reads_nothing_from_the_device(tiny_beton: Path) -> None:
    """Tensors on torch's meta device have no values: whoever waits for one gets an error."""
    of = inputs(tiny_beton, dtype=torch.bfloat16, device="meta")
    made = [batch for epoch in range(2) for batch in of.batches(epoch, sample_order(7, epoch, 260))]
    assert {str(batch.images.device) for batch in made} == {str(batch.labels.device) for batch in made} == {"meta"}
    assert made[-1].images.shape == (20, 3, 32, 32)
    assert made[-1].images.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises((NotImplementedError, RuntimeError)):
        made[0].labels.sum().item()
