"""Write images as FFCV .beton files, in a process of its own."""

import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.datasets.digest import Stored
from pipeline.errors import UserError, WrnPipeError
from pipeline.loading.beton import IMAGE, LABEL
from pipeline.loading.quick_import import compiling_later
from pipeline.progress import progress

_STALL_SECONDS = 600
"""A writer that adds no byte for so long has hung: FFCV waits for ever for a worker that died."""


class _Samples:
    """What FFCV's writer takes: an indexable of (image, label)."""

    def __init__(self, images: Stored, labels: npt.NDArray[np.int64]) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Stored, int]:
        return self.images[i], int(self.labels[i])


def _write(jobs: Sequence["Job"]) -> None:
    # The writer's own bar would be drawn over ours; its errors still come through the exit code and the traceback.
    os.environ["TQDM_DISABLE"] = "1"
    with compiling_later():
        from ffcv.fields import IntField, NDArrayField, RGBImageField
        from ffcv.writer import DatasetWriter

    for job in jobs:
        samples = _Samples(np.load(job.images, mmap_mode="r"), np.load(job.labels))
        # One worker: with more, pages are booked first come and equal data gives different bytes.
        images = samples.images
        if images.dtype == np.uint8:
            field = RGBImageField(write_mode="raw")
        else:
            field = NDArrayField(images.dtype, images.shape[1:])
        writer = DatasetWriter(str(job.to), {IMAGE: field, LABEL: IntField()}, num_workers=1)
        writer.from_indexed_dataset(samples, chunksize=1000)


@dataclass(frozen=True)
class Job:
    """One file to write: .npy files with images uint8 or float32 [N,H,W,3] and labels int64 [N], and their .beton."""

    images: Path
    labels: Path
    to: Path


def write(jobs: Sequence[Job]) -> None:
    """Write .beton files of bytes in raw mode or of floats, complete when this returns.

    In a process of its own, since FFCV's writer hangs when its worker dies; one process for all, since importing FFCV
    takes seconds. Raises UserError for arrays that are no images, WrnPipeError when the writer fails or stalls.
    """
    expected = 0
    for job in jobs:
        array = np.load(job.images, mmap_mode="r")
        if array.dtype not in (np.uint8, np.dtype("<f4")) or array.ndim != 4 or array.shape[3] != 3:
            what = f"{job.images}: {array.dtype} {array.shape} is not uint8 or float32 [N,H,W,3]"
            raise UserError(what, "run wrn-pipe repro download")
        expected += array.nbytes
    process = multiprocessing.get_context("spawn").Process(target=_write, args=(jobs,))
    process.start()
    try:
        _watch(process, [job.to for job in jobs], expected)
    finally:
        if process.is_alive():
            process.kill()
        process.join()
    if process.exitcode != 0:
        what = f"FFCV's writer ended with {process.exitcode} on {jobs[0].to.parent.name}"
        raise WrnPipeError(what, "see the lines above; check wrn-pipe doctor")


def _watch(process: "multiprocessing.process.BaseProcess", files: Sequence[Path], expected: int) -> None:
    seen, since = 0, time.monotonic()
    with progress("write .beton", total=expected, unit="bytes") as task:
        while process.is_alive():
            process.join(0.2)
            size = min(sum(file.stat().st_size for file in files if file.exists()), expected)
            if size > seen:
                task.advance(size - seen)
                seen, since = size, time.monotonic()
            elif time.monotonic() - since > _STALL_SECONDS:
                what = f"FFCV's writer has stalled at {seen} bytes"
                raise WrnPipeError(what, "check memory and disk, then run it again")
        if process.exitcode == 0:
            task.advance(expected - seen)
