"""Results appear whole or not at all: written under another name beside their place, then renamed."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import UserError


@contextmanager
def new_folder(to: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `to` when the block ends well and vanishes when it does not.

    Its content is on the disk before it gets the name, so that neither a kill nor a power loss shows a part of it.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    work, old = to.parent / f".{to.name}.part", to.parent / f".{to.name}.old"

    def tidy() -> None:
        if old.exists() and not to.exists():  # after an end between the two renames
            os.replace(old, to)
        for left in (work, old):
            shutil.rmtree(left, ignore_errors=True)

    tidy()  # after a killed process
    work.mkdir()
    try:
        yield work
        for path in sorted(work.rglob("*")):
            sync(path)
        sync(work)
        if to.exists():
            os.replace(to, old)  # deleting it in place would show a part of it meanwhile
        os.replace(work, to)
        sync(to.parent)
    finally:
        tidy()


def new_file(to: Path, content: bytes) -> None:
    """Write a single file, which takes the place of `to` when it is whole and on the disk, else vanishes."""
    to.parent.mkdir(parents=True, exist_ok=True)
    part = to.with_name(f".{to.name}.part")
    try:
        part.write_bytes(content)
        sync(part)
        os.replace(part, to)
        sync(to.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write `path` into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(path.parent).free
            what = f"disk full while writing {path}: {free / 1e6:.0f} MB free"
            raise UserError(what, "free some space and run it again") from error
        raise UserError(f"cannot write {path}: {error.strerror or error}", "make that place writable") from error


def sync(path: Path) -> None:
    """Return when the content of a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some shared folders have no such thing for their names
            raise
    finally:
        os.close(handle)


def json_text(value: Any) -> str:
    """JSON with sorted keys and a final newline: equal values, equal bytes."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
