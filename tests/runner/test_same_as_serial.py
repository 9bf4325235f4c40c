"""Jobs of one machine and of a Slurm cluster make what one machine makes of the same plan, one run after another."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import slurm_cluster
from clones import clone
from project import Project
from test_fan_out import NAMES, ONE_THREAD, digests, states, three_runs
from test_slurm import SLURM

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def folder(tiny_archive: Path) -> dict[str, str]:
    """What tells the download stage where the archive lies."""
    return {"WRN_PIPE_DATA_DIR": str(tiny_archive.parent)}


@pytest.fixture(scope="module")
def planned(
    tmp_path_factory: pytest.TempPathFactory, tiny_raw: Path, tiny_dataset_entry: Callable[[str], dict[str, Any]]
) -> Project:
    return three_runs(tmp_path_factory.mktemp("planned") / "project", tiny_raw, tiny_dataset_entry)


@pytest.fixture
def project(planned: Project, tmp_path: Path) -> Project:
    return clone(planned, tmp_path / "project")


@pytest.fixture(scope="module")
def serial(planned: Project, folder: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = clone(planned, tmp_path_factory.mktemp("serial") / "project")
    ran = made.cli("repro", **folder, **ONE_THREAD)
    assert ran.returncode == 0, ran.stderr
    return made


def test_jobs_give_what_dvc_repro_gives(project: Project, serial: Project, folder: dict[str, str]) -> None:
    ran = project.cli("repro", "--jobs", "2", **folder, **ONE_THREAD)
    assert ran.returncode == 0, ran.stderr
    assert "Running stage 'train@" not in ran.stdout
    assert "Running stage 'evaluate@" not in ran.stdout
    assert project.lock() == serial.lock()
    assert digests(project) == digests(serial)
    assert project.run("dvc", "status").stdout == "Data and pipelines are up to date.\n"
    assert states(project) == dict.fromkeys(NAMES, "done")
    assert not list((project.root / "scratch").glob("*/*.safetensors"))
    assert not list((project.root / "scratch/jobs").glob("*.json"))
    synced = project.cli("track", "sync")
    assert synced.stdout.count("as it was cifar10") == 3, synced.stdout + synced.stderr
    again = project.cli("repro", "--jobs", "2", **folder)
    assert again.returncode == 0
    assert "Running stage" not in again.stdout
    assert "runs as" not in again.stderr


@pytest.mark.endurance
@pytest.mark.skipif(slurm_cluster.missing() is not None, reason=str(slurm_cluster.missing()))
def test_jobs_of_a_cluster_give_what_dvc_repro_gives(
    project: Project, serial: Project, cluster: dict[str, str], folder: dict[str, str]
) -> None:
    here = {**cluster, **folder, **ONE_THREAD}
    ran = project.cli("repro", *SLURM, "--max-jobs", "2", **here)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("runs as job ") <= 3
    assert project.lock() == serial.lock()
    assert digests(project) == digests(serial)
    assert states(project) == dict.fromkeys(NAMES, "done")
    script = next((project.root / "scratch/jobs/slurm").glob("*_submission.sh")).read_text()
    for line in ("--array=0-2%2", "--partition=short", "--cpus-per-task=1", "--comment=test", "--signal=USR2@120"):
        assert f"#SBATCH {line}\n" in script
