"""Image files of any size as the download stage leaves them: the published bytes, not decoded, and an index.

    data/raw/<dataset>/synsets.txt          one class a line, sorted; its line, from 0, is the label
    data/raw/<dataset>/<split>_images.bin   the files, byte for byte, one behind the other, ordered by (synset, name)
    data/raw/<dataset>/<split>_index.csv    name,label,width,height,bytes,sha256: one row an image, in the same order

One large file, because a million small ones cost hours to hash, link and copy.
"""

import csv
import hashlib
import io
import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.data.digest import Images, Labels
from pipeline.dataset_config import SourceError, Split
from pipeline.errors import UserError
from pipeline.progress import progress

COLUMNS = ("name", "label", "width", "height", "bytes", "sha256")
_FORMATS = ("JPEG", "PNG")
"""ImageNet has one PNG among its .JPEG files."""
# What Pillow raises on bytes that are no image, or one of more than 2 * Image.MAX_IMAGE_PIXELS = 179 million pixels.
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
        """Image file number `i`. Raises UserError when its bytes are not those of the index."""
        with self.path.open("rb") as file:
            file.seek(int(self.starts[i]))
            content = file.read(int(self.lengths[i]))
        if hashlib.sha256(content).hexdigest() != self.sha256[i]:
            raise UserError(f"{self.path}: {self.names[i]} is not the file of its index", _mend(self.path.parent))
        return content


def size_of(content: bytes, name: str) -> tuple[int, int]:
    """Width and height that an image's header gives. Raises SourceError for no image, and for an image bomb."""
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            return image.size
    except _BROKEN_IMAGE as error:
        raise SourceError(f"{name}: no readable JPEG: {error}") from error


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


def write_synsets(folder: Path, synsets: Sequence[str]) -> None:
    (folder / "synsets.txt").write_text("".join(f"{synset}\n" for synset in synsets), encoding="utf-8")


def write_split(folder: Path, split: Split, files: Iterable[ImageFile], synsets: Sequence[str]) -> str:
    """Copy a split's image files, whatever their order, and write its index. Returns its digest.

    Raises SourceError for a file that cannot be read in full, or whose header is not that of an image.
    """
    ordered = sorted(files, key=lambda file: (file.synset, file.name))
    label_of = {synset: label for label, synset in enumerate(synsets)}
    labels: list[int] = []
    digests: list[str] = []
    with (
        (folder / f"{split}_images.bin").open("wb") as blob,
        (folder / f"{split}_index.csv").open("w", newline="", encoding="utf-8") as table,
        progress(f"copy {split}", sum(file.length for file in ordered), "bytes") as task,
    ):
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(COLUMNS)
        for file, content in _contents(ordered):
            width, height = size_of(content, f"{split} {file.name}")
            labels.append(label_of[file.synset])
            digests.append(hashlib.sha256(content).hexdigest())
            blob.write(content)
            rows.writerow((file.name, labels[-1], width, height, len(content), digests[-1]))
            task.advance(len(content))
        for stream in (blob, table):
            stream.flush()
            os.fsync(stream.fileno())
    return files_digest(labels, digests)


def _contents(files: Iterable[ImageFile]) -> Iterator[tuple[ImageFile, bytes]]:
    for path, group in groupby(files, key=lambda file: file.path):
        try:
            source = path.open("rb")
        except OSError as error:
            raise SourceError(f"{path}: {error.strerror}") from error
        with source:
            for file in group:
                try:
                    source.seek(file.start)
                    content = source.read(file.length)
                except OSError as error:
                    raise SourceError(f"{path}: {error.strerror}") from error
                if len(content) != file.length:
                    raise SourceError(f"{path}: ends within {file.name}")
                yield file, content


def open_split(folder: Path, split: str) -> Store:
    """Read a split's index. Raises UserError when it is missing, broken, or not that of the images beside it."""
    index, blob = folder / f"{split}_index.csv", folder / f"{split}_images.bin"
    try:
        with index.open(newline="", encoding="utf-8") as file:
            head, *rows = csv.reader(file)
        if tuple(head) != COLUMNS:
            raise ValueError(f"its columns are not {', '.join(COLUMNS)}")
        names, *columns, digests = zip(*rows, strict=True)
        labels, widths, heights, lengths = (np.array(column, np.int64) for column in columns)
        size = blob.stat().st_size
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} not found", f"wrn-pipe repro download@{folder.name}") from None
    except (ValueError, OverflowError, csv.Error) as error:
        raise UserError(f"{index}: {error}", _mend(folder)) from None
    if lengths.sum() != size or (lengths < 1).any() or (labels < 0).any():
        raise UserError(f"{index} is not the index of the {size} bytes beside it", _mend(folder))
    starts = np.cumsum(lengths) - lengths
    return Store(blob, names, labels, np.stack([widths, heights], axis=1), starts, lengths, digests)


def _mend(folder: Path) -> str:
    return f"delete {folder} and run wrn-pipe repro download@{folder.name}"
