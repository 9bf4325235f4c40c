"""Content that no digest pins: dvc.lock has what it was at its first use, and nothing else is taken afterwards."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from packed import BATCHES, members_of, tar
from project import make_project
from ruamel.yaml import YAML

from pipeline.data.readers import Splits

NAME = "cifar10-tiny"


def test_other_content_is_refused_where_no_digest_is_pinned(
    tmp_path: Path,
    tiny_archive: Path,
    tiny_images: Splits,
    archive_server: Any,
    tiny_dataset_entry: Callable[[str], dict[str, Any]],
) -> None:
    project = make_project(tmp_path / "project", tiny_dataset_entry(archive_server.put(tiny_archive)))

    def use(archive: Path) -> None:
        md5 = hashlib.md5(archive.read_bytes()).hexdigest()
        source = {"archive": archive_server.put(archive), "md5": md5, "bytes": archive.stat().st_size}
        unpinned = {"sources": [source], "digests": None, "record_digests": None}
        project.edit(lambda params: params["datasets"][NAME].update(unpinned))

    def md5() -> str:
        (out,) = YAML(typ="safe").load(project.lock())["stages"][f"download@{NAME}"]["outs"]
        return str(out["md5"])

    use(tiny_archive)
    first = project.cli("repro", f"download@{NAME}")
    assert first.returncode == 0, first.stderr
    assert "no digest is pinned" in first.stderr + first.stdout
    at_first, members = md5(), members_of(tiny_archive)

    image = tiny_images["train"][0][0].transpose(2, 0, 1).tobytes()
    batch = f"{BATCHES}/data_batch_1"
    assert members[batch].count(image) == 1
    use(tar(tmp_path / "other.tar.gz", {**members, batch: members[batch].replace(image, image[::-1])}))
    refused = project.cli("repro", f"download@{NAME}")
    assert refused.returncode == 2, refused.stderr
    assert f"error: data/raw/{NAME}: wrong content: md5 " in refused.stderr
    assert f"dvc.lock has {at_first} since its first use" in refused.stderr
    assert f"if it is this one, take download@{NAME} out of dvc.lock" in refused.stderr
    assert not (project.root / "data/raw" / NAME).exists()
    assert md5() == at_first
