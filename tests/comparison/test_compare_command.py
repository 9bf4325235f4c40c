"""wrn-pipe compare, through the real command line in a folder of its own."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from made_up_runs import five, result, write

from pipeline.cli.main import main
from pipeline.comparison.results import Result
from pipeline.evidence import archive
from pipeline.publication.wide_resnet import PAPER

ROOT = Path(__file__).resolve().parents[2]
Command = Callable[..., tuple[int, str, str]]
GOOD = [result(e, run=f"good-{s}", network="WRN-40-2", seed=s) for s, e in enumerate([540, 548, 541, 545, 543], 1)]


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path) -> Command:
    """Runs the command in `tmp_path` and returns its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wrn-pipe", "compare", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return run


def test_a_table_for_a_newcomer(compare, tmp_path, brief) -> None:
    write([*GOOD, result(1234, protocol=brief, run="quick")], tmp_path)
    code, out, err = compare("--paper-table", "4", "--dataset", "cifar10")
    assert (code, err) == (0, "")
    assert "5.43 (n=5)" in out
    assert "not comparable" in out
    assert "epochs: 2 instead of 200" in out
    assert "563,930" in out
    assert "CIFAR-100, test" not in out
    assert out.splitlines()[-2].startswith("Next: ")


def test_filters(compare, tmp_path) -> None:
    write([*GOOD, *five([490, 495], network="WRN-40-4")], tmp_path)
    code, out, _ = compare("--format", "json", "--run", "cifar10-wrn-40-4-s1")
    assert code == 0
    found = [(t["table"], c["network"]) for t in json.loads(out) for c in t["cells"]]
    assert ("4", "WRN-40-4") in found
    assert {tuple(c["runs"]) for t in json.loads(out) for c in t["cells"]} == {
        ("cifar10-wrn-40-4-s1", "cifar10-wrn-40-4-s2")
    }
    assert {network for _, network in found} == {"WRN-40-4"}
    code, out, _ = compare("--format", "json", "--paper-table", "3", "--row", "WRN-40-2")
    assert {c["network"] for t in json.loads(out) for c in t["cells"]} == {"WRN-40-2-B(3,3)"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--paper-table", "figure4"], "figure-4"),
        (["--paper-table", "4", "--dataset", "cifar1000"], "cifar100"),
        (["--paper-table", "4", "--row", "WRN-40-11"], "WRN-40-1"),
        (["--run", "cifar10-wrn-40-2-b(3,3)-s9"], "did you mean"),
        (["--orderings", "--format", "html"], "markdown"),
        (["--paper-table", "4", "--output", "no/such/folder.txt"], "folder"),
    ],
)
def test_mistakes_are_two_lines_and_exit_2(compare, tmp_path, arguments, named) -> None:
    write([result(543, network="WRN-40-2", run="cifar10-wrn-40-2-s1")], tmp_path)
    code, out, err = compare(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert named in err.split("\n")[1]


ROW = ("--paper-table", "3", "--row", "WRN-40-2-B(3,3)")


@pytest.mark.parametrize(
    ("errors", "code"),
    [([540, 548, 541, 545, 543], 0), ([440, 448, 441], 0), ([840, 848, 841], 1), ([540], 1), ([], 1)],
)
def test_strict_takes_reproduced_and_better_alone(compare, tmp_path, brief, errors, code) -> None:
    write([*five(errors, network="WRN-40-2"), result(2000, network="WRN-40-2-B(3)", protocol=brief)], tmp_path)
    assert compare("--strict", *ROW)[0] == code
    if not errors:
        assert "no finished run" in compare("--strict", *ROW)[2]
        code, out, err = compare("--strict", "--paper-table", "3", "--row", "WRN-40-2-B(3)")
        assert code == 1
        assert "not comparable" in out
        assert "1 of 1 compared claims do not hold" in err


def test_a_run_selects_claims_and_all_runs_judge_them(compare, tmp_path) -> None:
    write(five([540, 541, 542, 543, 544], network="WRN-40-2"), tmp_path)
    words = ("--paper-table", "3", "--format", "json")
    code, out, _ = compare(*words, "--run", "cifar10-wrn-40-2-s4")
    assert code == 0
    (cell,) = json.loads(out)[0]["cells"]
    assert (cell["network"], cell["ours"]["n"], cell["judged"]["look"]) == ("WRN-40-2-B(3,3)", 5, 5)
    code, _, err = compare("--orderings", "--run", "cifar10-wrn-40-2-s4")
    assert code == 2
    assert "leave --run" in err


def test_output_file_and_orderings(compare, tmp_path) -> None:
    write([], tmp_path)
    code, out, err = compare("--format", "html", "--output", "all.html")
    assert (code, out, err) == (0, "", "wrote all.html\n")
    assert (tmp_path / "all.html").read_text(encoding="utf-8").count("<section") == 10
    code, out, _ = compare("--orderings", "--paper-table", "6", "--format", "json")
    assert code == 0
    assert {one["standing"] for one in json.loads(out)} == {"not run"}
    assert compare("--orderings", "--strict")[0] == 1


def test_an_output_takes_the_place_of_an_earlier_one_only(compare, tmp_path) -> None:
    write([], tmp_path)
    for name in ("dvc.yaml", "README.md"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / "link.md").symlink_to("README.md")
    (tmp_path / "evaluations").mkdir(exist_ok=True)
    for words in (["init", "-q"], ["add", "params.yaml", "README.md"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    kept = ["params.yaml", "README.md", "link.md", "evaluations/x.md"]
    for name in [*kept, str(tmp_path / "README.md")]:
        code, out, err = compare("--paper-table", "4", "--output", name)
        assert (code, out) == (2, ""), name
        assert err.startswith(f"error: --output {name} is ")
        assert "another name" in err.splitlines()[1]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    for form in ("markdown", "csv"):
        assert compare("--paper-table", "4", "--format", form, "--output", "table.txt")[0] == 0
    assert "," in (tmp_path / "table.txt").read_text()


def test_a_run_that_the_plan_lost_is_mentioned(compare, tmp_path) -> None:
    write([result(543, run="left-behind")], tmp_path)
    text = (tmp_path / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text.replace("left-behind", "another-name"), encoding="utf-8")
    code, out, _ = compare("--paper-table", "2")
    assert code == 0
    assert "Ignored, because params.yaml does not name them: left-behind" in out


def records(one: Result) -> Iterator[tuple[str, bytes]]:
    for name, content in (("metrics.json", one.metrics), ("run.json", one.record)):
        yield name, content.model_dump_json(exclude_none=name == "metrics.json").encode()


def packed(results: Sequence[Result], folder: Path, **others: bytes) -> str:
    """An archive beside `folder` with what a comparison reads of one: the plan and the records of these runs."""
    folder.mkdir()
    write(results, folder)
    members: dict[str, bytes | Path] = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    members |= dict.fromkeys((archive.LICENCES, "dvc.lock", "dvc.yaml"), b"{}")
    members |= {f"evaluations/{each.run}/predictions.parquet": b"" for each in results}
    made = archive.Checkout("0" * 40, "2026-01-01", dirty=False)
    archive.write(folder.with_suffix(".zip"), members | others, made, PAPER)
    return f"{folder.name}.zip"


def test_runs_of_archives_are_compared_by_the_reader_s_margins(compare, tmp_path) -> None:
    write([result(2000, network="WRN-40-2", run="mine")], tmp_path)
    plan = tmp_path / "params.yaml"
    plan.write_text(plan.read_text().replace("cifar10: 0.3", "cifar10: 0.7"))
    stray = {
        "evaluations/left/" + name: content for name, content in records(result(9000, network="WRN-40-2", run="left"))
    }
    archives = [packed(GOOD[:3], tmp_path / "here"), packed(GOOD[3:], tmp_path / "there", **stray)]
    asked = ("--paper-table", "3", "--row", "WRN-40-2-B(3,3)")
    given = [word for name in archives for word in ("--bundle", name)]
    code, out, err = compare(*asked, "--format", "json", "--output", "table.json", *given)
    assert (code, out, err) == (0, "", "wrote table.json\n")
    (table,) = json.loads(Path("table.json").read_text())
    (cell,) = (cell for cell in table["cells"] if cell["metric"] == "top1_error")
    assert (cell["ours"]["n"], cell["ours"]["median"], cell["margin"]) == (5, 5.43, 0.7)
    assert cell["runs"] == [f"good-{seed}" for seed in range(1, 6)]
    code, out, _ = compare(*asked, *given)
    assert code == 0
    assert "wrn-pipe verify --bundle here.zip and wrn-pipe verify --bundle there.zip checks that" in out
    assert "Ignored" not in out


@pytest.mark.parametrize(
    ("names", "what", "remedy"),
    [
        (["a.zip", "b.zip"], "b.zip and a.zip both have good-1", "name one of the two"),
        (["params.yaml"], "params.yaml: not an archive of wrn-pipe bundle", "leave --bundle out"),
        (["broken.zip"], "broken.zip: evaluations/x/metrics.json: ", "wrn-pipe verify --bundle broken.zip"),
    ],
)
def test_archives_that_can_not_be_compared(compare, tmp_path, names, what, remedy) -> None:
    write([], tmp_path)
    packed(GOOD[:1], tmp_path / "a")
    packed(GOOD[:2], tmp_path / "b")
    packed([], tmp_path / "broken", **{"evaluations/x/metrics.json": b"{}"})
    code, out, err = compare(*(word for name in names for word in ("--bundle", name)))
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {what}")
    assert remedy in err.splitlines()[1]
    assert Path.cwd() == tmp_path


def test_what_to_do_next_is_about_what_was_asked_for(compare, tmp_path, monkeypatch) -> None:
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")

    def said(*arguments: str) -> str:
        _, out, _ = compare("--paper-table", "4", "--row", "WRN-16-8", *arguments)
        return " ".join(out.rpartition("Next: ")[2].split())

    asked = "wrn-pipe plan --paper-table 4 --row WRN-16-8"
    assert said().startswith(f"2 claims need comparable runs. {asked} --seeds 5 adds them,")
    assert f". {asked} --dataset cifar10 --seeds 5 adds them," in said("--dataset", "cifar10")

    def plan(seeds: int) -> None:
        words = ["--paper-table", "4", "--row", "WRN-16-8", "--dataset", "cifar10", "--seeds", str(seeds), "--yes"]
        monkeypatch.setattr(sys, "argv", ["wrn-pipe", "plan", *words])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 0

    plan(2)
    assert "wrn-pipe plan" in said("--dataset", "cifar10"), "a verdict needs three runs"
    plan(3)
    assert said("--dataset", "cifar10") == (
        "1 claim needs comparable runs, which params.yaml has: "
        "wrn-pipe repro 'cifar10-wrn-16-8-paper-zca-s*' trains them."
    )
    assert "wrn-pipe plan" in said(), "CIFAR-100 is not planned"
