"""Workers that share no disk train for real, each in its clone, and push to an S3 server; the driver trains nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clones import clone, committed, made, stages_run, stages_taken, told, use
from project import RUN, Project, make_project
from s3_server import Bucket, s3_server

pytestmark = pytest.mark.soak  # four trainings, and ten commands around each
SECOND = RUN.replace("-s1", "-s2")
DATA = ["download@cifar10-tiny", "convert@cifar10-tiny-rgb"]
TELLING = {"summarize", "tabulate@4", "manifest", "report"}
TRAINED = [f"{stage}@{run}" for run in (RUN, SECOND) for stage in ("train", "evaluate")]


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Bucket]:
    with s3_server(tmp_path) as made:
        yield made


@pytest.fixture
def start(tmp_path: Path, bucket: Bucket, tiny_dataset_entry: Callable[[str], dict[str, Any]]) -> Project:
    """A plan of two runs, nothing made, the bucket as its remote."""
    entry = tiny_dataset_entry("http://127.0.0.1:9/cifar-10-tiny.tar.gz")
    sources = [{"folder": True}, *entry["sources"]]
    project = make_project(tmp_path / "start", {**entry, "sources": sources})

    def two_runs(params: Any) -> None:
        params["runs"][SECOND] = {**params["runs"][RUN], "seed": 2}
        params["loading"]["backend"] = "numpy"

    project.edit(two_runs)
    use(project, bucket)
    project.commit("two runs and the remote")
    return project


def test_two_workers_and_a_driver_make_what_one_machine_makes(
    start: Project, bucket: Bucket, tmp_path: Path, tiny_archive: Path
) -> None:
    """Only the serial reproduction and the first worker have the dataset; the others have it by the remote alone."""
    archive = {"WRN_PIPE_DATA_DIR": str(tiny_archive.parent)}
    serial = clone(start, tmp_path / "serial")
    in_order = stages_run(told(serial.cli("repro", **archive)))
    assert set(in_order) == {*DATA, *TRAINED, *TELLING}

    first, second = clone(start, tmp_path / "first"), clone(start, tmp_path / "second")
    assert stages_run(told(first.cli("repro", "--push", RUN, **archive, **bucket.keys))) == [*DATA, *TRAINED[:2]]
    text = told(second.cli("repro", "--pull", "--push", SECOND, **bucket.keys))
    assert (stages_taken(text), stages_run(text)) == (DATA, TRAINED[2:])

    driver = clone(start, tmp_path / "driver")
    ran = driver.cli("repro", "--pull", **bucket.keys)
    text = told(ran)
    assert stages_taken(text) == [name for name in in_order if name not in TELLING]
    assert set(stages_run(text)) == TELLING
    assert not (driver.root / "scratch").exists(), "a training leaves its folder there"
    assert not (driver.root / "tracking").exists()
    assert driver.lock() == serial.lock()
    assert made(driver) == made(serial)
    assert "Next: nothing." in told(driver.cli("status"))
    driver.commit("results")
    assert not committed(driver, bucket.secret)
    assert bucket.secret not in ran.stdout + ran.stderr
