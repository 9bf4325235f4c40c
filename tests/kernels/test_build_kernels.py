"""How our own kernels are built, and what is said when they can not be."""

import shutil
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.kernels import build_kernels
from pipeline.kernels.build_kernels import compiler, library


def test_without_a_compiler_the_remedy_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for cached in (library, compiler):
        cached.cache_clear()
    with pytest.raises(UserError, match=r"g\+\+ is not to be had") as refusal:
        library()
    assert "kernels: torch" in refusal.value.remedy


def test_an_edited_source_is_built_anew_and_a_broken_one_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [Path(shutil.copy(source, tmp_path)) for source in build_kernels.SOURCES]
    monkeypatch.setattr(build_kernels, "SOURCES", sources)
    source = sources[-1]
    for text, files in (("", 1), ("\n", 2), ("}", 2)):
        source.write_text(source.read_text() + text)
        library.cache_clear()
        if text == "}":
            with pytest.raises(UserError, match=r"g\+\+ can not build the kernels: .*convolution.cpp.*error"):
                library()
        else:
            library()
        assert len(list((tmp_path / "__pycache__").iterdir())) == files
    library.cache_clear()
