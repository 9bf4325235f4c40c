"""Write images as FFCV .beton files, in a process of its own."""

import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from pipeline.data import jpeg_store
from pipeline.data.beton import IMAGE, LABEL
from pipeline.data.digest import Images, Stored
from pipeline.data.quick_import import compiling_later
from pipeline.dataset_config import SourceError
from pipeline.errors import UserError, WrnPipeError
from pipeline.progress import progress
from pipeline.signals import children_hear_no_signal

_STALL_SECONDS = 600
"""A writer that adds no byte for so long has hung: FFCV waits for ever for a worker that died."""
_PATIENCE_S = 5
"""How long a writer that is told to end may take to do it by itself."""


@dataclass(frozen=True)
class Job:
    """One file to write: .npy files with images uint8 or float32 [N,H,W,3] and labels int64 [N], and their .beton."""

    images: Path
    labels: Path
    to: Path


@dataclass(frozen=True)
class JpegJob:
    """One file to write of images of any size: a split of a jpeg_store, and its .beton."""

    store: Path
    split: str
    max_side: int
    """Larger images are scaled down until their longer side is this many pixels."""
    quality: int
    """Of the JPEGs, 1 to 100 as libjpeg counts."""
    to: Path


def resized(sizes: npt.NDArray[np.int64], max_side: int) -> npt.NDArray[np.int64]:
    """Widths and heights [N, 2] after FFCV's scaling to `max_side`; a side may vanish."""
    # In FFCV's own order of operations on floats, since it cuts off the fractions.
    ratio = max_side / sizes.max(axis=1, keepdims=True)
    return np.where(ratio < 1, (ratio * sizes).astype(np.int64), sizes)


class _Samples:
    """What FFCV's writer takes: an indexable of (image, label)."""

    def __init__(self, images: Stored, labels: npt.NDArray[np.int64]) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Stored, int]:
        return self.images[i], int(self.labels[i])


class _DecodedSamples:
    """The same for image files, decoded on all cores while FFCV encodes. It asks for them in their order."""

    def __init__(self, job: JpegJob) -> None:
        self.job, self.store = job, jpeg_store.open_split(job.store, job.split)
        self.writer = os.getpid()  # the process that waits for the one which will ask for samples
        self.pool: ThreadPoolExecutor | None = None  # made on use: FFCV's writer forks, and threads do not pass over
        self.ahead: deque[tuple[int, Future[Images]]] = deque()

    def __len__(self) -> int:
        return len(self.store.labels)

    def decoded(self, i: int) -> Images:
        return jpeg_store.decode(self.store.read(i), f"{self.job.split} {self.store.names[i]}")

    def __getitem__(self, i: int) -> tuple[Images, int]:
        workers = os.cpu_count() or 1
        self.pool = self.pool or ThreadPoolExecutor(workers)
        start = self.ahead[-1][0] + 1 if self.ahead else i
        for j in range(start, min(i + 2 * workers, len(self))):
            self.ahead.append((j, self.pool.submit(self.decoded, j)))
        expected, image = self.ahead.popleft()
        assert expected == i, "FFCV's one worker takes the samples in order"
        try:
            return image.result(), int(self.store.labels[i])
        except (SourceError, UserError) as error:
            # FFCV would wait for ever for its worker: leave word for our process, and end the waiting one, if it is
            # still there and this one's parent.
            _complaint(self.job.to).write_text(str(error), encoding="utf-8")
            if os.getppid() == self.writer:
                os.kill(self.writer, signal.SIGKILL)
            raise


def _complaint(to: Path) -> Path:
    return to.with_suffix(".error")


def _write(jobs: "Sequence[Job | JpegJob]") -> None:
    # The writer's own bar would be drawn over ours; its errors still come through the exit code and the traceback.
    os.environ["TQDM_DISABLE"] = "1"
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    with compiling_later():
        from ffcv.fields import IntField, NDArrayField, RGBImageField
        from ffcv.writer import DatasetWriter

    for job in jobs:
        samples: _Samples | _DecodedSamples
        field: Any
        if isinstance(job, JpegJob):
            samples = _DecodedSamples(job)
            field = RGBImageField(write_mode="jpg", max_resolution=job.max_side, jpeg_quality=job.quality)
        else:
            samples = _Samples(np.load(job.images, mmap_mode="r"), np.load(job.labels))
            images = samples.images
            if images.dtype == np.uint8:
                field = RGBImageField(write_mode="raw")
            else:
                field = NDArrayField(images.dtype, images.shape[1:])
        # One worker: with more, pages are booked first come and equal data gives different bytes.
        writer = DatasetWriter(str(job.to), {IMAGE: field, LABEL: IntField()}, num_workers=1)
        try:
            writer.from_indexed_dataset(samples, chunksize=1000)
        except BaseException:
            _abandon(writer)
            raise


