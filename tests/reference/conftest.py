"""Fixtures for the reference's tests: real images read by the reference itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import recipe
import torch
from tiny import ARCHIVE, entry


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Steps this small gain little by a second one, and beside other work take 20 times as long with it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny() -> dict[str, recipe.Split]:
    """The archive's 260 training and 104 test images."""
    return recipe.read_archive(ARCHIVE)


@pytest.fixture(scope="package")
def dataset() -> dict[str, Any]:
    """The plan's entry of these images."""
    return entry()


@pytest.fixture(scope="package")
def project(tiny_beton: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has their data, in which runs are trained."""
    root = tmp_path_factory.mktemp("project")
    (root / "data" / "beton").mkdir(parents=True)
    (root / "data" / "beton" / "cifar10-rgb").symlink_to(tiny_beton)
    return root
