"""FFCV and numpy read the same bytes, and of JPEGs the same boxes, in the order asked for; FFCV's traps are avoided."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import photos
import pytest
import torch
from PIL import Image
from project import ROOT, Project, told

from pipeline.data import beton
from pipeline.data.augmentation import Boxes, central_boxes, random_boxes
from pipeline.data.batches import Inputs, Preprocessing
from pipeline.data.beton import Beton, open_split
from pipeline.data.conversion import convert, convert_jpegs
from pipeline.data.loader import Loader, compiling_later, views
from pipeline.data.readers import Splits
from pipeline.data.sampler import sample_order
from pipeline.errors import WrnPipeError

soak = pytest.mark.soak


@dataclass(frozen=True)
class Opened:
    """A split by both backends, and what they are to deliver."""

    ffcv: Loader
    plain: Loader
    preprocessing: Preprocessing
    images: np.ndarray
    labels: np.ndarray


@pytest.fixture(
    scope="module",
    params=[("rgb", 1), pytest.param(("rgb", 2), marks=soak), pytest.param(("zca", 1), marks=soak)],
    ids=lambda kind_and_workers: "{} {}".format(*kind_and_workers),
)
def opened(
    tiny_beton: Path, tiny_images: Splits, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Opened:
    """Once for each kind and number of FFCV's workers, which compiles for seconds. It believes that it sees a GPU: what
    it would do then fails here, where there is none, in its first epoch."""
    kind, workers = request.param
    if workers > len(os.sched_getaffinity(0)):
        pytest.skip("FFCV takes no more workers than there are cores")
    with compiling_later():
        from ffcv.loader import epoch_iterator
    epoch_iterator.IS_CUDA = True
    folder, (images, labels) = tiny_beton, tiny_images["train"]
    if kind == "zca":
        small = {split: (images[:, 11:20, 12:20], labels) for split, (images, labels) in tiny_images.items()}
        folder = tmp_path_factory.mktemp("beton") / "tiny-zca"
        convert(photos.raw(small, tmp_path_factory.mktemp("small") / "raw"), folder, 10, "zca")
        images, _ = beton.read(folder / "train.beton")
    ffcv, plain = Loader(folder, "train", 32, "ffcv", workers), Loader(folder, "train", 32, "numpy")
    return Opened(ffcv, plain, Preprocessing("zca" if kind == "zca" else "meanstd"), images, labels)


def stacked(batches: Iterator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    kept = [(batch.indices, batch.images, batch.labels) for batch in batches]
    return tuple(np.concatenate(each) for each in zip(*kept, strict=True))


def test_both_backends_deliver_the_source_in_our_order(opened: Opened) -> None:
    """The compiled pass reads FFCV's ring where it lies, so a slot overwritten too early would show."""
    assert list(opened.ffcv.batches(np.arange(0))) == []
    loaders = opened.ffcv, opened.plain
    over = [
        Inputs(each, opened.preprocessing, "per-image", "per-image", 1, torch.float32, torch.device("cpu"))
        for each in loaders
    ]
    for epoch in range(4):
        order = sample_order(1, epoch, 260)
        for loader in loaders:
            indices, delivered, classes = stacked(loader.batches(order))
            assert np.array_equal(indices, order)
            assert delivered.dtype == opened.images.dtype
            assert np.array_equal(delivered, opened.images[order])
            assert np.array_equal(classes, opened.labels[order])
        for one, other in zip(*(each.batches(epoch, order) for each in over), strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("left_at", [0, 8])
def test_an_epoch_left_midway_does_not_show_in_the_next(opened: Opened, left_at: int) -> None:
    """Whether the loop is left by break or by an error of the training's own."""
    before = threading.active_count()
    for loader in (opened.ffcv, opened.plain):
        for number, _ in enumerate(loader.batches(sample_order(1, 6, 260))):
            if number == left_at:
                break
        with pytest.raises(ZeroDivisionError):
            [1 // 0 for _ in loader.batches(sample_order(1, 7, 260))]
        assert threading.active_count() <= before, "FFCV's reading thread is left"
        order = np.array([5, 5, 259, 0] * 10)  # part of an epoch, and samples again and again
        _, delivered, classes = stacked(loader.batches(order))
        assert np.array_equal(delivered, opened.images[order])
        assert np.array_equal(classes, opened.labels[order])


@pytest.mark.parametrize("at", [0, 8])
def test_an_error_in_the_reading_thread_is_an_error_here_and_does_not_hang(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """FFCV's own iterator would wait for ever. The fault is planted in FFCV's thread, where a full memory would be."""
    from ffcv.loader.epoch_iterator import EpochIterator

    honest, before = EpochIterator.run_pipeline, threading.active_count()

    def fail(self: EpochIterator, number: int, *rest: object) -> object:
        if number == at:
            raise MemoryError("planted")
        return honest(self, number, *rest)

    monkeypatch.setattr(EpochIterator, "run_pipeline", fail)
    batches = opened.ffcv.batches(np.arange(260))
    assert [next(batches).indices[0] for _ in range(at)] == [32 * number for number in range(at)]
    with pytest.raises(WrnPipeError, match="FFCV's reading thread died: MemoryError"):
        next(batches)
    assert threading.active_count() <= before
    monkeypatch.undo()
    _, images, _ = stacked(opened.ffcv.batches(np.arange(260)))
    assert np.array_equal(images, opened.images)


@soak
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


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    of = tmp_path_factory.mktemp("jpegs")
    convert_jpegs(photos.store(photos.make_tree(of / "tree"), of / "raw"), of / "photos-jpeg", 4, 200, 90)
    return of / "photos-jpeg"


def seen(beton: Beton, order: np.ndarray, boxes: Boxes) -> np.ndarray:
    return boxes(order, beton.heights[order], beton.widths[order])


def test_what_is_seen_is_what_lies_in_the_box(tmp_path: Path) -> None:
    """In images whose red tells the column and whose green tells the row."""
    sizes = np.array([[160, 250], [250, 100], [224, 224], [90, 60]])
    files = []
    for height, width in sizes:
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[..., 0], pixels[..., 1] = np.arange(width), np.arange(height)[:, None]
        files.append(photos.jpeg(Image.fromarray(pixels), quality=100, subsampling=0))
    (tmp_path / "x").write_bytes(b"".join(files))
    lengths = np.array([len(file) for file in files])
    beton = Beton(tmp_path / "x", "jpeg", *sizes.T, np.cumsum(lengths) - lengths, lengths, np.zeros(4, np.int64))
    order = np.array([2, 0, 3, 1])
    for boxes in (central_boxes, *(partial(random_boxes, 1, epoch) for epoch in range(8))):
        cut = seen(beton, order, boxes)
        for image, (top, left, height, width) in zip(views(beton, order, cut), cut, strict=True):
            assert (image.dtype, image.shape) == (np.uint8, (224, 224, 3))
            columns, rows = image[..., 0].mean(axis=0), image[..., 1].mean(axis=1)
            for values, start, length in ((columns, left, width), (rows, top, height)):
                assert np.abs(values - (start + (np.arange(224) + 0.5) * length / 224 - 0.5)).max() < 2.5


def test_the_numpy_backend_in_our_order(jpegs: Path) -> None:
    loader, train = Loader(jpegs, "train", 5, "numpy"), open_split(jpegs, "train")
    order = sample_order(1, 0, 12)
    for boxes in (partial(random_boxes, 1, 0), partial(random_boxes, 1, 1), central_boxes):
        batches = list(loader.batches(order, boxes))
        assert [batch.indices.tolist() for batch in batches] == [part.tolist() for part in np.split(order, [5, 10])]
        assert np.array_equal(np.concatenate([batch.labels for batch in batches]), train.labels[order])
        images = np.concatenate([batch.images for batch in batches])
        assert images.dtype == np.uint8
        assert np.array_equal(images, views(train, order, seen(train, order, boxes)))


def test_ffcv_has_no_more_threads_than_numba_starts(jpegs: Path) -> None:
    """As many as there are cores, or as NUMBA_NUM_THREADS says, which is read when numba is imported."""
    Loader(jpegs, "train", 5, "ffcv", workers=1000)
    code = "import sys; from pathlib import Path; from pipeline.data.loader import Loader; "
    code += "Loader(Path(sys.argv[1]), 'train', 5, 'ffcv', workers=2)"
    told(Project(ROOT).run(sys.executable, "-c", code, str(jpegs), NUMBA_NUM_THREADS="1"))


@pytest.mark.soak
@pytest.mark.parametrize("workers", [1, 2])
def test_ffcv_sees_the_same_boxes(jpegs: Path, workers: int) -> None:
    """Pixels differ as the two decoders do, by few levels; half a box away they would differ by tens."""
    plain = Loader(jpegs, "train", 5, "numpy")
    fast = Loader(jpegs, "train", 5, "ffcv", workers=min(workers, len(os.sched_getaffinity(0))))
    for epoch in range(3):
        order = sample_order(1, epoch, 12)
        for boxes in (partial(random_boxes, 1, epoch), central_boxes):
            ours = list(fast.batches(order, boxes))  # all are kept, so a batch that FFCV's ring overwrote would show
            for one, other in zip(ours, plain.batches(order, boxes), strict=True):
                assert np.array_equal(one.indices, other.indices)
                assert np.array_equal(one.labels, other.labels)
                difference = np.abs(one.images.astype(int) - other.images)
                assert difference.max() <= 12
                assert difference.mean(axis=(0, 1, 2)).max() < 2  # of each channel: red is not taken for blue
    # Repeated samples, part of an epoch, an epoch left early, and then again the first.
    assert len(list(fast.batches(np.array([3, 3, 11, 0, 3, 3])))) == 2
    left = fast.batches(np.arange(12))
    next(left)
    left.close()
    one, other = (list(fast.batches(order)) for _ in range(2))
    assert all(np.array_equal(first.images, again.images) for first, again in zip(one, other, strict=True))
