"""The report says what the cells say, whatever has been run, in one page that anybody can use."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from hashlib import sha256
from html import unescape
from pathlib import Path

import matplotlib
import page_checks
import pytest
from made_up_runs import BRIEF, of_many_verdicts, result, write
from page_checks import Element, all_of, words

from pipeline.artifacts import Digests, EpochRecord, write_history
from pipeline.comparison import formats
from pipeline.comparison.cells import Comparison
from pipeline.comparison.formats.cell_text import section
from pipeline.comparison.results import Result, load_results
from pipeline.comparison.tables import Table, table
from pipeline.errors import UserError
from pipeline.params import PARAMS
from pipeline.publication.wide_resnet import PAPER
from pipeline.report import page
from pipeline.report.figures import points_of
from pipeline.runner.params_file import load
from stages import report

TABLES = ("3", "4", "5")
RUNS = of_many_verdicts()
(QUICK,) = (run for run in RUNS if run.run == "quick-run")


def digest(run: str) -> str:
    return sha256(f"weights of {run}".encode()).hexdigest()


def lay(results: list[Result], root: Path, tables: Sequence[str] = ("4",)) -> None:
    """A repository in which these runs are finished, and these tables are asked for."""
    root.mkdir(exist_ok=True)
    write(results, root)
    plan = root / PARAMS
    plan.write_text(plan.read_text(encoding="utf-8").replace('tables: ["4"]', f"tables: {json.dumps(tables)}"))
    for each in results:
        epochs = each.record.protocol.epochs
        history = [
            EpochRecord(e, 0.1 / e, 2.3 / e, 90 / e, 95 / e if epochs > 2 else None) for e in range(1, epochs + 1)
        ]
        (root / f"models/{each.run}").mkdir(parents=True)
        write_history(root / f"models/{each.run}/history.csv", history)
        files = {f"models/{each.run}/model.safetensors": digest(each.run)}
        Digests(data={}, device={}, files=files).write(root / f"evaluations/{each.run}/digests.json")


def written(root: Path, monkeypatch) -> str:
    monkeypatch.chdir(root)
    report.main()
    return (root / "results/report.html").read_text(encoding="utf-8")


def compared(root: Path) -> Comparison:
    return Comparison(PAPER, load(root / PARAMS), load_results(root))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    lay(RUNS, folder, TABLES)
    return folder


@pytest.fixture(scope="module")
def text(root) -> str:
    with pytest.MonkeyPatch.context() as patch:
        return written(root, patch)


@pytest.fixture(scope="module")
def read(text) -> Element:
    return page_checks.read(text)


@pytest.fixture(scope="module")
def tables(root) -> list[Table]:
    of = compared(root)
    return [table(name, of) for name in TABLES]


def by_id(read: Element, name: str) -> Element:
    (found,) = [element for element in read.iter() if element.get("id") == name]
    return found


def checked(text: str) -> Element:
    """A page that is valid, and that anybody can use."""
    read = page_checks.read(text)
    page_checks.check_whole(read, text)
    page_checks.check_usable(read)
    return read


def test_it_is_one_valid_page_that_anybody_can_use(text, tables) -> None:
    judged = sum(bool(cell.judgement and cell.judgement.look) for each in tables for cell in each.cells)
    assert f"{judged} numbers of the paper are judged" in words(checked(text))
    assert len(text) < 1_000_000
    for media in ("prefers-color-scheme: dark", "@media print", "max-width: 40rem"):
        assert media in text


def test_every_claim_and_verdict_of_the_tables_is_there(read, tables) -> None:
    for each in tables:
        told, part = section(each), by_id(read, each.stem)
        rows = list(next(part.iter("table")).iter("tr"))[2:]
        assert [words(row[0]) for row in rows] == list(each.models)
        for row, model in zip(rows, each.models, strict=True):
            for column in (column for column in told["columns"] if model in column["styles"]):
                cells = {words(td): td.get("class", "").split() for td in row.iter("td")}
                assert set(column["texts"][model].values()) <= {*cells, ""}
                if column["names"][-1] == "verdict":
                    assert column["styles"][model].replace(" ", "-") in cells[column["texts"][model]["verdict"]]
        for sentence in (sentence for _, items in told["notes"] for _, sentence in items):
            assert " ".join(sentence.split()) in words(part)


def test_each_number_of_ours_tells_where_it_comes_from(read, root, tables) -> None:
    hidden = {element for details in read.iter("details") for element in details.iter()}
    for each in tables:
        links = {a.get("href") for a in by_id(read, each.stem).iter("a")}
        assert links >= {f"#run-{cell.runs[0]}" for cell in each.cells if cell.runs}
    for record in (each.record for each in load_results(root)):
        inside = by_id(read, f"run-{record.run}")
        assert inside in hidden
        for told in (record.fingerprint, f"wrn-pipe repro {record.run}", digest(record.run)):
            assert told in words(inside)
        for field, value in record.protocol.model_dump(mode="json").items():
            assert field.replace("_", " ") in words(inside)
            assert isinstance(value, dict) or str(value) in words(inside)


def test_a_run_by_another_protocol_is_said_to_prove_nothing(tmp_path, monkeypatch) -> None:
    """As in the repository's own plan; a second run is planned and not finished."""
    lay([QUICK, RUNS[0]], tmp_path)
    shutil.rmtree(tmp_path / "evaluations" / RUNS[0].run)
    read = checked(text := written(tmp_path, monkeypatch))
    said = words(next(read.iter("main"))[0])
    assert "1 run finished. No number of the paper is judged yet: our runs differ materially" in said
    assert "1 not comparable" in said
    assert "reproduced" not in said
    assert "ours, not comparable" in text
    assert f"wrn-pipe repro {RUNS[0].run}" in map(words, read.iter("li"))


