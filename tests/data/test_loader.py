"""FFCV and numpy read the same bytes from the same file, in the order asked for; damaged files are refused."""

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data import beton, beton_writer
from pipeline.data.batches import Inputs
from pipeline.data.convert_arrays import convert
from pipeline.data.loader import Loader
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.readers import Splits
from pipeline.data.sampler import sample_order
from pipeline.dataset_config import SPLITS
from pipeline.errors import UserError, WrnPipeError
from pipeline.params import Backend

BACKENDS: tuple[Backend, ...] = ("ffcv", "numpy")


@pytest.fixture(scope="module")
def raw(tiny_raw: Path) -> Path:
    return tiny_raw


@pytest.fixture(scope="module")
def folder(tiny_beton: Path) -> Path:
    return tiny_beton


@pytest.fixture(scope="module", params=[1, 2], ids=["1 worker", "2 workers"])
def ffcv_loader(folder: Path, request: pytest.FixtureRequest) -> Loader:
    """Opened once for each number of workers: FFCV compiles for seconds."""
    if request.param > (os.cpu_count() or 1):
        pytest.skip("FFCV takes no more workers than there are cores")
    loader = Loader(folder, "train", 32, "ffcv", workers=request.param)
    assert loader._source.loader.num_workers == request.param
    return loader


def stacked(batches: Iterator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    kept = list(batches)  # all are kept, so a batch that FFCV's ring overwrote would show
    return tuple(np.concatenate([getattr(b, name) for b in kept]) for name in ("indices", "images", "labels"))


def test_both_backends_deliver_the_source_in_our_order(folder: Path, ffcv_loader: Loader, tiny_images: Splits) -> None:
    images, labels = tiny_images["train"]
    plain = Loader(folder, "train", 32, "numpy")
    for epoch in range(4):
        order = sample_order(1, epoch, len(labels))
        for loader in (ffcv_loader, plain):
            indices, delivered, classes = stacked(loader.batches(order))
            assert np.array_equal(indices, order)
            assert np.array_equal(delivered, images[order])
            assert np.array_equal(classes, labels[order])


def test_finished_inputs_are_the_same_over_both_backends(folder: Path, ffcv_loader: Loader) -> None:
    """The compiled pass reads FFCV's ring where it lies, so a slot overwritten too early would show."""
    meanstd = Preprocessing("meanstd")
    over = [
        Inputs(loader, meanstd, "per-image", "per-image", 1, torch.float32, torch.device("cpu"))
        for loader in (ffcv_loader, Loader(folder, "train", 32, "numpy"))
    ]
    for epoch in range(8):
        order = sample_order(1, epoch, 260)
        for ffcv, plain in zip(over[0].batches(epoch, order), over[1].batches(epoch, order), strict=True):
            assert torch.equal(ffcv.images, plain.images)
            assert torch.equal(ffcv.labels, plain.labels)
            assert np.array_equal(ffcv.indices, plain.indices)


def test_the_last_batch_is_delivered_even_when_it_is_one_image(ffcv_loader: Loader) -> None:
    sizes = [len(batch.labels) for batch in ffcv_loader.batches(np.arange(33))]
    assert sizes == [32, 1]


def test_part_of_an_epoch_and_repeated_samples(ffcv_loader: Loader, tiny_images: Splits) -> None:
    order = np.array([5, 5, 259, 0] * 10)
    _, images, _ = stacked(ffcv_loader.batches(order))
    assert np.array_equal(images, tiny_images["train"][0][order])


def test_leaving_an_epoch_early_leaks_no_thread(ffcv_loader: Loader, tiny_images: Splits) -> None:
    before = threading.active_count()
    for _ in range(5):
        batches = ffcv_loader.batches(np.arange(260))
        next(batches)
        batches.close()
    assert threading.active_count() <= before
    _, images, _ = stacked(ffcv_loader.batches(np.arange(260)))
    assert np.array_equal(images, tiny_images["train"][0])


def _fail_midway(loader: Loader) -> None:
    for _ in loader.batches(sample_order(1, 7, 260)):
        raise ZeroDivisionError


@pytest.mark.parametrize("left_at", [0, 1, 8])
def test_an_epoch_left_midway_does_not_show_in_the_next(
    folder: Path, ffcv_loader: Loader, tiny_images: Splits, left_at: int
) -> None:
    """Whether the loop is left by break or by an error of the training's own."""
    images, labels = tiny_images["train"]
    for loader in (ffcv_loader, Loader(folder, "train", 32, "numpy")):
        for number, _ in enumerate(loader.batches(sample_order(1, 6, 260))):
            if number == left_at:
                break
        with pytest.raises(ZeroDivisionError):
            _fail_midway(loader)
        order = sample_order(1, 8, 260)
        _, delivered, classes = stacked(loader.batches(order))
        assert np.array_equal(delivered, images[order])
        assert np.array_equal(classes, labels[order])


def test_a_loader_opened_at_epoch_5_delivers_what_one_from_the_start_does(folder: Path, ffcv_loader: Loader) -> None:
    """What QUASI_RANDOM and seed + epoch do not: a resumed training sees the same bytes."""
    fresh = Loader(folder, "train", 32, "numpy")
    for epoch in range(8):
        resumed = stacked(fresh.batches(sample_order(3, epoch, 260))) if epoch >= 5 else None
        continued = stacked(ffcv_loader.batches(sample_order(3, epoch, 260)))
        for one, other in zip(resumed or (), continued, strict=bool(resumed)):
            assert one.tobytes() == other.tobytes()


def test_nothing_comes_after_the_end_and_nothing_hangs(ffcv_loader: Loader) -> None:
    batches = ffcv_loader.batches(np.arange(40))
    assert [len(batch.labels) for batch in batches] == [32, 8]
    assert next(batches, None) is None
    assert next(batches, None) is None
    assert list(ffcv_loader.batches(np.arange(0))) == []


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


def test_more_workers_than_cores_is_refused_at_once(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"must be (between|a number from) 1"):
        Loader(folder, "test", 32, "ffcv", workers=(os.cpu_count() or 1) + 1)


def test_torch_keeps_its_threads(folder: Path) -> None:
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
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([3] * 10)


def test_an_index_outside_the_split_is_refused_before_ffcv_reads_it(ffcv_loader: Loader) -> None:
    with pytest.raises(ValueError, match="split of 260"):
        ffcv_loader.batches(np.array([260]))
    with pytest.raises(ValueError, match="split of 260"):
        ffcv_loader.batches(np.array([-1]))


def test_the_card_describes_the_images(folder: Path, tiny_images: Splits) -> None:
    for split, (images, labels) in tiny_images.items():
        entry = beton.open_card(folder)["splits"][split]
        assert entry["images"] == len(labels)
        assert entry["images_per_class"] == np.bincount(labels, minlength=10).tolist()
        assert np.allclose(entry["mean"], images.mean((0, 1, 2)) / 255, atol=1e-7)
        assert np.allclose(entry["std"], images.std((0, 1, 2)) / 255, atol=1e-7)
        assert entry["beton"]["bytes"] == (folder / f"{split}.beton").stat().st_size


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "card"])
def test_a_damaged_file_is_refused(folder: Path, tmp_path: Path, backend: Backend, damage: str) -> None:
    copy = tmp_path / folder.name
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    path = copy / "train.beton"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[:-1])
    elif damage == "remove":
        path.unlink()
    else:
        (copy / "card.json").write_text("{")
    with pytest.raises(UserError, match=r"convert@cifar10-tiny-rgb"):
        Loader(copy, "train", 32, backend)


