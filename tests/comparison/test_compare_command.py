"""wrn-pipe compare, through the real command line in a folder of its own."""

import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from made_up_runs import PRINTED, five, result, times, write
from project import ROOT, WrnPipe, told

from pipeline.comparison.results import Result

ROW = ("--paper-table", "3", "--row", "WRN-40-2-B(3,3)")
GOOD = [result(e, run=f"good-{s}", network="WRN-40-2", seed=s) for s, e in enumerate([540, 548, 541, 545, 543], 1)]


@pytest.fixture
def compare(wrn_pipe: WrnPipe, monkeypatch: pytest.MonkeyPatch, tmp_path) -> Callable[..., tuple[int, str, str]]:
    """In `tmp_path`: the exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        done = wrn_pipe("compare", *words)
        return done.returncode, done.stdout, done.stderr

    return run


def test_a_table_for_a_newcomer(compare, tmp_path, brief) -> None:
    write([*GOOD, result(1234, protocol=brief, run="quick"), result(543, run="left-behind")], tmp_path)
    plan = tmp_path / "params.yaml"
    plan.write_text(plan.read_text().replace("left-behind", "another-name"))
    code, out, err = compare("--paper-table", "4", "--dataset", "cifar10")
    assert (code, err) == (0, "")
    for said in ("5.43 (n=5)", "not comparable", "epochs: 2 instead of 200", "563,930"):
        assert said in out
    assert "Ignored, because params.yaml does not name them: left-behind" in out
    assert "CIFAR-100, test" not in out
    assert out.splitlines()[-2].startswith("Next: ")


def test_filters(compare, tmp_path) -> None:
    """A run selects the claims that it answers; all of their runs are shown, and judge them."""
    write([*GOOD, *five([490, 495], network="WRN-40-4")], tmp_path)

    def cells(*words: str) -> list[dict]:
        code, out, _ = compare("--format", "json", *words)
        assert code == 0
        return [cell for table in json.loads(out) for cell in table["cells"]]

    found = cells("--run", "cifar10-wrn-40-4-s1")
    assert {cell["network"] for cell in found} == {"WRN-40-4"}
    assert {tuple(cell["runs"]) for cell in found} == {("cifar10-wrn-40-4-s1", "cifar10-wrn-40-4-s2")}
    assert {cell["network"] for cell in cells("--paper-table", "3", "--row", "WRN-40-2")} == {"WRN-40-2-B(3,3)"}
    (cell,) = cells("--paper-table", "3", "--run", "good-4")
    assert (cell["network"], cell["ours"]["n"], cell["judged"]["look"]) == ("WRN-40-2-B(3,3)", 5, 5)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--paper-table", "4", "--row", "WRN-40-11"], "WRN-40-1"),
        (["--orderings", "--format", "html"], "markdown"),
        (["--paper-table", "4", "--output", "no/such/folder.txt"], "folder"),
        (["--orderings", "--run", "cifar10-wrn-40-2-s1"], "leave --run"),
    ],
)
def test_mistakes_are_two_lines_and_exit_2(compare, tmp_path, arguments, named) -> None:
    write([result(543, network="WRN-40-2", run="cifar10-wrn-40-2-s1")], tmp_path)
    code, out, err = compare(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert named in err.split("\n")[1]


@pytest.mark.parametrize(
    ("errors", "code"),
    [([540, 548, 541, 545, 543], 0), ([440, 448, 441], 0), ([840, 848, 841], 1), ([540], 1), ([], 1)],
)
def test_strict_takes_reproduced_and_better_alone(compare, tmp_path, brief, errors, code) -> None:
    write([*five(errors, network="WRN-40-2"), result(2000, network="WRN-40-2-B(3)", protocol=brief)], tmp_path)
    ended, _, err = compare("--strict", *ROW)
    assert ended == code
    if not errors:
        assert "no finished run" in err
        code, out, err = compare("--strict", "--paper-table", "3", "--row", "WRN-40-2-B(3)")
        assert code == 1
        assert "not comparable" in out
        assert "1 of 1 compared claims do not hold" in err


def test_output_file_and_orderings(compare, tmp_path) -> None:
    write([], tmp_path)
    assert compare("--format", "html", "--output", "all.html") == (0, "", "wrote all.html\n")
    assert (tmp_path / "all.html").read_text(encoding="utf-8").count("<section") == 10
    code, out, _ = compare("--orderings", "--paper-table", "6", "--format", "json")
    assert code == 0
    assert {one["standing"] for one in json.loads(out)} == {"not run"}
    assert compare("--orderings", "--strict")[0] == 1


@pytest.mark.parametrize("form", ["terminal", "csv"])
def test_times_of_another_machine(compare, tmp_path, form) -> None:
    write([], tmp_path)
    path = str(times(tmp_path / "times.json", PRINTED))
    code, out, _ = compare("--paper-table", "figure-4", "--timings", path, "--format", form)
    assert (code, out.count("same order") >= 5) == (0, True)
    assert "A GPU" in out
    assert "312.0" in out


def test_an_output_takes_the_place_of_an_earlier_one_only(compare, tmp_path) -> None:
    """What else is kept, tests/evidence/test_bundle.py tries."""
    write([], tmp_path)
    for words in (["init", "-q"], ["add", "params.yaml"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    before = (tmp_path / "params.yaml").read_bytes()
    for name in ("params.yaml", str(tmp_path / "params.yaml")):
        code, out, err = compare("--paper-table", "4", "--output", name)
        assert (code, out) == (2, ""), name
        assert err.startswith(f"error: --output {name} is a file that git tracks")
        assert "another name" in err.splitlines()[1]
    assert (tmp_path / "params.yaml").read_bytes() == before
    for form in ("markdown", "csv"):
        assert compare("--paper-table", "4", "--format", form, "--output", "table.txt")[0] == 0
    assert "," in (tmp_path / "table.txt").read_text()


def packed(results: Sequence[Result], folder: Path, *strays: Result, **others: bytes) -> str:
    """An archive beside `folder` with what a comparison reads of one: the plan and the records of these runs.

    It has the records of `strays` too, which its plan does not name.
    """
    folder.mkdir()
    write(strays, folder)
    write(results, folder)
    members = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    members |= dict.fromkeys(("LICENCES.md", "ro-crate-metadata.json", "dvc.lock", "dvc.yaml"), b"{}")
    members |= {f"evaluations/{each.run}/predictions.parquet": b"" for each in results}
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for name, content in (members | others).items():
            archive.writestr(name, content)
    return f"{folder.name}.zip"


def test_runs_of_archives_are_compared_by_the_reader_s_margins(compare, tmp_path) -> None:
    write([result(2000, network="WRN-40-2", run="mine")], tmp_path)
    plan = tmp_path / "params.yaml"
    plan.write_text(plan.read_text().replace("cifar10: 0.3", "cifar10: 0.7"))
    left = result(9000, network="WRN-40-2", run="left")
    archives = [packed(GOOD[:3], tmp_path / "here"), packed(GOOD[3:], tmp_path / "there", left)]
    given = [word for name in archives for word in ("--bundle", name)]
    code, out, _ = compare(*ROW, "--format", "json", *given)
    (cell,) = (cell for cell in json.loads(out)[0]["cells"] if cell["metric"] == "top1_error")
    assert (code, cell["ours"]["n"], cell["ours"]["median"], cell["margin"]) == (0, 5, 5.43, 0.7)
    assert cell["runs"] == [f"good-{seed}" for seed in range(1, 6)]
    code, out, _ = compare(*ROW, *given)
    assert code == 0
    assert "wrn-pipe verify --bundle here.zip and wrn-pipe verify --bundle there.zip checks that" in out
    assert "Ignored" not in out


@pytest.mark.parametrize(
    ("names", "what", "remedy"),
    [
        (["a.zip", "b.zip"], "b.zip and a.zip both have good-1", "name one of the two"),
        (["params.yaml"], "params.yaml: not an archive of wrn-pipe bundle", "leave --bundle out"),
        (["c.zip"], "c.zip: evaluations/x/metrics.json cannot be read", "wrn-pipe verify --bundle c.zip"),
    ],
)
def test_archives_that_can_not_be_compared(compare, tmp_path, names, what, remedy) -> None:
    write([], tmp_path)
    packed(GOOD[:1], tmp_path / "a")
    packed(GOOD[:2], tmp_path / "b")
    packed([], tmp_path / "c", **{"evaluations/x/metrics.json": b"{}"})
    code, out, err = compare(*(word for name in names for word in ("--bundle", name)))
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {what}")
    assert remedy in err.splitlines()[1]
    assert Path.cwd() == tmp_path


def test_what_to_do_next_is_about_what_was_asked_for(compare, wrn_pipe, tmp_path) -> None:
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    row, on_cifar10 = ("--paper-table", "4", "--row", "WRN-16-8"), ("--dataset", "cifar10")

    def said(*words: str) -> str:
        _, out, _ = compare(*row, *words)
        return " ".join(out.rpartition("Next: ")[2].split())

    asked = "wrn-pipe plan --paper-table 4 --row WRN-16-8"
    assert said().startswith(f"2 claims need comparable runs. {asked} --seeds 5 adds them,")
    assert f". {asked} --dataset cifar10 --seeds 5 adds them," in said(*on_cifar10)
    told(wrn_pipe("plan", *row, *on_cifar10, "--seeds", "2", "--yes"))
    assert "wrn-pipe plan" in said(*on_cifar10), "a verdict needs three runs"
    told(wrn_pipe("plan", *row, *on_cifar10, "--seeds", "3", "--yes"))
    assert "wrn-pipe repro 'cifar10-wrn-16-8-paper-zca-s*' trains them." in said(*on_cifar10)
    assert "wrn-pipe plan" in said(), "CIFAR-100 is not planned"
