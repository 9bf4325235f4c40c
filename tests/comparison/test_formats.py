"""Each format says what the cells say: it is parsed back and compared with them."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import get_args

import page_checks
import pandas as pd
import pandera.errors
import pytest
from made_up_runs import cell_in, of_many_verdicts, result

from pipeline.cli.compare import Format
from pipeline.comparison.formats import ESCAPES, cell_text, render, tabular
from pipeline.comparison.tables import Table, table
from pipeline.comparison.verdict_rule import Verdict
from pipeline.publication.wide_resnet import PAPER


@pytest.fixture(scope="module")
def tables(compared, brief) -> dict[str, Table]:
    """All tables by name, with every verdict somewhere but those of counts that differ and of times."""
    of = compared([*of_many_verdicts(), result(1234, network="WRN-40-2", protocol=brief, run="left-out")])
    made = {name: table(name, of) for name in PAPER.tables}
    elsewhere = {Verdict.OTHER_COUNT, Verdict.SAME_ORDER, Verdict.OTHER_ORDER}
    assert {c.verdict for t in made.values() for c in t.cells} == {None, *Verdict} - elsewhere
    return made


@pytest.fixture(scope="module")
def written(tables) -> dict[Format, str]:
    """All tables in each format."""
    return {form: render([*tables.values()], form, PAPER) for form in get_args(Format)}


@pytest.mark.parametrize("form", get_args(Format))
def test_every_number_and_footnote_is_there(written, form) -> None:
    text = written[form]
    assert text.endswith("\n")
    assert "\r" not in text
    plain = " ".join(re.sub(r"[{}\\]", "", text).split())
    for claim in PAPER.claims:
        assert claim.text in plain or str(claim.value) in plain
    if form != "csv":
        assert "The times of Figure 4 were measured on a Titan X" in plain
    for word in ("quoted", "quick-run", "same count"):
        assert word in plain


def test_csv_and_json_say_what_the_cells_say(tables, written) -> None:
    rows = csv.DictReader(io.StringIO(written["csv"]))
    objects = [cell for each in json.loads(written["json"]) for cell in each["cells"]]
    cells = [cell for each in tables.values() for cell in each.cells]
    for row, told, cell in zip(rows, objects, cells, strict=True):
        words = {
            **{"network": cell.model, "dataset": cell.dataset, "metric": cell.metric, "kind": cell.kind},
            **{"statistic": cell.claim and cell.claim.statistic, "verdict": cell.verdict},
        }
        assert {name: told[name] for name in words} == words
        assert {name: row[name] or None for name in words} == words
        assert row["table"] == cell.table
        assert (row["published"], told["printed"]) == ((cell.claim.text,) * 2 if cell.claim else ("-", None))
        assert (row["runs"].split(), told["runs"]) == ([*cell.runs], [*cell.runs])
        assert row["excluded"].split() == [e.run for e in cell.excluded]
        assert [(e["run"], e["error"], e["reason"]) for e in told["excluded"]] == [
            (e.run, round(e.error, 3), e.reason) for e in cell.excluded
        ]
        assert (row["caveats"], told["caveats"]) == (" ".join(map(str, cell.caveats)), [*cell.caveats])
        assert [(d["field"], d["published"], d["ours"], d["material"]) for d in told["deviations"]] == [
            (d.field, d.published, d.ours, d.material) for d in cell.deviations
        ]
        assert row["deviations"].count("(material)") == sum(d.material for d in cell.deviations)
        low, high = cell.interval or (None, None)
        numbers = {"count": cell.count, "difference": cell.difference, "margin": cell.margin, "low": low, "high": high}
        numbers |= {name: getattr(cell.ours, name, None) for name in ("n", "mean", "median", "min", "max", "sd")}
        numbers = {name: number and round(number, 3) for name, number in numbers.items()}
        low, high = told["interval"] or (None, None)
        ours = told["ours"] or {}
        assert {name: float(row[name]) if row[name] else None for name in numbers} == numbers
        assert {name: {**told, "low": low, "high": high, **ours}.get(name) for name in numbers} == numbers


def test_schema_refuses_another_column_or_word(written) -> None:
    frame = pd.read_csv(io.StringIO(written["csv"]), dtype=str, keep_default_na=False)
    tabular.results_schema().validate(frame)
    for wrong in (
        frame.rename(columns={"median": "average"}),
        frame.drop(columns="n"),
        frame.assign(verdict="fine"),
        frame.assign(median="5.4"),
    ):
        with pytest.raises((pandera.errors.SchemaError, pandera.errors.SchemaErrors)):
            tabular.results_schema().validate(wrong)


@pytest.mark.parametrize("form", ["markdown", "html"])
def test_rows_are_the_papers(tables, form) -> None:
    four = tables["4"]
    text = render([four], form, PAPER)
    if form == "html":
        page = page_checks.read(text)
        assert not [e for e in page.iter() if {"src", "href"} & set(e.attrib)], "it needs nothing else"
        assert "prefers-color-scheme: dark" in text
        rows = [[page_checks.words(cell) for cell in row] for row in page.iter("tr")]
    else:
        lines = [line for line in text.splitlines() if line.startswith("|")]
        rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
        assert len({len(row) for row in rows}) == 1
    assert [row[0] for row in rows[2:]] == list(four.models)
    assert rows[2 + four.models.index("WRN-40-2")][3:5] == ["5.33", "5.43 (n=5)"]


def test_latex_rows_are_balanced(tables, written) -> None:
    blocks = re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", written["latex"], re.S)
    assert len(blocks) == len(tables)
    for alignment, block in blocks:
        for line in block.splitlines():
            if line.endswith(r" \\") and "multicolumn" not in line:
                assert len(re.findall(r"(?<!\\)&", line)) == len(alignment) - 1
    assert r"a_b & 5% [c] ±".translate(ESCAPES["latex"]) == r"a\_b \& 5\% {[}c{]} $\pm$"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(written, tmp_path) -> None:
    (tmp_path / "all.tex").write_text(written["latex"], encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


@pytest.mark.parametrize("width", [72, 100])
def test_terminal_fits(tables, width) -> None:
    text = render([*tables.values()], "terminal", PAPER, width)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    assert "\x1b" in render([tables["4"]], "terminal", PAPER, width, colour=True)
    for model in (model for each in tables.values() for model in each.models):
        assert re.search(rf"^ {re.escape(model)}  ", text, re.M), "names are never cut"
    for word in ("reproduced", "better", "worse", "inconclusive", "not run", "quoted", "not published"):
        assert re.search(rf"^{word}: +\S", text, re.M), f"{word} is explained"


def test_each_mark_has_its_footnote(tables) -> None:
    for told in map(cell_text.section, tables.values()):
        known = {mark for _, items in told["notes"] for mark, _ in items}
        texts = [text for column in told["columns"] for row in column["texts"].values() for text in row.values()]
        for marks in re.findall(r"\[(.*?)\]", " ".join(texts)):
            assert {f"[{mark}]" for mark in marks.split(", ")} <= known


def test_a_table_counts_the_verdicts_of_its_claims(tables) -> None:
    for each in tables.values():
        said = cell_text.summary(each)
        counted = Counter(str(cell.verdict) for cell in each.cells if cell.kind == "runnable" and cell.metric != "map")
        parts = re.findall(r"(\d+) ([a-z ]+)(?:, |\.)", said.partition(": ")[2].partition(" Were")[0])
        assert {verdict: int(count) for count, verdict in parts} == counted
        assert said.startswith(f"{counted.total()} claim") or not counted
        judged = sum(bool(cell.judgement and cell.judgement.look) for cell in each.cells)
        chance = f"Were the {judged} judged true, chance would call at most {0.05 * judged:.2g} "
        assert (chance in said) is (judged > 0)


def test_a_cell_in_words(tables) -> None:
    three, four = tables["3"], tables["4"]
    cell = cell_in(three, "WRN-40-2-B(3,3)")
    notes = dict(cell_text.section(replace(three, cells=(cell,)))["notes"])
    ((_, said),) = notes["Runs"]
    assert "5 runs, mean 5.43, sd 0.032, median 5.43, 5.40 to 5.48" in said
    assert all(run in said for run in cell.runs)
    low, high = cell.judgement.now.interval
    assert f"94% interval of the distance to the printed number {low:+.2f} to {high:+.2f}, margin 0.3" in said
    material = [
        mark.strip("[]") for mark, text in notes["Deviations from the paper's protocol"] if "(material:" in text
    ]
    assert f"also run: left-out 12.34 (not comparable: {', '.join(material)})" in said
    assert "within 0.3 points" in dict(notes["Words"])["reproduced:"]
    assert cell_text.verdict(cell) == "reproduced, within 0.3 points"
    assert cell_text.difference(cell) == f"+0.00 ± {cell.judgement.now.half_width:.2f}"
    assert "1 run, mean 5.93 (" in str(cell_text.section(three)["notes"])
    assert cell_text.ours(cell_in(four, "WRN-40-1", "cifar10", "params_millions")) == "563,930"
    assert cell_text.difference(cell_in(four, "WRN-40-1")) == "+5.49"


def test_importing_needs_no_torch() -> None:
    """Nor does planning, nor the stage that makes the tables."""
    code = (
        "import sys, pipeline.comparison.formats, pipeline.comparison.orderings, pipeline.cli.compare;"
        "heavy = {'torch', 'pandas', 'scipy'} & set(sys.modules); assert not heavy, heavy;"
        "import pipeline.runner.plan_edit, stages.tabulate; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
