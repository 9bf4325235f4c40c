"""The download stage, run as DVC runs it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import photos
from project import make_project
from ruamel.yaml import YAML

if TYPE_CHECKING:
    from tests.conftest import ArchiveServer

NAME = "cifar10-tiny"


def test_a_dataset_comes_or_is_two_lines_at_the_end_and_unpinned_content_is_that_of_its_first_use(
    tmp_path: Path,
    tiny_archive: Path,
    archive_server: ArchiveServer,
    tiny_dataset_entry: Callable[[str], dict[str, Any]],
) -> None:
    project = make_project(tmp_path / "project", tiny_dataset_entry(archive_server.put(tiny_archive)))
    raw = project.root / "data/raw" / NAME

    def use(archive: Path) -> None:
        """Without a digest of the content."""
        source = photos.source(archive_server, archive)
        unpinned = {"sources": [source], "digests": None, "record_digests": None}
        project.edit(lambda params: params["datasets"][NAME].update(unpinned))

    def download(dataset: str) -> tuple[int, list[str]]:
        ended = project.run(sys.executable, "-m", "stages.download", dataset)
        assert ended.stdout == ""
        return ended.returncode, ended.stderr.splitlines()[-2:]

    absent = ["error: params.yaml has no dataset 'cifar01-tiny'", "  fix: did you mean cifar10-tiny?"]
    assert download("cifar01-tiny") == (2, absent)
    use(tiny_archive)
    first = project.cli("repro", f"download@{NAME}")
    assert first.returncode == 0, first.stderr
    assert "no digest is pinned" in first.stderr + first.stdout
    assert len(list(raw.iterdir())) == 4
    (out,) = YAML(typ="safe").load(project.lock())["stages"][f"download@{NAME}"]["outs"]

    use(photos.other_content(tiny_archive, tmp_path / "other.tar.gz"))
    code, (error, fix) = download(NAME)
    assert code == 2
    assert error.startswith(f"error: data/raw/{NAME}: wrong content: md5 ")
    assert f"dvc.lock has {out['md5']} since its first use" in error + fix
    assert f"if it is this one, take download@{NAME} out of dvc.lock" in fix
    assert not raw.exists()

    (archive_server.folder / "other.tar.gz").unlink()
    ended = project.cli("repro", f"download@{NAME}")
    assert ended.returncode == 2, "DVC itself reports every failure as 255"
    ((error, fix),) = re.findall(r"^(error: .*)\n(  fix: .*)", ended.stderr, re.M)
    assert error.startswith(f"error: {NAME}: no source gives it: archive http://127.0.0.1:")
    assert error.endswith("the server answers 404 Not Found")
    assert fix.startswith("  fix: fix one of these, or add `- folder: true`")
