"""Folders that are replaced as a whole: the old or the new one is there, however it ends."""

import os
from pathlib import Path

import pytest

from pipeline.atomic_write import new_folder


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def fill(to: Path, name: str) -> None:
    with new_folder(to) as work:
        (work / name).write_text(name)


def test_a_folder_is_replaced_or_left(tmp_path: Path) -> None:
    to = tmp_path / "run"
    fill(to, "first")
    fill(to, "second")
    assert names(tmp_path) == ["run/second"]
    with pytest.raises(IsADirectoryError), new_folder(to) as work:
        work.write_text("third")
    assert names(tmp_path) == ["run/second"]


def test_after_a_kill_between_the_two_renames_the_old_one_is_there_again(tmp_path: Path) -> None:
    to = tmp_path / "run"
    fill(tmp_path / ".run.old", "first")
    with pytest.raises(IsADirectoryError), new_folder(to) as work:
        work.write_text("second")
    assert names(tmp_path) == ["run/first"]


def test_a_failure_between_the_two_renames_puts_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "run"
    fill(to, "first")
    rename = os.replace

    def fails(source: Path, target: Path) -> None:
        if source.name == ".run.part":
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="Input/output"):
        fill(to, "second")
    assert names(tmp_path) == ["run/first"]
