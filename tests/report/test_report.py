"""The report says what the cells say, whatever has been run, in one page that anybody can use."""

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import matplotlib
import page_checks
import pytest
from made_up_runs import five, result, write
from page_checks import Element

from pipeline.comparison.cells import Comparison
from pipeline.comparison.formats import cell_text, html
from pipeline.comparison.results import Result, load_results
from pipeline.comparison.statistics import Verdict
from pipeline.comparison.tables import Table, table
from pipeline.errors import UserError
from pipeline.params import PARAMS
from pipeline.publication.wide_resnet import PAPER
from pipeline.report import page, points
from pipeline.report.finished_runs import load_finished
from pipeline.runner.params_file import load
from stages import report

ROOT = Path(__file__).resolve().parents[2]
TABLES = ("3", "4", "5")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Result]:
    """Runs of every verdict, of several seeds and protocols."""
    write([], folder := tmp_path_factory.mktemp("brief"))
    brief = load(folder / PARAMS).protocols["brief"]
    return [
        *five([540, 548, 541, 545, 543], network="WRN-40-2"),
        *five([800, 810, 805], network="WRN-40-2-B(3)"),
        *five([480, 482, 481], network="WRN-40-2-B(3,3,3)"),
        result(593, network="WRN-40-2-B(3,3,3,3)"),
        result(1234, protocol=brief, run="quick-run"),
        *five([400, 410], network="WRN-28-10", protocol="paper-meanstd"),
    ]


@pytest.fixture(scope="module")
def quick(runs) -> list[Result]:
    """A run that is far from the paper's protocol, alone."""
    return [run for run in runs if run.run == "quick-run"]


def lay(results: list[Result], root: Path, tables: Sequence[str] = TABLES) -> None:
    """A repository in which these runs are finished, and these tables are asked for."""
    root.mkdir(exist_ok=True)
    write(results, root)
    plan = root / PARAMS
    plan.write_text(plan.read_text(encoding="utf-8").replace('tables: ["4"]', f"tables: {json.dumps(tables)}"))
    for each in results:
        epochs = each.record.protocol.epochs
        looks = range(1, epochs + 1) if epochs > 2 else ()
        rows = [f"{e},{0.1 / e},{2.3 / e},{90 / e},{95 / e if e in looks else ''}" for e in range(1, epochs + 1)]
        history = "\n".join(["epoch,learning_rate,train_loss,train_error,test_error", *rows]) + "\n"
        record = {**json.loads(each.record.model_dump_json()), "protocol_name": "brief" if epochs == 2 else "paper"}
        (root / f"models/{each.run}").mkdir(parents=True, exist_ok=True)
        (root / f"models/{each.run}/history.csv").write_text(history)
        files = {f"models/{each.run}/model.safetensors": sha256(f"weights of {each.run}".encode()).hexdigest()}
        (root / f"evaluations/{each.run}/digests.json").write_text(json.dumps({"files": files}))
        for top in ("models", "evaluations"):
            (root / top / each.run / "run.json").write_text(json.dumps(record))


def written(root: Path, monkeypatch) -> str:
    monkeypatch.chdir(root)
    report.main()
    return (root / "results/report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def root(runs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    lay(runs, folder)
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
    of = Comparison(PAPER, load(root / PARAMS), load_results(root))
    return [table(name, of) for name in TABLES]


def by_id(read: Element, name: str) -> Element:
    (found,) = [e for e in read.all("section", "div", "tr", "h2", "h3") if e.attributes.get("id") == name]
    return found


def test_it_is_one_valid_page_that_anybody_can_use(text, read, tables) -> None:
    judged = sum(bool(cell.judgement and cell.judgement.look) for each in tables for cell in each.cells)
    assert f"{judged} numbers of the paper are judged" in read.text
    page_checks.check_whole(read, text)
    page_checks.check_usable(read)
    assert len(text) < 1_000_000
    for media in ("prefers-color-scheme: dark", "@media print", "max-width: 40rem"):
        assert media in text


def test_the_same_files_give_the_same_bytes_anywhere(quick, tmp_path, monkeypatch) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    lay(quick, first, ["3"])
    lay(quick, again, ["3"])
    text = written(first, monkeypatch)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 7)  # as a matplotlibrc of the user's would
    assert written(again, monkeypatch) == text
    assert str(tmp_path) not in text
    assert not re.search(r"20[12]\d-\d\d-\d\d", text)