def test_the_plain_reader_refuses_what_does_not_fit(folder: Path, tmp_path: Path) -> None:
    content = (folder / "test.beton").read_bytes()
    for name, changed in {
        "empty": b"",
        "header only": content[:24],
        "version": b"\x09" + content[1:],
        "more samples than there are": content[:8] + (10**9).to_bytes(8, "little") + content[16:],
        "half": content[: len(content) // 2],
    }.items():
        path = tmp_path / "x.beton"
        path.write_bytes(changed)
        with pytest.raises(UserError, match=r"x\.beton"):
            beton.read(path)
        path.unlink()
        assert not path.exists(), name


def test_converting_what_are_no_images_is_refused_and_leaves_nothing(raw: Path, tmp_path: Path) -> None:
    bad = tmp_path / "raw"
    bad.mkdir()
    for split in SPLITS:
        np.save(bad / f"{split}_images.npy", np.zeros((4, 32, 32, 3), dtype=np.float32))
        np.save(bad / f"{split}_labels.npy", np.zeros(4, dtype=np.int64))
    with pytest.raises(UserError, match="float32"):
        convert(bad, tmp_path / "to", list(SPLITS), 10)
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


def test_a_writer_that_dies_is_an_error_and_leaves_nothing(raw: Path, tmp_path: Path) -> None:
    """FFCV itself would wait for ever. The folder to write to is a file's name, so its open() fails."""
    job = beton_writer.Job(raw / "test_images.npy", raw / "test_labels.npy", tmp_path / "no-such-folder" / "x.beton")
    with pytest.raises(WrnPipeError, match="FFCV's writer ended"):
        beton_writer.write([job])
    assert not multiprocessing.active_children()
    assert not list(tmp_path.iterdir())


def test_ffcv_touches_no_gpu(tiny_beton: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it would do where it sees one fails here, where there is none, in its first epoch."""
    monkeypatch.setattr("ffcv.loader.epoch_iterator.IS_CUDA", True)
    loader = Loader(tiny_beton, "test", 32, "ffcv")
    assert sum(len(batch.labels) for batch in loader.batches(np.arange(loader.samples))) == loader.samples
