"""Image files of any size as the download stage leaves them: the published bytes, not decoded, and an index.

    data/raw/<dataset>/synsets.txt          one class a line, sorted; its line, from 0, is the label
    data/raw/<dataset>/<split>_images.bin   the files, byte for byte, one behind the other, ordered by (synset, name)
    data/raw/<dataset>/<split>_index.csv    name,label,width,height,bytes,sha256: one row an image, in the same order

One large file, because a million small ones cost hours to hash, link and copy.
"""

import hashlib
import io
import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from pipeline.data.digest import Images, Labels
from pipeline.dataset_config import SourceError, Split
from pipeline.errors import UserError
from pipeline.progress import progress

COLUMNS = ("name", "label", "width", "height", "bytes", "sha256")
_FORMATS = ("JPEG", "PNG")
"""ImageNet has one PNG among its .JPEG files."""
# What Pillow raises on what is not an image, or one of more than 2 * Image.MAX_IMAGE_PIXELS = 179 million pixels.
_BROKEN_IMAGE = (OSError, SyntaxError, ValueError, IndexError, struct.error, zlib.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class ImageFile:
    """Where one published image file lies: in a file of its own, or inside an uncompressed archive."""

    synset: str
    name: str
    path: Path
    start: int
    length: int


@dataclass(frozen=True)
class Store:
    """One split as `write_split` left it."""

    path: Path
    names: tuple[str, ...]
    labels: Labels
    """[N], as all arrays here."""
    sizes: npt.NDArray[np.int64]
    """[N, 2]: width and height in pixels."""
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    sha256: tuple[str, ...]

    def read(self, i: int) -> bytes:
        """Image file number `i`."""
        with self.path.open("rb") as file:
            file.seek(int(self.starts[i]))
            return file.read(int(self.lengths[i]))


def size_of(content: bytes, name: str) -> tuple[int, int]:
    """Width and height that an image's header gives. Raises SourceError where there is none."""
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            return image.size
    except _BROKEN_IMAGE as error:
        raise SourceError(f"{name}: not a readable JPEG: {error}") from error


def decode(content: bytes, name: str) -> Images:
    """RGB [height, width, 3]. Grey, CMYK and palette images are converted; EXIF's orientation is left alone, as by the
    public loaders. Raises SourceError for a damaged image."""
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            return np.asarray(image.convert("RGB"))
    except _BROKEN_IMAGE as error:
        raise SourceError(f"{name}: cannot be decoded: {error}") from error


def files_digest(labels: Iterable[int], sha256: Iterable[str]) -> str:
    """sha256 of one split, in hex: of a line of canonical JSON that holds the number of images, the labels as
    little-endian int64, and the 32 bytes of each file's sha256, in the order of the store."""
    numbers = np.array(list(labels), "<i8")
    header = {"files": len(numbers)}
    sha = hashlib.sha256(json.dumps(header, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    sha.update(numbers.tobytes())
    for digest in sha256:
        sha.update(bytes.fromhex(digest))
    return sha.hexdigest()


def write_split(folder: Path, split: Split, files: Iterable[ImageFile], synsets: Sequence[str]) -> str:
    """Copy a split's image files, whatever their order, and write its index. Returns its digest.

    Raises SourceError for a file that cannot be read in full, or whose header is not that of an image.
    """
    ordered = sorted(files, key=lambda file: (file.synset, file.name))
    label_of = {synset: label for label, synset in enumerate(synsets)}
    rows = []
    with (
        (folder / f"{split}_images.bin").open("wb") as blob,
        progress(f"copy {split}", sum(file.length for file in ordered), "bytes") as task,
    ):
        for file, content in _contents(ordered):
            size = size_of(content, f"{split} {file.name}")
            digest = hashlib.sha256(content).hexdigest()
            rows.append((file.name, label_of[file.synset], *size, len(content), digest))
            blob.write(content)
            task.advance(len(content))
    index = pd.DataFrame(rows, columns=list(COLUMNS))
    index.to_csv(folder / f"{split}_index.csv", index=False, lineterminator="\n")
    return files_digest(index["label"], index["sha256"])


def _contents(files: Iterable[ImageFile]) -> Iterator[tuple[ImageFile, bytes]]:
    for path, group in groupby(files, key=lambda file: file.path):
        try:
            with path.open("rb") as source:
                for file in group:
                    source.seek(file.start)
                    yield file, source.read(file.length)
        except OSError as error:
            raise SourceError(f"{path}: {error.strerror}") from error


def open_split(folder: Path, split: str) -> Store:
    """Read a split's index. Raises UserError when it is missing."""
    try:
        index = pd.read_csv(folder / f"{split}_index.csv", dtype={"name": str, "sha256": str}, keep_default_na=False)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} not found", f"wrn-pipe repro download@{folder.name}") from None
    labels, lengths = index["label"].to_numpy(np.int64), index["bytes"].to_numpy(np.int64)
    sizes, starts = index[["width", "height"]].to_numpy(np.int64), np.cumsum(lengths) - lengths
    names, digests = tuple(index["name"]), tuple(index["sha256"])
    return Store(folder / f"{split}_images.bin", names, labels, sizes, starts, lengths, digests)