def test_every_claim_and_verdict_of_the_tables_is_there(read, tables) -> None:
    assert {cell.verdict for each in tables for cell in each.cells} == {None, *Verdict} - {
        *(Verdict.OTHER_COUNT, Verdict.SAME_ORDER, Verdict.OTHER_ORDER)
    }
    for each in tables:
        letters = cell_text.letters_of(each)
        rows = by_id(read, each.stem).all("table")[0].all("tr")[2:]
        assert [row.children[0].text for row in rows] == list(each.models)
        for row, model in zip(rows, each.models, strict=True):
            for cell in (cell for cell in each.cells if cell.model == model):
                assert cell_text.published(cell) in row.text
                assert cell_text.ours(cell) in row.text
                if cell.kind in ("runnable", "quoted", "unpublished") and cell.metric == "top1_error":
                    wanted = f"{cell_text.verdict(cell)} {cell_text.marks(cell, letters)}".strip()
                    styles = [td.attributes["class"].split() for td in row.all("td") if td.text == wanted]
                    assert [html.style(cell) in style for style in styles].count(True) >= 1
        for _, sentence in letters.legend():
            assert " ".join(sentence.split()) in by_id(read, each.stem).text
        for caveat in each.caveats:
            assert caveat.text in by_id(read, each.stem).text


def test_each_number_of_ours_tells_where_it_comes_from(read, root, tables) -> None:
    for each in tables:
        links = {a.attributes["href"] for a in by_id(read, each.stem).all("a")}
        assert links >= {f"#run-{cell.runs[0]}" for cell in each.cells if cell.ours and cell.runs}
    for run in load_finished(root, load_results(root)):
        inside = by_id(read, f"run-{run.result.run}")
        assert inside.within("details")
        assert sha256(f"weights of {run.result.run}".encode()).hexdigest() in inside.text
        for told in (run.result.record.fingerprint, f"wrn-pipe repro {run.result.run}", *run.digests.values()):
            assert told in inside.text
        for field, value in run.record["protocol"].items():
            assert field.replace("_", " ") in inside.text
            assert isinstance(value, dict) or str(value) in inside.text


def test_a_run_by_another_protocol_is_said_to_prove_nothing(quick, runs, tmp_path, monkeypatch) -> None:
    """As in the repository's own plan; a second run is planned and not finished."""
    lay([*quick, runs[0]], tmp_path, ["4"])
    shutil.rmtree(tmp_path / "evaluations" / runs[0].run)
    read = page_checks.read(text := written(tmp_path, monkeypatch))
    page_checks.check_whole(read, text)
    page_checks.check_usable(read)
    said = read.all("main")[0].children[0].text
    assert "1 run finished. No number of the paper is judged yet: our runs differ materially" in said
    assert "1 not comparable" in said
    assert "reproduced" not in said
    assert "ours, not comparable" in text
    assert f"wrn-pipe repro {runs[0].run}" in [item.text for item in by_id(read, "ahead").parent.all("li")]


def test_nothing_run_at_all(tmp_path, monkeypatch) -> None:
    lay([], tmp_path, ["4", "9"])
    text = written(tmp_path, monkeypatch)
    read = page_checks.read(text)
    page_checks.check_whole(read, text)
    page_checks.check_usable(read)
    assert "0 runs finished. No number of the paper is judged yet." in read.text
    assert read.text.count("No run is finished") == 2
    for claim in [*PAPER.claims_of("4"), *PAPER.claims_of("9")]:
        assert claim.text in read.text


def test_points_are_the_papers_and_ours(root) -> None:
    of = Comparison(PAPER, load(root / PARAMS), load_results(root))
    published = points.published_points("cifar10", PAPER)
    assert {p.error for p in published if p.network == "WRN-40-1"} == {6.85}
    (one,) = [p for p in published if (p.network, p.source) == ("WRN-40-1", "Table 4")]
    assert one.parameters == 563_930
    assert one.multiply_adds == 83_280_512 * 3 * 50_000 * 200
    ours = points.our_points("cifar10", of, load_finished(root, of.results))
    assert {(p.network, round(p.error, 2)): p.comparable for p in ours} == {
        ("WRN-40-2", 5.43): True,
        ("WRN-40-2-B(3)", 8.05): True,
        ("WRN-40-2-B(3,3,3)", 4.81): True,
        ("WRN-40-2-B(3,3,3,3)", 5.93): True,
        ("WRN-40-1", 12.34): False,
        ("WRN-28-10", 4.05): True,
    }


def test_an_error_of_held_out_images_is_no_test_error(quick, tmp_path, monkeypatch) -> None:
    """Such runs serve to choose a protocol. They are drawn and listed, and stand in no figure beside the paper."""
    brief = quick[0].record.protocol
    lay([*quick, result(500, protocol=brief, run="chosen", seed=2, split="held-out", n=5000)], tmp_path, ["4"])
    text = written(tmp_path, monkeypatch)
    read = page_checks.read(text)
    assert "chosen: held-out error 10.00 %" in read.text
    assert "Held-out error 10.00 %: 500 of 5000 images of the held-out split" in read.text
    assert "held-out at the end, seed 2" in text
    assert "test, seed 1" not in text, "it was not looked at while it trained"
    assert "test error 10.00" not in text
    of = Comparison(PAPER, load(tmp_path / PARAMS), load_results(tmp_path))
    finished = load_finished(tmp_path, of.results)
    assert [p.error for p in points.our_points("cifar10", of, finished)] == [12.34]