def test_nothing_run_at_all(tmp_path, monkeypatch) -> None:
    lay([], tmp_path, ["4", "9"])
    said = words(checked(written(tmp_path, monkeypatch)))
    assert "0 runs finished. No number of the paper is judged yet." in said
    assert said.count("No run is finished") == 2
    assert all(claim.text in said for claim in PAPER.chosen(["4", "9"]))


def test_points_are_the_papers_and_ours(root) -> None:
    points = points_of("cifar10", compared(root))
    (one,) = [p for p in points if (p.network, p.source) == ("WRN-40-1", "Table 4")]
    assert (one.error, one.parameters, one.multiply_adds) == (6.85, 563_930, 83_280_512 * 3 * 50_000 * 200)
    assert {(p.network, round(p.error, 2), p.group) for p in points if p.group.startswith("ours")} == {
        ("WRN-40-2", 5.43, "ours"),
        ("WRN-40-2-B(3)", 8.05, "ours"),
        ("WRN-40-2-B(3,3,3)", 4.81, "ours"),
        ("WRN-40-2-B(3,3,3,3)", 5.93, "ours"),
        ("WRN-40-1", 12.34, "ours, not comparable"),
        ("WRN-28-10-dropout", 4.05, "ours"),
    }


def test_an_error_of_held_out_images_is_no_test_error(tmp_path, monkeypatch) -> None:
    """Such runs serve to choose a protocol. They are drawn and listed, and stand in no figure beside the paper.

    The page is the same bytes wherever it is made, and whatever the user's own settings of matplotlib are.
    """
    runs = [QUICK, result(500, protocol=BRIEF, run="chosen", seed=2, split="held-out", n=5000)]
    lay(runs, first := tmp_path / "first")
    text = written(first, monkeypatch)
    said = words(page_checks.read(text))
    assert "chosen: held-out error 10.00 %" in said
    assert "Held-out error 10.00 %: 500 of 5000 images of the held-out split" in said
    assert "held-out at the end, seed 2" in text
    assert "test, seed 1" not in text, "it was not looked at while it trained"
    assert "test error 10.00" not in text
    assert [p.error for p in points_of("cifar10", compared(first)) if p.group.startswith("ours")] == [12.34]
    lay(runs, again := tmp_path / "again")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 7)  # as a matplotlibrc of the user's would
    assert written(again, monkeypatch) == text
    assert str(tmp_path) not in text
    assert not re.search(r"20[12]\d-\d\d-\d\d", text)


def test_figures_are_coloured_by_the_page_alone(read, text) -> None:
    assert "test, seed 1" in text, "errors by epoch, where they were measured"
    pictures = list(read.iter("svg"))
    assert len(pictures) == len(all_of(read, "figure")) >= 6
    for picture in pictures:
        style = " ".join(element.get("style", "") + element.get("fill", "") for element in picture.iter())
        assert "var(--ink)" in style
        assert not re.findall(r"#[0-9a-f]{6}", style)


