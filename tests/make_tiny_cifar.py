"""Make tests/data/cifar-10-tiny.tar.gz out of data/raw/cifar10: `python -m tests.make_tiny_cifar`.

True CIFAR-10 images in their true relative order, in an archive like the published one: the same member names, and
pickles that are opcode for opcode of the kind Python 2 and the numpy of 2009 wrote. 52 images from each training batch
and 104 test images; the classes are balanced to within two per batch. The published `filenames` are in none of this
project's sources, so every file name is made up from the image's index.
"""

import gzip
import io
import pickle
import struct
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.data.dataset_download import load
from pipeline.data.digest import Images, Labels
from pipeline.dataset_config import Split

FOLDER = "cifar-10-batches-py"
CLASS_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PER_BATCH: dict[Split, int] = {"train": 52, "test": 104}
BATCHES: dict[Split, list[str]] = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}


def choose(labels: Labels, count: int) -> NDArray[np.intp]:
    """Rising indices of the first images of each class, `count` in all, as many of each class as of any other; what
    does not divide by ten goes to the first images left over."""
    each = count // 10
    first = np.concatenate([np.flatnonzero(labels == label)[:each] for label in range(10)])
    rest = np.setdiff1d(np.arange(len(labels)), first)[: count - len(first)]
    return np.sort(np.concatenate([first, rest]))


def archive(raw: dict[Split, tuple[Images, Labels]], per_batch: dict[Split, int]) -> bytes:
    """The tar.gz of the chosen images, the same bytes for the same images and zlib."""
    members = {}
    for split, names in BATCHES.items():
        images, labels = raw[split]
        size = len(images) // len(names)
        for number, name in enumerate(names):
            batch = slice(number * size, (number + 1) * size)
            chosen = choose(labels[batch], per_batch[split])
            title = f"training batch {number + 1} of 5" if split == "train" else "testing batch 1 of 1"
            members[name] = python2_pickle(
                {
                    b"batch_label": title.encode(),
                    b"labels": [int(label) for label in labels[batch][chosen]],
                    b"data": images[batch][chosen].transpose(0, 3, 1, 2).reshape(len(chosen), -1),
                    b"filenames": [f"{split}_{number * size + index:05}.png".encode() for index in chosen],
                }
            )
    meta = {b"num_cases_per_batch": per_batch["train"], b"label_names": [n.encode() for n in CLASS_NAMES]}
    members["batches.meta"] = python2_pickle(meta | {b"num_vis": 3072})
    packed = io.BytesIO()
    # No name and no time in the gzip header, none but fixed owners and times in the tar: same input, same bytes.
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as zipped,
        tarfile.open(mode="w", fileobj=zipped, format=tarfile.USTAR_FORMAT) as tar,
    ):
        folder = tarfile.TarInfo(FOLDER)
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(folder)
        for name in sorted(members):
            info = tarfile.TarInfo(f"{FOLDER}/{name}")
            info.size = len(members[name])
            tar.addfile(info, io.BytesIO(members[name]))
    return packed.getvalue()


class _Python2Pickler(pickle._Pickler):  # the C pickler cannot be taught another opcode
    """Writes bytes as Python 2's str and numpy's names as they were before numpy 2."""

    write: Callable[[bytes], object]
    memoize: Callable[[object], None]
    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)

    def save_str(self, value: bytes) -> None:
        short = len(value) < 256
        self.write(b"U" + bytes([len(value)]) if short else b"T" + struct.pack("<i", len(value)))
        self.write(value)
        self.memoize(value)

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module = obj.__module__.replace("numpy._core", "numpy.core")
        self.write(b"c" + module.encode() + b"\n" + obj.__name__.encode() + b"\n")
        self.memoize(obj)

    dispatch[bytes] = save_str
    dispatch[type(choose)] = save_global
    dispatch[type] = save_global


def python2_pickle(value: Any) -> bytes:
    """Protocol 2, as in the published batches."""
    buffer = io.BytesIO()
    _Python2Pickler(buffer, protocol=2, fix_imports=False).dump(value)
    return buffer.getvalue()


def main() -> None:
    raw = Path("data/raw/cifar10")
    if not raw.is_dir():
        sys.exit(f"{raw} is not there; run: python -m stages.download cifar10")
    splits: tuple[Split, ...] = ("train", "test")
    out = Path(__file__).parent / "data" / "cifar-10-tiny.tar.gz"
    out.write_bytes(archive({split: load(raw, split) for split in splits}, PER_BATCH))
    print(f"{out}: {out.stat().st_size} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