def _abandon(writer: Any) -> None:
    """End FFCV's worker, which would wait for ever, and free their shared memory, which would outlive both."""
    for worker in psutil.Process().children(recursive=True):  # multiprocessing does not know one that is being started
        worker.kill()
        worker.wait()
    memory = getattr(writer, "metadata_sm", None)  # FFCV sets it only once it has begun to write
    if isinstance(memory, SharedMemory):
        memory.close()
        memory.unlink()


def write(jobs: "Sequence[Job | JpegJob]") -> None:
    """Write .beton files of bytes in raw mode, of floats or of JPEGs, complete when this returns.

    In a process of its own, since FFCV's writer hangs when its worker dies; one process for all, since importing FFCV
    takes seconds. Raises UserError for what are no images, WrnPipeError when the writer fails or stalls.
    """
    expected = sum(map(_expected_bytes, jobs))
    process = multiprocessing.get_context("spawn").Process(target=_write, args=(jobs,))
    try:
        with children_hear_no_signal():
            process.start()  # a signal that comes meanwhile is heard at the block's end
        _watch(process, [job.to for job in jobs], expected)
    finally:
        if process.pid is not None:
            process.terminate()  # it ends its worker before itself; nothing happens if it has ended
            process.join(_PATIENCE_S)
            if process.is_alive():
                process.kill()
                process.join()
    for job in jobs:
        if _complaint(job.to).exists():
            what = _complaint(job.to).read_text(encoding="utf-8")
            raise UserError(what, "replace that image in your folder, and run wrn-pipe repro download again")
    if process.exitcode != 0:
        what = f"FFCV's writer ended with {process.exitcode} on {jobs[0].to.parent.name}"
        raise WrnPipeError(what, "see the lines above; check wrn-pipe doctor")


def _expected_bytes(job: Job | JpegJob) -> int:
    """About how many bytes the job will write, for the progress bar."""
    if isinstance(job, JpegJob):
        return _expected_jpeg_bytes(job)
    array = np.load(job.images, mmap_mode="r")
    if array.dtype not in (np.uint8, np.dtype("<f4")) or array.ndim != 4 or array.shape[3] != 3:
        what = f"{job.images}: {array.dtype} {array.shape} is not uint8 or float32 [N,H,W,3]"
        raise UserError(what, "run wrn-pipe repro download")
    return int(array.nbytes)


def _expected_jpeg_bytes(job: JpegJob) -> int:
    """Raises UserError for an image that would vanish when scaled, on which FFCV's writer would hang."""
    store = jpeg_store.open_split(job.store, job.split)
    after = resized(store.sizes, job.max_side)
    if len(thin := np.flatnonzero((after < 1).any(axis=1))):
        width, height = store.sizes[thin[0]]
        what = f"{job.split} {store.names[thin[0]]}: {width} x {height} pixels cannot be scaled to {job.max_side}"
        raise UserError(what, "raise max_side, or replace that image in your folder")
    return int((store.lengths * (after.prod(axis=1) / store.sizes.prod(axis=1))).sum())


def _watch(process: "multiprocessing.process.BaseProcess", files: Sequence[Path], expected: int) -> None:
    seen, since = 0, time.monotonic()
    with progress("write .beton", total=expected, unit="bytes") as task:
        while process.is_alive():
            process.join(0.2)
            size = sum(file.stat().st_size for file in files if file.exists())
            if size > seen:
                task.advance(min(size, expected) - min(seen, expected))
                seen, since = size, time.monotonic()
            elif time.monotonic() - since > _STALL_SECONDS:
                what = f"FFCV's writer has stalled at {seen} bytes"
                raise WrnPipeError(what, "check memory and disk, then run it again")
        if process.exitcode == 0:
            task.advance(expected - min(seen, expected))
