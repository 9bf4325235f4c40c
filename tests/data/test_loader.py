"""FFCV and numpy read the same bytes from the same file, in the order asked for, and FFCV's traps are avoided."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.batches import Inputs
from pipeline.data.ffcv_loader import compiling_later
from pipeline.data.loader import Loader
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.readers import Splits
from pipeline.data.sampler import sample_order
from pipeline.errors import WrnPipeError


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.soak)], ids=["1 worker", "2 workers"])
def ffcv_loader(tiny_beton: Path, request: pytest.FixtureRequest) -> Loader:
    """Opened once for each number of workers: FFCV compiles for seconds. It believes that it sees a GPU: what it would
    do then fails here, where there is none, in its first epoch."""
    if request.param > len(os.sched_getaffinity(0)):
        pytest.skip("FFCV takes no more workers than there are cores")
    with compiling_later():
        from ffcv.loader import epoch_iterator
    epoch_iterator.IS_CUDA = True
    return Loader(tiny_beton, "train", 32, "ffcv", workers=request.param)


def stacked(batches: Iterator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    kept = [(batch.indices, batch.images, batch.labels) for batch in batches]
    return tuple(np.concatenate(each) for each in zip(*kept, strict=True))


def test_both_backends_deliver_the_source_in_our_order(
    tiny_beton: Path, ffcv_loader: Loader, tiny_images: Splits
) -> None:
    """The compiled pass reads FFCV's ring where it lies, so a slot overwritten too early would show."""
    images, labels = tiny_images["train"]
    plain, cpu = Loader(tiny_beton, "train", 32, "numpy"), torch.device("cpu")
    over = [
        Inputs(loader, Preprocessing("meanstd"), "per-image", "per-image", 1, torch.float32, cpu)
        for loader in (ffcv_loader, plain)
    ]
    for epoch in range(4):
        order = sample_order(1, epoch, len(labels))
        for loader in (ffcv_loader, plain):
            indices, delivered, classes = stacked(loader.batches(order))
            assert np.array_equal(indices, order)
            assert np.array_equal(delivered, images[order])
            assert np.array_equal(classes, labels[order])
        for one, other in zip(*(each.batches(epoch, order) for each in over), strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("left_at", [0, 1, 8])
def test_an_epoch_left_midway_does_not_show_in_the_next(
    tiny_beton: Path, ffcv_loader: Loader, tiny_images: Splits, left_at: int
) -> None:
    """Whether the loop is left by break or by an error of the training's own."""
    before = threading.active_count()
    for loader in (ffcv_loader, Loader(tiny_beton, "train", 32, "numpy")):
        for number, _ in enumerate(loader.batches(sample_order(1, 6, 260))):
            if number == left_at:
                break
        with pytest.raises(ZeroDivisionError):
            [1 // 0 for _ in loader.batches(sample_order(1, 7, 260))]
        assert threading.active_count() <= before, "FFCV's reading thread is left"
        order = np.array([5, 5, 259, 0] * 10)  # part of an epoch, and samples again and again
        _, delivered, classes = stacked(loader.batches(order))
        assert np.array_equal(delivered, tiny_images["train"][0][order])
        assert np.array_equal(classes, tiny_images["train"][1][order])


def test_nothing_comes_after_the_end_and_nothing_hangs(ffcv_loader: Loader) -> None:
    batches = ffcv_loader.batches(np.arange(33))
    assert [len(batch.labels) for batch in batches] == [32, 1]
    assert next(batches, None) is None
    assert next(batches, None) is None
    assert list(ffcv_loader.batches(np.arange(0))) == []


@pytest.mark.parametrize("at", [0, 1, 8])
def test_an_error_in_the_reading_thread_is_an_error_here_and_does_not_hang(
    ffcv_loader: Loader, tiny_images: Splits, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """FFCV's own iterator would wait for ever. The fault is planted in FFCV's thread, where a full memory would be."""
    from ffcv.loader.epoch_iterator import EpochIterator

    honest, before = EpochIterator.run_pipeline, threading.active_count()

    def fail(self: EpochIterator, number: int, *rest: object) -> object:
        if number == at:
            raise MemoryError("planted")
        return honest(self, number, *rest)

    monkeypatch.setattr(EpochIterator, "run_pipeline", fail)
    batches = ffcv_loader.batches(np.arange(260))
    assert [next(batches).indices[0] for _ in range(at)] == [32 * number for number in range(at)]
    with pytest.raises(WrnPipeError, match="FFCV's reading thread died: MemoryError"):
        next(batches)
    assert threading.active_count() <= before
    monkeypatch.undo()
    _, images, _ = stacked(ffcv_loader.batches(np.arange(260)))
    assert np.array_equal(images, tiny_images["train"][0])


@pytest.mark.soak
def test_torch_keeps_its_threads(tiny_beton: Path) -> None:
    """In a process of its own, since importing FFCV is what first takes them away."""
    code = """
import sys
from pathlib import Path
import numpy as np, torch
from pipeline.data.loader import Loader
torch.set_num_threads(3)
loader = Loader(Path(sys.argv[1]), "test", 32, "ffcv")
seen = [torch.get_num_threads()]
for _ in range(2):
    seen += [torch.get_num_threads() for _ in loader.batches(np.arange(104))]
print(seen + [torch.get_num_threads()])
"""
    done = subprocess.run([sys.executable, "-c", code, str(tiny_beton)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([3] * 10)
