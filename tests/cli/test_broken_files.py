"""Files that are missing or broken: two lines, exit code 2, and nothing of what is committed is lost."""

import shutil
from pathlib import Path

import pytest
from project import ROOT, Project, WrnPipe, copy_repository, refused, told

from pipeline.runner.params_file import load

RUN = "cifar10-wrn-40-1-quick-s1"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Committed results without the records of the run that they are made of; its tests put back what they break."""
    project = copy_repository(tmp_path_factory.mktemp("clone") / "c", "params.yaml", "dvc.lock")
    shutil.copytree(ROOT / "results", project.root / "results")
    project.commit("start")
    return project


@pytest.fixture(autouse=True)
def inside(clone: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder is in it."""
    monkeypatch.chdir(clone.root)


@pytest.mark.parametrize("stage", ["summarize", "tabulate 4", "manifest", "report"])
def test_results_stay_where_the_records_of_their_run_were_deleted(stage: str, wrn_pipe: WrnPipe) -> None:
    def results() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in Path("results").rglob("*") if path.is_file()}

    before = results()
    said = refused(wrn_pipe("stage", *stage.split()))
    assert f"evaluations/{RUN} is not here, though dvc.lock has it" in said
    assert f"git checkout evaluations/{RUN}, or wrn-pipe repro {RUN}" in said
    assert results() == before


CONFLICT = b"<<<<<<< HEAD\n"
BROKEN: dict[str, tuple[str, bytes | None, str, str, str]] = {
    "data verify, lock": ("dvc.lock", CONFLICT, "data verify", "dvc.lock:", "git checkout dvc.lock"),
    "repro, lock": ("dvc.lock", CONFLICT, "repro", "dvc.lock:", "git checkout dvc.lock"),
    "train, no dag": ("dvc.yaml", None, f"stage train {RUN}", "dvc.yaml not found", "git checkout dvc.yaml"),
    "repro, dag": ("dvc.yaml", b"{:\n}\n", "repro", "dvc.yaml:", "git checkout dvc.yaml"),
    "params": ("params.yaml", b"# caf\xe9\n", "plan --paper-table 4", "not UTF-8, but byte 0xe9", "save it as UTF-8"),
    "no lock": ("dvc.lock", None, "repro", "dvc.lock not found, though git has it", "git checkout dvc.lock; or"),
    "no .dvc": (".dvc/config", None, "repro", "it has no .dvc/config", "git checkout .dvc, or dvc init"),
    "convert": ("none", None, "stage convert cifar10-rgb", "images.npy not found", "wrn-pipe repro download@cifar10"),
    "evaluate": ("none", None, f"stage evaluate {RUN}", "model.safetensors not found", f"wrn-pipe repro train@{RUN}"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named_with_its_line(case: str, wrn_pipe: WrnPipe) -> None:
    file, more, typed, what, remedy = BROKEN[case]
    path = Path(file)
    before = path.read_bytes() if path.exists() else None
    try:
        if more is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes((before or b"") + more)
        ran = wrn_pipe(*typed.split())
        said = refused(ran)
        assert ran.stderr == said, "and no more than these two lines"
        if case == "repro, lock":
            shown = told(wrn_pipe("status"))
            assert "dvc.lock:" in shown
            assert "Next: settle the conflict there" in shown
    finally:
        if before is not None:
            path.write_bytes(before)
    assert what in said
    assert remedy in said


def test_weights_that_are_none_and_a_missing_repository(wrn_pipe: WrnPipe) -> None:
    folder = Path("models", RUN)
    folder.mkdir(parents=True)
    Path(".git").rename("git")
    try:
        for name in ("model.safetensors", "run.json", "history.csv"):
            (folder / name).write_bytes(b"{}")
        assert f"models/{RUN}/model.safetensors cannot be read" in refused(wrn_pipe("stage", "evaluate", RUN))
        assert not list(Path().glob("evaluations/*"))
        assert "not a git repository" in refused(wrn_pipe("repro"))
    finally:
        shutil.rmtree("models")
        Path("git").rename(".git")


def test_what_is_not_here_is_named_whole_and_not_told_as_edited(
    clone: Project, wrn_pipe: WrnPipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after cloning, on a terminal of 80 columns; names can be copied from it."""
    monkeypatch.setenv("COLUMNS", "80")
    before, params = clone.lock(), Path("params.yaml").read_bytes()
    few = told(wrn_pipe("status"))
    told(wrn_pipe("plan", "--paper-table", "8", "--seeds", "1", "--yes"))
    runs, many = load().runs, told(wrn_pipe("status"))
    dry = told(wrn_pipe("repro", "--dry", f"train@{[*runs][-1]}"))
    Path("params.yaml").write_bytes(params)
    assert few.split().count(f"models/{RUN}/model.safetensors") == 1, "both stages' reason, said once"
    assert f"Next: wrn-pipe repro {RUN}; " in few
    assert max(map(len, runs)) > 40
    assert [run for run in runs if run not in many.split()] == []
    for text in (few, many):
        assert "…" not in text
        assert max(map(len, text.partition("table")[0].splitlines())) <= 80
    assert f"train@{[*runs][-1]}: it never ran here" in dry
    assert clone.lock() == before
