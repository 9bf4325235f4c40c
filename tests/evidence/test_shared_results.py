"""Results in a DVC remote, a folder or a real S3 server: taken by clones that train nothing; users' mistakes."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from project import RUN, Project, clone, made, told
from s3_server import NO_OTHER_CREDENTIALS, Bucket, s3_server

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with s3_server(tmp_path_factory.mktemp("s3")) as made:
        yield made


@pytest.fixture(scope="module")
def worker(finished: Project, bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """All stages have run here. The bucket is its remote, which is committed, and holds all of it and the run cache."""
    root = tmp_path_factory.mktemp("clones") / "worker"
    shutil.copytree(finished.root, root, ignore=shutil.ignore_patterns("__pycache__"))
    project = Project(root)
    told(project.run("dvc", "remote", "add", "--default", "bucket", f"s3://{bucket.name}/wrn"))
    told(project.run("dvc", "remote", "modify", "bucket", "endpointurl", bucket.endpoint))
    project.commit("the remote")
    told(project.cli("repro", "--push", **bucket.keys))
    return project


def test_a_driver_takes_what_a_worker_made(worker: Project, bucket: Bucket, tmp_path: Path) -> None:
    """A clone without dvc.lock, which names results: only their inputs lead to them."""
    driver = clone(worker, tmp_path / "driver")
    told(driver.run("git", "rm", "-q", "-r", "dvc.lock", "results", "models", "evaluations"))
    driver.commit("nothing made yet")
    ran = driver.cli("repro", "--pull", **bucket.keys)
    text = told(ran)
    assert set(re.findall(r"^Running stage '(.*)':$", text, re.M)) == {"summarize", "tabulate@4", "manifest", "report"}
    assert {f"train@{RUN}", f"evaluate@{RUN}"} <= set(re.findall(r"^Stage '(.*)' is cached - skipping run", text, re.M))
    assert driver.lock() == worker.lock()
    assert made(driver) == made(worker)
    assert not (driver.root / "scratch").exists(), "a training leaves its folder there"
    assert "Next: nothing." in told(driver.cli("status"))
    assert bucket.secret not in ran.stdout + ran.stderr


def test_a_colleague_compares_and_verifies_without_training(worker: Project, tmp_path: Path) -> None:
    """From a folder; from a bucket, by the commands of docs/how-to/share-results.md, it is in tests/test_docs.py."""
    colleague = clone(worker, tmp_path / "colleague")
    for project in (worker, colleague):
        told(project.run("dvc", "remote", "add", "--local", "--default", "shared", str(tmp_path / "shared")))
    told(worker.run("dvc", "push"))
    (worker.root / ".dvc" / "config.local").unlink()
    assert not [name for name in made(colleague) if name.endswith((".safetensors", ".parquet", ".beton", ".npy"))]
    told(colleague.run("dvc", "pull", **NO_OTHER_CREDENTIALS))
    assert made(colleague) == made(worker)
    assert "Table 4" in told(colleague.cli("compare", "--paper-table", "4"))
    assert " 0 wrong, 2 not checked." in told(colleague.cli("verify")), "what takes --deep or --deeper"
    assert "Nothing would run" in told(colleague.cli("repro", "--dry"))
    assert not (colleague.root / "scratch").exists()
    assert told(colleague.run("git", "status", "--porcelain")) == ""


MISTAKES = {
    "no remote": ("no DVC remote is set up in this clone", "dvc remote add --default NAME"),
    "no bucket": ("the DVC remote bucket holds nothing, or its address is wrong", "push to it first"),
    "no key": ("NoCredentialsError", "dvc remote list"),
    "wrong key": ("PermissionError", "dvc remote list"),
    "no server": ("Could not connect to the endpoint URL", "dvc remote list"),
    "no package": ("requires 'dvc-s3' to be installed", "make setup"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("flag", ["--pull", "--push"])
def test_a_remote_that_does_not_work_is_said_before_anything_is_trained(
    worker: Project, bucket: Bucket, tmp_path: Path, mistake: str, flag: str
) -> None:
    """Where `dvc repro --pull` warns, or finds nothing, and trains."""
    project, keys = clone(worker, tmp_path / "mistaken"), bucket.keys
    if mistake == "no remote":
        told(project.run("dvc", "remote", "remove", "bucket"))
    elif mistake == "no bucket":
        told(project.run("dvc", "remote", "modify", "bucket", "url", "s3://another-bucket/wrn"))
    elif mistake == "no key":
        keys = NO_OTHER_CREDENTIALS
    elif mistake == "wrong key":
        keys = {**keys, "AWS_SECRET_ACCESS_KEY": bucket.secret[::-1]}
    elif mistake == "no server":
        told(project.run("dvc", "remote", "modify", "bucket", "endpointurl", "http://127.0.0.1:9"))
    else:
        (tmp_path / "hidden").mkdir()
        (tmp_path / "hidden" / "dvc_s3.py").write_text("raise ModuleNotFoundError('hidden', name='dvc_s3')\n")
        keys = {**keys, "PYTHONPATH": str(tmp_path / "hidden")}
    ran = project.cli("repro", flag, **keys)
    assert ran.returncode == 2, ran.stdout + ran.stderr
    what, fix = ran.stderr.splitlines()
    assert what.startswith("error: ")
    assert fix.startswith("  fix: ")
    expected = MISTAKES[mistake]
    if (flag, mistake) == ("--push", "no bucket"):  # an empty one would do
        expected = ("The specified bucket does not exist", "dvc remote list")
    assert expected[0] in what
    assert expected[1] in fix
    assert ran.stdout == ""
    assert bucket.secret not in ran.stderr


def test_what_did_not_arrive_is_an_error(worker: Project, tmp_path: Path) -> None:
    """Of the run cache `dvc push` says so and exits 0. Here a file has the place of its folder."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "runs").write_text("")
    told(worker.run("dvc", "remote", "add", "--local", "--default", "shared", str(tmp_path / "shared")))
    try:
        ran = worker.cli("repro", "--push", RUN)
    finally:
        (worker.root / ".dvc" / "config.local").unlink()
    assert ran.returncode == 1
    assert "error: dvc push: " in ran.stderr
