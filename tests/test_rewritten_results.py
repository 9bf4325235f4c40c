"""The README's two commands hold one after the other: `make reproduce` rewrites results, and `make test` goes on."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT, Project

READ_THE_CHECKOUT = (
    "tests/test_dag.py",
    "tests/test_docs.py",
    "tests/cli/test_broken_files.py",
)
"""Tests that look at files of the checkout itself, which is what reproducing there changes."""


@pytest.mark.soak
def test_tests_pass_where_another_processor_has_rewritten_the_results(tmp_path: Path) -> None:
    project = Project(tmp_path / "clone")
    # As it was committed: this checkout's own results may be rewritten already.
    subprocess.run(["git", "clone", "-q", str(ROOT), str(project.root)], check=True)
    runs = project.root / "results" / "runs.csv"
    (row,) = csv.DictReader(runs.read_text().splitlines())
    other = f"{float(row['top1_error']) + 1:.2f}"
    for path in (project.root / "results").iterdir():
        if path.is_file():
            path.write_text(path.read_text().replace(row["top1_error"], other))
    assert other in runs.read_text()
    lock = project.root / "dvc.lock"
    lock.write_text(lock.read_text().replace("md5: a", "md5: b"))
    ran = project.run(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not soak", *READ_THE_CHECKOUT)
    )
    assert ran.returncode == 0, ran.stdout
    assert " passed" in ran.stdout