def test_a_broken_or_missing_file_is_named(tmp_path, monkeypatch) -> None:
    lay(RUNS[:1], tmp_path)
    curve = tmp_path / f"models/{RUNS[0].run}/history.csv"
    curve.write_text("epoch,train_loss\n1,2.3\n")
    with pytest.raises(UserError, match=r"history\.csv cannot be read \(line 2: KeyError") as caught:
        written(tmp_path, monkeypatch)
    assert RUNS[0].run in caught.value.remedy
    curve.unlink()
    with pytest.raises(UserError, match=r"history\.csv cannot be read \(.*No such file"):
        written(tmp_path, monkeypatch)


def luminance(channels: Iterable[float]) -> float:
    """Relative, as WCAG has it, of red, green and blue from 0 to 255."""
    parts = [channel / 255 for channel in channels]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("dark", [False, True])
def test_contrast_is_that_of_wcag_aa(dark) -> None:
    style = (formats.FOLDER / "comparison.css").read_text() + (page.FOLDER / "report.css").read_text()
    blocks = re.findall(r"(@media screen and \(prefers-color-scheme: dark\) \{\s*)?:root \{(.*?)\}", style, re.DOTALL)
    found = " ".join(body for at, body in blocks if bool(at) == dark)
    colours = {
        name: luminance(bytes.fromhex(colour)) for name, colour in re.findall(r"--([a-z0-9-]+): #([0-9a-f]{6})", found)
    }
    assert len(colours) == 16
    for ground in ("paper", "stripe"):
        for name in set(colours) - {"paper", "stripe", "line"}:
            low, light = sorted((colours[name], colours[ground]))
            assert (light + 0.05) / (low + 0.05) >= 4.5, (name, ground)


CHROMIUM = shutil.which("chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--dump-dom"),
    *("--hide-scrollbars", "--virtual-time-budget=20000", "--blink-settings=preferredColorScheme=0"),
)
WIDTHS = [390, 1280]
PROBE = """<!doctype html><html lang="en"><head><title>probe</title><link rel="icon" href="data:,"></head>
<body style="margin: 0">FRAMES<script>
addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map(frame => {
    const view = frame.contentWindow, page = view.document, root = page.documentElement;
    const outside = [...page.querySelectorAll("body *")].filter(one => {
      const place = one.getBoundingClientRect();
      return place.width && place.right > root.clientWidth + 1 && !one.closest("[role=region], svg");
    });
    const shown = heading => heading.getBoundingClientRect().height > 0 && !heading.closest("details");
    return {
      width: root.clientWidth, needed: root.scrollWidth, outside: outside.map(one => one.outerHTML.slice(0, 80)),
      headings: [...page.querySelectorAll("h1, h2, h3")].filter(shown).length,
      paper: view.getComputedStyle(page.body).backgroundColor, ink: view.getComputedStyle(page.body).color,
    };
  });
  document.body.append(Object.assign(document.createElement("pre"), {textContent: JSON.stringify(found)}));
});
</script></body></html>"""
"""Looks at the page in frames, one of the width of a telephone, which a browser's own window does not become."""
FRAME = '<iframe src="report.html" style="border: 0; width: {}px; height: 2400px"></iframe>'


@pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="there is no chromium on PATH")
def test_a_browser_shows_all_of_it_in_the_dark_too(text, read, archive_server, tmp_path) -> None:
    (archive_server.folder / "report.html").write_text(text, encoding="utf-8")
    (archive_server.folder / "probe.html").write_text(PROBE.replace("FRAMES", "".join(map(FRAME.format, WIDTHS))))
    place = ["--window-size=1300,2400", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [str(CHROMIUM), *FLAGS, *place, f"{archive_server.url}/probe.html"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert {request.path for request in archive_server.requests} == {"/probe.html", "/report.html"}
    hidden = {element for details in read.iter("details") for element in details.iter()}
    headings = len(set(all_of(read, "h1", "h2", "h3")) - hidden)
    for found, width in zip(json.loads(unescape(re.search("<pre>(.*)</pre>", shown)[1])), WIDTHS, strict=True):
        assert (found["width"], found["needed"], found["outside"], found["headings"]) == (width, width, [], headings)
        paper, ink = (luminance(map(int, re.findall(r"\d+", found[name])[:3])) for name in ("paper", "ink"))
        assert paper < 0.05
        assert ink > 0.5
