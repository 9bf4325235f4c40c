"""Each format says what the cells say: it is parsed back and compared with them."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from typing import get_args

import page_checks
import pandas as pd
import pandera.errors
import pytest
from made_up_runs import five, result

from pipeline.comparison.deviations import Deviation
from pipeline.comparison.formats import FILES, Format, cell_text, latex, render, tabular, terminal, write_table
from pipeline.comparison.statistics import Verdict
from pipeline.comparison.tables import Column, Table, table
from pipeline.publication.wide_resnet import PAPER

C10 = Column("cifar10", "top1_error")


@pytest.fixture(scope="module")
def tables(compared, brief) -> list[Table]:
    """All tables, with every verdict somewhere but those of counts that differ and of times."""
    runs = [
        *five([540, 548, 541, 545, 543], network="WRN-40-2"),
        *five([800, 810, 805], network="WRN-40-2-B(3)"),
        *five([480, 482, 481], network="WRN-40-2-B(3,3,3)"),
        result(593, network="WRN-40-2-B(3,3,3,3)"),
        result(1234, protocol=brief, run="quick-run"),
        *five([400, 410], network="WRN-28-10-dropout", protocol="paper-meanstd"),
    ]
    of = compared(runs)
    made = [table(name, of) for name in PAPER.tables]
    assert {c.verdict for t in made for c in t.cells} == {None, *Verdict} - {
        Verdict.OTHER_COUNT,
        Verdict.SAME_ORDER,
        Verdict.OTHER_ORDER,
    }
    return made


def cells(tables):
    return [cell for each in tables for cell in each.cells]


@pytest.mark.parametrize("form", get_args(Format))
def test_every_number_and_footnote_is_there(tables, form) -> None:
    text = render(tables, form, PAPER)
    assert text.endswith("\n")
    assert "\r" not in text
    assert text == render(tables, form, PAPER)
    plain = " ".join(re.sub(r"[{}\\]", "", text).split())
    for claim in PAPER.claims:
        assert claim.text in plain or str(claim.value) in plain
    if form != "csv":
        assert "The times of Figure 4 were measured on a Titan X" in plain
    for word in ("quoted", "quick-run", "same count"):
        assert word in plain


def test_csv_says_what_json_says(tables) -> None:
    rows = list(csv.DictReader(io.StringIO(render(tables, "csv", PAPER))))
    objects = [cell for each in json.loads(render(tables, "json", PAPER)) for cell in each["cells"]]
    for row, told, cell in zip(rows, objects, cells(tables), strict=True):
        assert row["table"] == cell.table
        for name in ("network", "dataset", "metric", "kind", "verdict", "statistic"):
            assert row[name] == (told[name] or "")
        assert row["published"] == (told["printed"] or "-")
        assert row["runs"].split() == told["runs"]
        assert row["excluded"].split() == [each["run"] for each in told["excluded"]]
        assert [int(number) for number in row["caveats"].split()] == told["caveats"]
        for material in (True, False):
            count = sum(each["material"] is material for each in told["deviations"])
            assert row["deviations"].count("(material)" if material else "(minor)") == count
        low, high = told["interval"] or (None, None)
        values = {name: told[name] for name in ("count", "difference", "margin")} | {"low": low, "high": high}
        values |= told["ours"] or dict.fromkeys(("n", "mean", "median", "min", "max", "sd"))
        assert {name: float(row[name]) if row[name] else None for name in values} == values


def test_schema_refuses_another_column_or_word(tables) -> None:
    frame = pd.read_csv(io.StringIO(tabular.render_csv(tables)), dtype=str, keep_default_na=False)
    tabular.results_schema().validate(frame)
    for wrong in (
        frame.rename(columns={"median": "average"}),
        frame.drop(columns="n"),
        frame.assign(verdict="fine"),
        frame.assign(median="5.4"),
    ):
        with pytest.raises((pandera.errors.SchemaError, pandera.errors.SchemaErrors)):
            tabular.results_schema().validate(wrong)


def test_json_reads_back(tables) -> None:
    read = json.loads(render(tables, "json", PAPER))
    assert [each["table"] for each in read] == list(PAPER.tables)
    objects = [cell for each in read for cell in each["cells"]]
    for found, cell in zip(objects, cells(tables), strict=True):
        assert found["verdict"] == cell.verdict
        assert found["published"] == (cell.claim.value if cell.claim else None)
        assert [d["field"] for d in found["deviations"]] == [d.field for d in cell.deviations]
        assert [(d["published"], d["ours"], d["material"]) for d in found["deviations"]] == [
            (d.published, d.ours, d.material) for d in cell.deviations
        ]
        assert (found["network"], found["dataset"], found["metric"]) == (cell.model, cell.dataset, cell.metric)
        assert (found["runs"], found["caveats"]) == (list(cell.runs), list(cell.caveats))
        assert [e["run"] for e in found["excluded"]] == [e.run for e in cell.excluded]
        assert (found["margin"], found["count"]) == (cell.margin, cell.count)
        assert found["difference"] == (None if cell.difference is None else pytest.approx(cell.difference, abs=5.1e-4))
        assert (found["interval"] is None) == (cell.interval is None)
        if cell.interval:
            assert found["interval"] == pytest.approx(list(cell.interval), abs=5.1e-4)
        assert (found["ours"] is None) == (cell.ours is None)
        if cell.ours:
            assert found["ours"]["mean"] == pytest.approx(cell.ours.mean, abs=5.1e-4)
            ours = (cell.ours.n, cell.ours.median, cell.ours.smallest, cell.ours.largest, cell.ours.sd)
            told = tuple(found["ours"][key] for key in ("n", "median", "min", "max", "sd"))
            assert [value is None for value in told] == [value is None for value in ours]
            assert told[:4] == pytest.approx(ours[:4], abs=5.1e-4)


def test_markdown_rows_are_the_papers(tables) -> None:
    four = next(each for each in tables if each.name == "4")
    lines = [line for line in render([four], "markdown", PAPER).splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert [row[0] for row in rows[2:]] == list(four.models)
    assert len({len(row) for row in rows}) == 1
    forty_two = rows[2 + four.models.index("WRN-40-2")]
    assert forty_two[3] == "5.33"
    assert forty_two[4] == cell_text.ours(four.cell("WRN-40-2", C10)) == "5.43 (n=5)"


def test_latex_rows_are_balanced(tables) -> None:
    text = render(tables, "latex", PAPER)
    for block in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.S):
        for line in block[1].splitlines():
            if line.endswith(r" \\") and "multicolumn" not in line:
                assert len(re.findall(r"(?<!\\)&", line)) == len(block[0]) - 1
    assert text.count(r"\begin{tabular}") == len(tables)
    assert latex.escape("a_b & 5% [c] ±") == r"a\_b \& 5\% {[}c{]} $\pm$"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tables, tmp_path) -> None:
    (tmp_path / "all.tex").write_text(render(tables, "latex", PAPER), encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def test_html_reads_back_and_needs_nothing_else(tables) -> None:
    four = next(each for each in tables if each.name == "4")
    page = page_checks.read(text := render([four], "html", PAPER))
    assert not [e for e in page.iter() if {"src", "href"} & set(e.attributes)]
    rows = [[cell.text for cell in row.all("td", "th")] for row in page.all("tr")]
    assert [row[0] for row in rows[2:]] == list(four.models)
    assert rows[2 + four.models.index("WRN-40-2")][3:5] == ["5.33", "5.43 (n=5)"]
    assert "prefers-color-scheme: dark" in text


@pytest.mark.parametrize("width", [72, 80, 100])
def test_terminal_fits(tables, width) -> None:
    text = terminal.render(tables, width)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    assert "\x1b" in terminal.render(tables, width, colour=True)
    for each in tables:
        for model in each.models:
            assert re.search(rf"^ {re.escape(model)}  ", text, re.M), "names are never cut"
    for word in ("reproduced", "better", "worse", "inconclusive", "not run", "quoted", "not published"):
        assert re.search(rf"^{word}: +\S", text, re.M), f"{word} is explained"


def test_each_mark_has_its_footnote(tables) -> None:
    for each in tables:
        letters = cell_text.letters_of(each)
        known = {mark for mark, _ in letters.legend()} | {str(caveat.number) for caveat in each.caveats}
        for cell in each.cells:
            used = cell_text.marks(cell, letters).strip("[]")
            assert not used or set(used.split(", ")) <= known


def test_a_table_counts_the_verdicts_of_its_claims(tables) -> None:
    for each in tables:
        said = cell_text.summary(each)
        counted = Counter(str(cell.verdict) for cell in each.cells if cell.kind == "runnable" and cell.metric != "map")
        parts = re.findall(r"(\d+) ([a-z ]+)(?:, |\.)", said.partition(": ")[2].partition(" Were")[0])
        assert {verdict: int(count) for count, verdict in parts} == counted
        assert said.startswith(f"{counted.total()} claim") or not counted
        judged = sum(bool(cell.judgement and cell.judgement.look) for cell in each.cells)
        assert (f"Were the {judged} judged true, chance would call at most {0.05 * judged:.2g} " in said) is (
            judged > 0
        )


def test_a_cell_in_words(tables) -> None:
    three = next(each for each in tables if each.name == "3")
    letters, cell = cell_text.letters_of(three), three.cell("WRN-40-2-B(3,3)", C10)
    judgement = cell.judgement
    assert cell_text.difference(cell) == f"+0.00 ± {judgement.now.half_width:.2f}"
    said = cell_text.evidence(cell, letters, PAPER)
    assert "5 runs, mean 5.43, sd 0.032, median 5.43, 5.40 to 5.48" in said
    assert all(run in said for run in cell.runs)
    low, high = judgement.now.interval
    assert f"94% interval of the distance to the printed number {low:+.2f} to {high:+.2f}, margin 0.3" in said
    assert cell_text.verdict(cell) == "reproduced, within 0.3 points"
    assert ("reproduced", True) in [
        (word, "within 0.3 points" in text) for word, text in cell_text.meanings(Table(PAPER, "3", (cell,)))
    ]
    one = three.cell("WRN-40-2-B(3,3,3,3)", C10)
    assert "1 run, mean 5.93 (" in cell_text.evidence(one, letters, PAPER)
    four = next(each for each in tables if each.name == "4")
    assert cell_text.ours(four.cell("WRN-40-1", Column("cifar10", "params_millions"))) == "563,930"
    assert cell_text.difference(four.cell("WRN-40-1", C10)) == "+5.49"


def test_a_run_that_was_left_out_is_told_with_its_error_and_why(compared, brief) -> None:
    runs = [*five([540, 548, 541], network="WRN-40-2"), result(1234, network="WRN-40-2", protocol=brief, run="quick")]
    made = table("4", compared(runs))
    letters, cell = cell_text.letters_of(made), made.cell("WRN-40-2", C10)
    material = sorted(letters.of(d) for d in cell.excluded[0].deviations if d.material)
    assert f"also run: quick 12.34 (not comparable: {', '.join(material)})" in cell_text.evidence(cell, letters, PAPER)
    (told,) = (c for c in json.loads(render([made], "json", PAPER))[0]["cells"] if "quick" in str(c["excluded"]))
    assert told["excluded"] == [{"run": "quick", "error": 12.34, "reason": "not comparable"}]


def test_letters_go_on_after_the_alphabet() -> None:
    many = tuple(Deviation(f"field {number:02}", "a", "b", number < 3, "why") for number in range(53))
    letters = cell_text.Letters(many)
    assert [letters.of(many[at]) for at in (0, 25, 26, 51, 52)] == ["a", "z", "aa", "zz", "aaa"]
    assert letters.legend()[2:4] == [
        ("c", "field 02: b instead of a (material: why)"),
        ("d", "field 03: b instead of a (minor: why)"),
    ]


def test_written_files_are_the_same_bytes_each_time(tables, tmp_path) -> None:
    four = next(each for each in tables if each.name == "4")
    for folder in (tmp_path / "a", tmp_path / "b"):
        write_table(four, folder)
        assert sorted(path.name for path in folder.iterdir()) == [f"table-4{suffix}" for suffix in FILES]
    for suffix in FILES:
        first, second = (tmp_path / folder / f"table-4{suffix}" for folder in "ab")
        assert first.read_bytes() == second.read_bytes()
        assert str(tmp_path) not in first.read_text()


def test_importing_needs_no_torch() -> None:
    code = (
        "import sys, pipeline.comparison.formats, pipeline.comparison.orderings, pipeline.cli.compare;"
        "heavy = {'torch', 'pandas', 'scipy', 'jinja2'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
