"""Loaders and the writer over hundreds of epochs, with several threads, and killed or hung: the long half of FFCV's
traps."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.data import beton_writer
from pipeline.data.convert_arrays import convert
from pipeline.dataset_config import SPLITS
from pipeline.errors import WrnPipeError

pytestmark = pytest.mark.soak

ROOT = Path(__file__).parents[2]

# One process, since importing FFCV and compiling its loader costs more than all that is then measured.
EPOCHS = """
import ctypes, gc, itertools, json, sys, threading
from pathlib import Path
import numpy as np, psutil
from pipeline.data.loader import Loader
from pipeline.data.sampler import sample_order

folder, workers = Path(sys.argv[1]), int(sys.argv[2])
loaders = {f"ffcv {n}": Loader(folder, "train", 32, "ffcv", workers=n) for n in range(1, workers + 1)}
loaders["numpy"] = Loader(folder, "train", 32, "numpy")
malloc_trim = ctypes.CDLL(None).malloc_trim
told = {"differing": []}

def bytes_of(loader, epoch):
    batches = list(loader.batches(sample_order(1, epoch, loader.samples)))  # kept: FFCV overwrites its own
    return [(b.indices.tobytes(), b.images.tobytes(), b.labels.tobytes()) for b in batches]

for epoch in range(12):
    delivered = {name: bytes_of(loader, epoch) for name, loader in loaders.items()}
    told["differing"] += [f"{name}, epoch {epoch}" for name in loaders if delivered[name] != delivered["numpy"]]
del delivered

def growth(loader, epochs, leave_at=None, keep=None):
    # After a tenth of `epochs` epochs to warm up: resident bytes that the least of four quarters adds (a leak is in
    # each, an allocator that takes a larger piece once is not) and that all add, and the threads that all add. What is
    # free goes back before each look, or a leak would hide in it.
    memory = []
    for epoch in range(epochs // 10 + epochs):
        if epoch >= epochs // 10 and (epoch - epochs // 10) % (epochs // 4) == 0:
            gc.collect()
            malloc_trim(0)
            memory.append(psutil.Process().memory_info().rss)
        if epoch == epochs // 10:
            threads = threading.active_count()
        for number, batch in enumerate(loader.batches(sample_order(2, epoch, loader.samples))):
            if keep is not None and number == 0:
                keep.append(batch)
            if number == leave_at:
                break
    del batch
    gc.collect()
    malloc_trim(0)
    memory.append(psutil.Process().memory_info().rss)
    each = min(after - before for before, after in itertools.pairwise(memory))
    return [each, memory[-1] - memory[0], threading.active_count() - threads]

for name, loader in loaders.items():
    told[name] = growth(loader, 200)
    told[f"{name}, left midway"] = growth(loader, 60, leave_at=3)
told["a leak"] = growth(loaders["ffcv 1"], 400, keep=[])
print(json.dumps(told))
"""


def test_200_epochs_neither_differ_nor_grow(tiny_beton: Path) -> None:
    """FFCV with every number of threads up to two, and numpy. The leak of one batch of 32 in each of 400 epochs shows
    that a leak would be seen: it is 39 MB, a quarter of it in each quarter."""
    workers = min(2, os.cpu_count() or 1)
    command = [sys.executable, "-c", EPOCHS, str(tiny_beton), str(workers)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told.pop("differing") == []
    leak, all_of_it, threads = told.pop("a leak")
    assert leak > 9e6
    assert all_of_it > 37e6
    assert threads == 0
    assert len(told) == 2 * (workers + 1)
    for what, (memory, whole, threads) in told.items():
        assert whole < 2e6, f"{what}: {told}"
        assert memory < 0.5e6, f"{what}: {told}"
        assert threads == 0, f"{what}: {told}"


def test_a_writer_that_hangs_on_a_bad_sample_is_ended(
    tiny_raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer images than labels: FFCV's worker dies of the first that is missing, and FFCV waits for it for ever."""
    np.save(tmp_path / "images.npy", np.load(tiny_raw / "test_images.npy")[:50])
    monkeypatch.setattr(beton_writer, "_STALL_SECONDS", 60)  # importing FFCV, which writes nothing, takes 7 and more
    job = beton_writer.Job(tmp_path / "images.npy", tiny_raw / "test_labels.npy", tmp_path / "x.beton")
    with pytest.raises(WrnPipeError, match=r"FFCV's writer has stalled at [1-9]"):
        beton_writer.write([job])
    assert not multiprocessing.active_children()


def test_a_killed_writer_is_an_error_and_its_file_is_never_seen(tiny_raw: Path, tmp_path: Path) -> None:
    """What it leaves may well open. Killed as soon as there is a file of it."""
    to = tmp_path / "beton" / "cifar10-tiny-rgb"
    killed: list[Path] = []

    def kill() -> None:
        while not killed:
            time.sleep(0.002)
            for written in tmp_path.glob("beton/.*/*.beton"):
                for child in multiprocessing.active_children():
                    os.kill(child.pid or 0, signal.SIGKILL)
                    killed.append(written)

    watch = threading.Thread(target=kill, daemon=True)
    watch.start()
    with pytest.raises(WrnPipeError, match="FFCV's writer ended with -9"):
        convert(tiny_raw, to, list(SPLITS), 10)
    assert killed
    assert not list(to.parent.iterdir())
