"""Image files of any size as the download stage leaves them: the published bytes, not decoded, and an index.

    data/raw/<dataset>/synsets.txt          one class a line, sorted; its line, from 0, is the label
    data/raw/<dataset>/<split>_images.bin   the files, byte for byte, one behind the other, ordered by (synset, name)
    data/raw/<dataset>/<split>_index.csv    name,label,width,height,bytes,sha256: one row an image, in the same order

One large file, because a million small ones cost hours to hash, link and copy.
"""

import hashlib
import io
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.data.digest import Images, canonical_line
from pipeline.dataset_config import SourceError, Split
from pipeline.progress import progress

_FORMATS = ("JPEG", "PNG")
"""ImageNet has one PNG among its .JPEG files."""
# What Pillow raises on what is not an image, or one of more than 2 * Image.MAX_IMAGE_PIXELS = 179 million pixels.
BROKEN_IMAGE = (OSError, SyntaxError, ValueError, IndexError, struct.error, zlib.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class ImageFile:
    """Where one image file lies: in a file of its own, or inside an uncompressed archive."""

    synset: str
    name: str
    path: Path
    start: int
    length: int


def decode(content: bytes) -> Images:
    """RGB [height, width, 3]. Grey, CMYK and palette images are converted; EXIF's orientation is left alone, as by the
    public loaders. Raises one of BROKEN_IMAGE for a damaged image."""
    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        return np.asarray(image.convert("RGB"))


def files_digest(labels: Iterable[int], sha256: Iterable[str]) -> str:
    """sha256 of one split, in hex: of a line of canonical JSON that holds the number of images, the labels as
    little-endian int64, and the 32 bytes of each file's sha256, in the order of the store."""
    numbers = np.array(list(labels), "<i8")
    header = canonical_line({"files": len(numbers)})
    return hashlib.sha256(header + numbers.tobytes() + b"".join(map(bytes.fromhex, sha256))).hexdigest()


def write_split(folder: Path, split: Split, files: Iterable[ImageFile], synsets: Sequence[str]) -> str:
    """Copy a split's image files, whatever their order, and write its index. Returns its digest. Raises SourceError for
    a file that cannot be read, or whose header is not that of an image."""
    ordered = sorted(files, key=lambda file: (file.synset, file.name))
    label_of = {synset: label for label, synset in enumerate(synsets)}
    rows = []
    with (
        (folder / f"{split}_images.bin").open("wb") as blob,
        progress(f"copy {split}", sum(file.length for file in ordered), "bytes") as task,
    ):
        for file in ordered:
            try:
                with file.path.open("rb") as source:
                    source.seek(file.start)
                    content = source.read(file.length)
                with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                    size = image.size
            except BROKEN_IMAGE as error:
                raise SourceError(f"{split} {file.name}: not a readable image: {error}") from error
            rows.append((file.name, label_of[file.synset], *size, len(content), hashlib.sha256(content).hexdigest()))
            blob.write(content)
            task.advance(len(content))
    index = pd.DataFrame(rows, columns=["name", "label", "width", "height", "bytes", "sha256"])
    index.to_csv(folder / f"{split}_index.csv", index=False, lineterminator="\n")
    return files_digest(index["label"], index["sha256"])


def open_index(folder: Path, split: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"{split}_index.csv", dtype={"name": str, "sha256": str}, keep_default_na=False)


def contents(folder: Path, split: str, lengths: Iterable[int]) -> Iterator[bytes]:
    """The image files of a split, one after another."""
    with (folder / f"{split}_images.bin").open("rb") as blob:
        for length in lengths:
            yield blob.read(length)
