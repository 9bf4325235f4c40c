"""A Slurm cluster for all tests of a process."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[dict[str, str]]:
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    try:
        with slurm_cluster.cluster(folder / "c") as environment:
            yield environment
    finally:
        shutil.rmtree(folder)
