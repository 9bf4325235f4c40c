"""A ZIP for somebody else, described as an RO-Crate, which other tools read: https://w3id.org/ro/crate/1.2.

The same files give the same bytes: nothing is compressed, as what is large is compressed already and zlib's versions
give other bytes.
"""

import hashlib
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.atomic_write import json_text
from pipeline.errors import UserError, WrnPipeError
from pipeline.publication.paper import Paper

DESCRIPTION = "ro-crate-metadata.json"
LICENCES = "LICENCES.md"
_SPECIFICATION = "https://w3id.org/ro/crate/1.2"
_CLEAN, _EDITED = "clean", "with edits that are not committed"
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that the format knows: a file's own would change the bytes."""
_REMEDY = "get it again from whoever made it with wrn-pipe bundle"


@dataclass(frozen=True)
class Checkout:
    """Where an archive was made."""

    commit: str
    date: str
    """Of the commit, ISO 8601: a clock would make every archive another one."""
    dirty: bool

    @property
    def state(self) -> str:
        return _EDITED if self.dirty else _CLEAN

    def __str__(self) -> str:
        return f"commit {self.commit} ({self.state})"


def write(to: Path, contents: dict[str, bytes | Path], checkout: Checkout, paper: Paper) -> None:
    """Write an archive of `contents`, by name the bytes or the file that holds them, and of their description."""
    part, files = to.with_name(f".{to.name}.part"), []
    try:
        with zipfile.ZipFile(part, "w") as archive:
            for name, content in sorted(contents.items(), key=lambda item: item[0]):
                data = content if isinstance(content, bytes) else content.read_bytes()
                size, digest = str(len(data)), hashlib.sha256(data).hexdigest()
                files.append({"@id": name, "@type": "File", "name": name, "contentSize": size, "sha256": digest})
                _add(archive, name, data)
            _add(archive, DESCRIPTION, json_text(_description(files, checkout, paper)).encode())
        part.replace(to)
    except OSError as error:
        raise WrnPipeError(f"cannot write {to}: {error.strerror}", "name another place with --to") from error
    finally:
        part.unlink(missing_ok=True)


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    about = zipfile.ZipInfo(name, _EPOCH)
    about.external_attr = 0o644 << 16
    archive.writestr(about, data)


def _description(files: list[dict[str, str]], checkout: Checkout, paper: Paper) -> dict[str, Any]:
    """A JSON-LD graph with the archive as root Dataset, its files, and the paper."""
    about = {"@id": DESCRIPTION, "@type": "CreativeWork", "conformsTo": {"@id": _SPECIFICATION}, "about": {"@id": "./"}}
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"Reproduction of {paper.title}",
        "description": f"Made by wrn-pipe at {checkout}. wrn-pipe verify --bundle checks it.",
        "datePublished": checkout.date,
        "version": checkout.commit,
        "creativeWorkStatus": checkout.state,
        "license": {"@id": LICENCES},
        "citation": {"@id": paper.url},
        "hasPart": [{"@id": file["@id"]} for file in files],
    }
    article = {"@id": paper.url, "@type": "ScholarlyArticle", "name": paper.title}
    context = [f"{_SPECIFICATION}/context", {"sha256": "https://schema.org/sha256"}]
    return {"@context": context, "@graph": [about, root, article, *files]}


def read_description(text: str) -> tuple[dict[str, str], Checkout]:
    """The sha256 of each file, by name, and where the archive was made. Raises ValueError for another form."""
    try:
        graph = {entity["@id"]: entity for entity in json.loads(text)["@graph"]}
        digests = {name: str(entity["sha256"]) for name, entity in graph.items() if entity["@type"] == "File"}
        root = graph["./"]
        if not re.fullmatch("[0-9a-f]{40,64}", root["version"]):
            raise ValueError("its version is not a commit")
        return digests, Checkout(root["version"], root["datePublished"], root["creativeWorkStatus"] == _EDITED)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(repr(error)) from None


def holds(path: Path, *names: str) -> bool:
    """Whether a file is an archive that has members of these names."""
    try:
        with zipfile.ZipFile(path) as archive:
            return set(names) <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def unpack(path: Path, to: Path) -> list[str]:
    """Write the members of an archive into the empty folder `to`, none of them above it; return the files' names.

    Raises UserError for a damaged one, and before anything is written for one that would take more room than it has.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
                raise UserError(f"{path}: its members are compressed, or overlap", _REMEDY)
            archive.extractall(to)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}", "name a file of wrn-pipe bundle") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"{path} is not an archive, or a damaged one: {error}", _REMEDY) from None
    return sorted(file.relative_to(to).as_posix() for file in to.rglob("*") if file.is_file())