def test_figures_are_coloured_by_the_page_alone(read, text) -> None:
    assert "test, seed 1" in text, "errors by epoch, where they were measured"
    pictures = read.all("svg")
    assert len(pictures) == len(read.all("figure")) >= 6
    for picture in pictures:
        every = list(picture.iter())
        style = " ".join(e.attributes.get("style", "") + e.attributes.get("fill", "") for e in every)
        assert "var(--ink)" in style
        assert not re.findall(r"#[0-9a-f]{6}", style)


def test_a_broken_or_missing_file_is_named(runs, tmp_path) -> None:
    lay(runs[:1], tmp_path)
    curve = tmp_path / f"models/{runs[0].run}/history.csv"
    curve.write_text("epoch,train_loss\n1,2.3\n")
    with pytest.raises(UserError, match=r"history\.csv cannot be read \(line 2: KeyError") as caught:
        load_finished(tmp_path, load_results(tmp_path))
    assert runs[0].run in caught.value.remedy
    curve.unlink()
    with pytest.raises(UserError, match=r"history\.csv cannot be read \(.*No such file"):
        load_finished(tmp_path, load_results(tmp_path))


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("dark", [False, True])
def test_contrast_is_that_of_wcag_aa(dark) -> None:
    style = (html.FOLDER / "comparison.css").read_text() + (page.FOLDER / "report.css").read_text()
    blocks = re.findall(r"(@media screen and \(prefers-color-scheme: dark\) \{\s*)?:root \{(.*?)\}", style, re.DOTALL)
    colours = dict(
        re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", " ".join(body for at, body in blocks if bool(at) == dark))
    )
    assert len(colours) == 16

    def contrast(one: str, other: str) -> float:
        light, low = sorted((luminance(colours[one]), luminance(colours[other])), reverse=True)
        return (light + 0.05) / (low + 0.05)

    for ground in ("paper", "stripe"):
        for name in set(colours) - {"paper", "stripe", "line"}:
            assert contrast(name, ground) >= 4.5, (name, ground)


CHROMIUM = shutil.which("chromium")
HEADLESS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
PROBE = """<!doctype html><html lang="en"><head><title>probe</title><link rel="icon" href="data:,"></head>
<body style="margin: 0"><iframe src="report.html" style="border: 0; width: WIDTHpx; height: 2400px"></iframe>
<script>
addEventListener("load", () => {
  const view = document.querySelector("iframe").contentWindow, page = view.document, root = page.documentElement;
  const outside = [...page.querySelectorAll("body *")].filter(one => {
    const place = one.getBoundingClientRect();
    return place.width && place.right > root.clientWidth + 1 && !one.closest("[role=region], svg");
  });
  const shown = heading => heading.getBoundingClientRect().height > 0 && !heading.closest("details");
  const found = {
    width: root.clientWidth, needed: root.scrollWidth, outside: outside.map(one => one.outerHTML.slice(0, 80)),
    headings: [...page.querySelectorAll("h1, h2, h3")].filter(shown).map(one => one.textContent),
    paper: view.getComputedStyle(page.body).backgroundColor, ink: view.getComputedStyle(page.body).color,
    loaded: view.performance.getEntriesByType("resource").map(one => one.name),
  };
  document.body.append(Object.assign(document.createElement("pre"), {textContent: JSON.stringify(found)}));
});
</script></body></html>"""
"""Looks at the page in a frame of the width of a telephone, which a browser's own window does not become."""


@pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="there is no chromium on PATH")
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_a_browser_shows_all_of_it(text, read, width, scheme, tmp_path) -> None:
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    (tmp_path / "probe.html").write_text(PROBE.replace("WIDTH", str(width)), encoding="utf-8")
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        flags = ["--dump-dom", "--hide-scrollbars", f"--window-size={width + 20},2400"]
        flags += ["--virtual-time-budget=20000", f"--user-data-dir={tmp_path / 'profile'}"]
        flags += [f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"]
        command = [str(CHROMIUM), *HEADLESS, *flags, f"http://127.0.0.1:{server.server_port}/probe.html"]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        server.shutdown()
    found = json.loads(unescape(re.search("<pre>(.*)</pre>", shown)[1]))
    assert (found["width"], found["needed"], found["outside"]) == (width, width, [])
    assert [" ".join(each.split()) for each in found["headings"]] == [
        heading.text for heading in read.all("h1", "h2", "h3") if not heading.within("details")
    ]
    assert found["loaded"] == []
    assert set(asked) == {"/probe.html", "/report.html"}
    paper, ink = (
        luminance("#" + "".join(f"{int(part):02x}" for part in re.findall(r"\d+", found[name])[:3]))
        for name in ("paper", "ink")
    )
    assert (paper < 0.05 and ink > 0.5) if scheme == "dark" else (paper > 0.9 and ink < 0.05)
