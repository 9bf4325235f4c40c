"""Archives that have the same bytes for the same files, and a reader that trusts none.

A plain ZIP without compression: what is large in it is compressed already, zlib's versions give other bytes, and an
archive that holds what it says it holds cannot fill a disk.
"""

import re
import zipfile
from pathlib import Path

from pipeline.errors import UserError, WrnPipeError

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that the format knows: a file's own would change the bytes."""
_NAME = re.compile(r"(?:(?!\.\.?/)[\w@.+-]+/)*(?!\.\.?$)[\w@.+-]+", re.ASCII)
"""A path below the folder that it is unpacked in, on any system. zipfile would change others to one."""
_REMEDY = "get it again from whoever made it with wrn-pipe bundle"


def write(to: Path, members: dict[str, bytes | Path]) -> None:
    """Write `members`, by name the bytes or the file that holds them, in the order of their names."""
    part = to.with_name(f".{to.name}.part")
    try:
        with zipfile.ZipFile(part, "w") as archive:
            for name, content in sorted(members.items(), key=lambda member: member[0]):
                about = zipfile.ZipInfo(name, _EPOCH)
                about.external_attr = 0o644 << 16
                archive.writestr(about, content if isinstance(content, bytes) else content.read_bytes())
        part.replace(to)
    except OSError as error:
        raise WrnPipeError(f"cannot write {to}: {error.strerror}", "name another place with --to") from error
    finally:
        part.unlink(missing_ok=True)


def holds(path: Path, *names: str) -> bool:
    """Whether a file is an archive that has members of these names."""
    try:
        with zipfile.ZipFile(path) as archive:
            return set(names) <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def unpack(path: Path, to: Path) -> list[str]:
    """Write the members of an archive into the empty folder `to`; return their names.

    Raises UserError for a damaged member; and before anything is written, unless each has a name of its own below `to`,
    is not compressed, and all together are no longer than the archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if odd := [name for name in names if not _NAME.fullmatch(name)]:
                raise UserError(f"{path}: {odd[0][:80]!r} is not the name of a file below a folder", _REMEDY)
            if len({name.casefold() for name in names}) < len(names):  # one file, where names differ in case alone
                raise UserError(f"{path} has a member twice", _REMEDY)
            stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
            if not stored or sum(member.file_size for member in members) > path.stat().st_size:
                raise UserError(f"{path}: its members are compressed, or overlap", _REMEDY)
            archive.extractall(to)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}", "name a file of wrn-pipe bundle") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"{path} is not an archive, or a damaged one: {error}", _REMEDY) from None
    return names
