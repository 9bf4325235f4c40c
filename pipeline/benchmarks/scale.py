"""`wrn-pipe bench scale`: how soon a process has its first batch of as many images as ImageNet has, in what memory.

The images are small, so that the file takes little disk. What grows with their number is measured as it is: tables,
order, boxes. What grows with their bytes, the check of the file's digest, is measured on few.
"""

import io
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from types import FrameType

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pipeline.benchmarks.first_batches import BATCH, BATCHES, STATUS
from pipeline.benchmarks.measuring import Spread, spread
from pipeline.data.beton import sha256, write_encoded
from pipeline.data.beton_jpeg import KIND, inspect_jpegs
from pipeline.data.convert_jpeg import describe
from pipeline.errors import UserError, WrnPipeError
from pipeline.publish import json_text
from pipeline.training.device import facts

IMAGENET = 1_281_167
"""Training images of ILSVRC2012."""
SCRATCH = Path("scratch")
CLASSES = 1000
_DISTINCT, _SMALLEST, _LARGEST = 251, 24, 48
"""JPEGs that differ, and the sides they have, in pixels."""


@dataclass(frozen=True)
class Start:
    """One backend's process, from its start to its first batches."""

    backend: str
    seconds: dict[str, Spread]
    """import: from the start of the process. check: digest, header and tables of the file. open: by the backend, which
    may compile. order: of an epoch. first batch: the boxes of an epoch, then a batch decoded, augmented and normalised.
    in all: until the first batch is there."""
    megabytes: dict[str, Spread]
    """imports: its own memory before it opens the file, which is Python, torch and the like. own: the same after the
    first batches; another process takes as much again. samples: how much less it is with a file of these batches alone.
    mapped: resident pages of files, which processes share. peak: the most that was resident at once, own and mapped."""


@dataclass(frozen=True)
class Result:
    machine: dict[str, str | int]
    samples: int
    file_mb: float
    batch: int
    starts: list[Start]


def bench(samples: int, backends: Sequence[str], repeats: int, say: Callable[[str], None]) -> Result:
    """Write a file of `samples` JPEGs below scratch/, open it in fresh processes, each backend once a round, delete it.

    Raises UserError where the disk has no room, or the system does not tell a process's memory as Linux does.
    """
    if not STATUS.exists():
        raise UserError(f"no {STATUS} here, from which a process's memory is read", "measure it on Linux")
    told: dict[str, list[dict[str, dict[str, float]]]] = {backend: [] for backend in backends}
    with _folder() as folder:
        say(f"write {samples:,} small JPEGs")
        few, all_of_them = folder / "few", folder / "all"
        write(few, min(samples, BATCH * BATCHES))
        size = write(all_of_them, samples)
        for number in range(repeats):
            for backend, measured in told.items():
                say(f"round {number + 1} of {repeats}, {backend}")
                least = _start(few, backend)["megabytes"]["own"]
                measured.append(_start(all_of_them, backend))
                measured[-1]["megabytes"]["samples"] = measured[-1]["megabytes"]["own"] - least
    starts = [Start(backend, *(_spreads(told[backend], of) for of in ("seconds", "megabytes"))) for backend in backends]
    return Result(facts(torch.device("cpu")), samples, size / 1e6, BATCH, starts)


def write(folder: Path, samples: int) -> int:
    """Write `folder`/train.beton, of JPEGs of 24 to 48 pixels a side, and its card.json. Bytes of the file.

    They are a few JPEGs again and again, each time as bytes of their own: the guard lets no two samples share them.
    """
    jpegs, sides = _distinct()
    sizes = np.array([len(jpeg) for jpeg in jpegs])
    needed = samples * (int(sizes.mean()) + 49)  # with a row in each of two tables
    if (free := shutil.disk_usage(folder.parent).free) < needed + 2**28:
        what = f"the file takes {needed / 1e6:,.0f} MB, and {folder.parent} has {free / 1e6:,.0f} MB left"
        raise UserError(what, "make room there, or measure fewer --samples")
    folder.mkdir()
    path = folder / "train.beton"
    which = np.arange(samples) % len(jpegs)
    whole, rest = divmod(samples, len(jpegs))
    content = chain(repeat(b"".join(jpegs), whole), jpegs[:rest])
    write_encoded(path, sides[which], sizes[which], np.arange(samples) % CLASSES, content)
    entry = {**describe(inspect_jpegs(path), CLASSES), "beton": {"bytes": path.stat().st_size, "sha256": sha256(path)}}
    card = {"name": folder.name, "kind": KIND, "splits": {"train": entry}}
    (folder / "card.json").write_text(json_text(card), encoding="utf-8")
    return path.stat().st_size


def _distinct() -> tuple[list[bytes], npt.NDArray[np.int64]]:
    """JPEGs of slopes in colour, and their widths and heights [N, 2]."""
    random = np.random.default_rng(0)
    sides = random.integers(_SMALLEST, _LARGEST + 1, (_DISTINCT, 2))
    jpegs = []
    for width, height in sides:
        down, across = np.linspace(-1, 1, height)[:, None, None], np.linspace(-1, 1, width)[None, :, None]
        pixels = 128 + down * random.uniform(-60, 60, 3) + across * random.uniform(-60, 60, 3)
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=75, optimize=True)
        jpegs.append(buffer.getvalue())
    return jpegs, sides


@contextmanager
def _folder() -> Iterator[Path]:
    """Where to put folders as of data/beton, deleted afterwards, also when SIGTERM or Ctrl-C ends this process."""

    def end(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    SCRATCH.mkdir(exist_ok=True)
    before = signal.signal(signal.SIGTERM, end)
    try:
        with tempfile.TemporaryDirectory(prefix="bench-scale-", dir=SCRATCH) as made:
            yield Path(made)
    finally:
        signal.signal(signal.SIGTERM, before)


def _start(folder: Path, backend: str) -> dict[str, dict[str, float]]:
    """What a fresh process tells of its first batches."""
    command = [sys.executable, "-m", "pipeline.benchmarks.first_batches", str(folder), backend, str(time.monotonic())]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise WrnPipeError(f"no first batch over {backend}", "see the lines above; check wrn-pipe doctor")
    told: dict[str, dict[str, float]] = json.loads(done.stdout)
    return told


def _spreads(told: Sequence[dict[str, dict[str, float]]], of: str) -> dict[str, Spread]:
    return {name: spread([one[of][name] for one in told]) for name in told[0][of]}
