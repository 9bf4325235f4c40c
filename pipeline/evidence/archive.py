"""Archives that have the same bytes for the same files, and a reader that trusts none.

A plain ZIP without compression: what is large in it is compressed already, zlib's versions give other bytes, and an
archive that holds what it says it holds cannot fill a disk.
"""

import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from pipeline.errors import UserError, WrnPipeError

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that the format knows: a file's own would change the bytes."""
_MODE = (stat.S_IFREG | 0o644) << 16
_MOST_MEMBERS = 100_000
_LONGEST_NAME = 1000
_BLOCK = 1 << 20
_ENCRYPTED = 0x1
_REMEDY = "get it again from whoever made it with wrn-pipe bundle"


def write(to: Path, members: dict[str, bytes | Path]) -> None:
    """Write `members`, by name the bytes or the file that holds them, in the order of their names."""
    part = to.with_name(f".{to.name}.part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            for name in sorted(members):
                _add(archive, name, members[name])
        part.replace(to)
    except OSError as error:
        raise WrnPipeError(f"cannot write {to}: {error.strerror}", "name another place with --to") from error
    finally:
        part.unlink(missing_ok=True)


def _add(archive: zipfile.ZipFile, name: str, content: bytes | Path) -> None:
    about = zipfile.ZipInfo(name, _EPOCH)
    about.external_attr, about.create_system = _MODE, 3
    about.file_size = len(content) if isinstance(content, bytes) else content.stat().st_size
    with archive.open(about, "w") as member:
        if isinstance(content, bytes):
            member.write(content)
            return
        with content.open("rb") as file:
            while block := file.read(_BLOCK):
                member.write(block)


def holds(path: Path, *names: str) -> bool:
    """Whether a file is an archive that has members of these names."""
    try:
        with zipfile.ZipFile(path) as archive:
            return set(names) <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def unpack(path: Path, to: Path) -> list[str]:
    """Write the members of an archive into the empty folder `to`; return their names.

    Raises UserError before anything is written, unless every member is a plain file with a name of its own below `to`,
    stored as it is and no longer than the archive; and when a member is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            for problem in _problems(members, path.stat().st_size):
                raise UserError(f"{path}: {problem}", _REMEDY)
            for member in members:
                _unpack(archive, member, to / member.filename)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}", "name a file of wrn-pipe bundle") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"{path} is no archive, or a damaged one: {error}", _REMEDY) from None
    return [member.filename for member in members]


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, to.open("xb") as file:
        while block := source.read(_BLOCK):
            file.write(block)


def _problems(members: list[zipfile.ZipInfo], size: int) -> Iterable[str]:
    if len(members) > _MOST_MEMBERS:
        yield f"{len(members)} members are too many"
        return
    if sum(member.file_size for member in members) > size:
        yield "its members are larger than it is, so they overlap or expand"
    names = [member.filename for member in members]
    # Two names that differ in case alone are one file on some systems.
    folded = [name.casefold() for name in names]
    files = set(folded)
    for member, name in zip(members, folded, strict=True):
        shown = member.filename[:80]
        if not _is_plain(member.filename):
            yield f"{shown!r} is no name of a file below a folder"
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & _ENCRYPTED:
            yield f"{shown} is compressed or encrypted"
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            yield f"{shown} is a link or another thing that is no file"
        if any(parent.as_posix() in files for parent in PurePosixPath(name).parents):
            yield f"{shown} lies below a member that is a file"
    if len(files) < len(folded):
        twice = next(name for name, low in zip(names, folded, strict=True) if folded.count(low) > 1)
        yield f"{twice} is in it twice"


def _is_plain(name: str) -> bool:
    """Whether a name stays below the folder it is unpacked in, on any system, and is spelt in the one usual way."""
    parts = name.split("/")
    odd = any(ord(letter) < 32 or letter in '\\:*?"<>|\x7f' for letter in name)
    return not odd and len(name) <= _LONGEST_NAME and all(part.strip(". ") and part == part.strip() for part in parts)
