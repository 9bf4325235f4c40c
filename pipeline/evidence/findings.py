"""What looking at one file, or at a few that belong together, has shown."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["right", "wrong", "unchecked"]


@dataclass(frozen=True)
class Finding:
    """One line of `wrn-pipe verify`."""

    path: str
    """Below the repository's root; dvc.lock with its stage for what is wrong in an entry of it."""
    state: State
    """unchecked: what it would be compared with, or it itself, is not here."""
    why: str
    fix: str = ""
    """The command that helps, in a checkout."""


def right(path: Path | str, why: str) -> Finding:
    return Finding(str(path), "right", why)


def wrong(path: Path | str, why: str, fix: str = "") -> Finding:
    return Finding(str(path), "wrong", why, fix)


def unchecked(path: Path | str, why: str, fix: str = "") -> Finding:
    return Finding(str(path), "unchecked", why, fix)
