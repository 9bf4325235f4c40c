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
from pipeline.data.loader import Loader
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.readers import Splits
from pipeline.data.sampler import sample_order
from pipeline.errors import WrnPipeError


@pytest.fixture(scope="module", params=[1, 2], ids=["1 worker", "2 workers"])
def ffcv_loader(tiny_beton: Path, request: pytest.FixtureRequest) -> Loader:
    """Opened once for each number of workers: FFCV compiles for seconds."""
    if request.param > len(os.sched_getaffinity(0)):
        pytest.skip("FFCV takes no more workers than there are cores")
    return Loader(tiny_beton, "train", 32, "ffcv", workers=request.param)


def stacked(batches: Iterator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    kept = list(batches)  # all are kept, so a batch that FFCV's ring overwrote would show
    return tuple(np.concatenate([getattr(b, name) for b in kept]) for name in ("indices", "images", "labels"))


def test_both_backends_deliver_the_source_in_our_order(
    tiny_beton: Path, ffcv_loader: Loader, tiny_images: Splits
) -> None:
    images, labels = tiny_images["train"]
    plain = Loader(tiny_beton, "train", 32, "numpy")
    for epoch in range(4):
        order = sample_order(1, epoch, len(labels))
        for loader in (ffcv_loader, plain):
            indices, delivered, classes = stacked(loader.batches(order))
            assert np.array_equal(indices, order)
            assert np.array_equal(delivered, images[order])
            assert np.array_equal(classes, labels[order])


def test_finished_inputs_are_the_same_over_both_backends(tiny_beton: Path, ffcv_loader: Loader) -> None:
    """The compiled pass reads FFCV's ring where it lies, so a slot overwritten too early would show."""
    meanstd = Preprocessing("meanstd")
    over = [
        Inputs(loader, meanstd, "per-image", "per-image", 1, torch.float32, torch.device("cpu"))
        for loader in (ffcv_loader, Loader(tiny_beton, "train", 32, "numpy"))
    ]
    for epoch in range(8):
        order = sample_order(1, epoch, 260)
        for ffcv, plain in zip(over[0].batches(epoch, order), over[1].batches(epoch, order), strict=True):
            assert torch.equal(ffcv.images, plain.images)
            assert torch.equal(ffcv.labels, plain.labels)
            assert np.array_equal(ffcv.indices, plain.indices)


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
    for index in (260, -1):  # refused before FFCV reads it
        with pytest.raises(ValueError, match="split of 260"):
            ffcv_loader.batches(np.array([index]))


@pytest.mark.soak
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

    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(EpochIterator, "run_pipeline", fail)
    batches = ffcv_loader.batches(np.arange(260))
    assert [next(batches).indices[0] for _ in range(at)] == [32 * number for number in range(at)]
    with pytest.raises(WrnPipeError, match="FFCV's reading thread died"):
        next(batches)
    assert threading.active_count() <= before
    monkeypatch.undo()
    _, images, _ = stacked(ffcv_loader.batches(np.arange(260)))
    assert np.array_equal(images, tiny_images["train"][0])


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


def test_ffcv_touches_no_gpu(tiny_beton: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it would do where it sees one fails here, where there is none, in its first epoch."""
    monkeypatch.setattr("ffcv.loader.epoch_iterator.IS_CUDA", True)
    loader = Loader(tiny_beton, "test", 32, "ffcv")
    assert sum(len(batch.labels) for batch in loader.batches(np.arange(loader.samples))) == loader.samples
