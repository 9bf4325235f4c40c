"""Results appear whole or not at all: written under another name beside their place, then renamed."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def new_folder(to: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `to` when the block ends well and vanishes when it does not."""
    to.parent.mkdir(parents=True, exist_ok=True)
    work = to.parent / f".{to.name}.part"
    shutil.rmtree(work, ignore_errors=True)  # what a killed process left
    work.mkdir()
    try:
        yield work
        shutil.rmtree(to, ignore_errors=True)
        os.replace(work, to)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def json_text(value: Any) -> str:
    """JSON with sorted keys and a final newline: equal values, equal bytes."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
