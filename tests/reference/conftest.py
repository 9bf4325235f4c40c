"""Fixtures for the reference's tests: real images read by the reference itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import recipe
import torch


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Steps this small gain little by a second one, and beside other work take 20 times as long with it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny(tiny_archive: Path) -> dict[str, recipe.Split]:
    """The archive's 260 training and 104 test images."""
    return recipe.read_archive(tiny_archive)
