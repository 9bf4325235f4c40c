"""Runs first in every Python process that believes in the stand-in: what no kernel computes is put in its place as
soon as trainings are imported, so that the real commands, and all processes that they start, run on it."""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType


class _Install(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if name == "pipeline.training.loop":
            sys.meta_path.remove(self)
            import in_place_of_kernels

            in_place_of_kernels.install()


sys.meta_path.insert(0, _Install())
