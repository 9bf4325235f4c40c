"""docs/: its commands run in a small real repository, its links lead somewhere, what is made from code is current."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from project import BIN, ROOT, Project, copy_repository
from pydantic import TypeAdapter
from ruamel.yaml import YAML
from s3_server import NO_OTHER_CREDENTIALS, s3_server
from typer.core import TyperGroup
from typer.main import get_command

from pipeline.cli import reference
from pipeline.cli.main import app
from pipeline.params import Plan

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NOT_RUN = {
    "make setup": "fetches a gigabyte of packages; CI runs it",
    "source .venv/bin/activate": "the environment that runs the tests takes its place",
    "wrn-pipe repro --slurm --partition gpu --gpus 1 --cpus 4 --time 8h --max-jobs 20": "tests/runner/test_slurm.py",
    "dvc exp run -S protocols.quick.epochs=2": "trains again; tests/test_pipeline.py trains by dvc",
    "wrn-pipe ui": "serves until Ctrl-C; tests/cli/test_ui.py runs it",
    "wrn-pipe estimate": "probes WRN-16-8 for half a minute; tests/benchmarks/test_estimate.py runs it",
    "wrn-pipe repro 'cifar10-wrn-16-8-paper-zca-s*'": "5 trainings of 200 epochs, on a GPU",
}
"""Commands of the pages that are not run, and why."""


def commands(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [
        line for block in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S) for line in block.splitlines() if line
    ]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""


@pytest.fixture(scope="module")
def fresh(
    tiny_archive: Path, tiny_dataset_entry: Callable[[str], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    """This repository with its own plan, but a few hundred images in place of CIFAR-10 and two epochs of 8 steps."""
    project = copy_repository(tmp_path_factory.mktemp("docs") / "project", "params.yaml")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=tiny_archive.parent)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        entry = tiny_dataset_entry(f"http://127.0.0.1:{server.server_port}/{tiny_archive.name}")

        def smaller(params: Any) -> None:
            params["datasets"]["cifar10"] = entry
            params["protocols"]["quick"].update(epochs=2, batch_size=32)
            params["loading"]["backend"] = "numpy"  # importing FFCV takes seconds, twice

        project.edit(smaller)
        assert project.run("git", "init", "-q", "-b", "main").returncode == 0
        project.commit("start")
        yield project
        server.shutdown()


def run_all(project: Project, page: Path, instead: Mapping[str, str] | None = None) -> str:
    """Run the page's commands in order, with `instead` of names that stand for the reader's own; what they printed."""
    folder, shown = project.root, ""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    names = {f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    # wrn-pipe itself, of this checkout and not of the environment's installation.
    script = "from pipeline.cli.main import main; main()"
    for line in commands(page):
        if line in NOT_RUN:
            continue
        for name, own in (instead or {}).items():
            line = line.replace(name, own)
        if line.startswith("cd "):
            folder = (folder / line.removeprefix("cd ")).resolve()
            continue
        words = shlex.split(line)
        command = [sys.executable, "-c", script, *words[1:]] if words[0] == "wrn-pipe" else ["bash", "-c", line]
        environment = {**os.environ, **NO_OTHER_CREDENTIALS, **names, "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"}
        ran = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        assert ran.returncode == 0, f"{page.name}: {line}\n{ran.stdout}{ran.stderr}"
        shown += f"$ {line}\n{ran.stdout}"
    return shown


@pytest.fixture(scope="module")
def done(fresh: Project) -> tuple[Project, str]:
    """The project after the tutorial, and what that printed."""
    shown = run_all(fresh, DOCS / "tutorial.md")
    fresh.commit("results")
    return fresh, shown


@pytest.mark.soak
def test_the_first_hour_ends_with_a_verdict(done: tuple[Project, str]) -> None:
    project, shown = done
    assert "not started" in shown
    assert "not comparable" in shown
    assert "Next: nothing." in shown
    assert (project.root / "results" / "table-4.md").is_file()
    assert (project.root / "table-4.json").is_file()


@pytest.mark.soak
def test_a_colleague_has_the_results_without_training(done: tuple[Project, str], tmp_path: Path) -> None:
    with s3_server(tmp_path) as bucket:
        own = {"https://s3.example.org": bucket.endpoint, "YOUR_KEY_ID": bucket.key_id, "YOUR_SECRET": bucket.secret}
        shown = run_all(done[0], DOCS / "how-to" / "share-results.md", own)
        after = shown.split("$ dvc pull\n")[1]
        assert "Next: nothing." in after
        assert "not comparable" in after
        assert " 0 wrong, 2 not checked." in after, "what takes --deep or --deeper"
        assert "Nothing would run" in after
        colleague = Project(done[0].root.parent / "colleague")
        assert not (colleague.root / "scratch").exists()
        assert colleague.run("git", "grep", "-e", bucket.secret, "HEAD").stdout == ""
        assert colleague.run("git", "status", "--porcelain").stdout == ""
        third = Project(tmp_path / "third")
        assert colleague.run("git", "clone", "-q", ".", str(third.root)).returncode == 0
        pulled = third.run("dvc", "pull", **bucket.keys)
        assert pulled.returncode == 0, pulled.stderr
        assert "Next: nothing." in third.cli("status").stdout


@pytest.mark.endurance
@pytest.mark.soak
def test_a_driver_collects_what_a_worker_trained(done: tuple[Project, str], tmp_path: Path) -> None:
    start = Project(tmp_path / "start")
    assert done[0].run("git", "clone", "-q", ".", str(start.root)).returncode == 0
    first = start.run("git", "rev-list", "--max-parents=0", "HEAD").stdout.strip()
    assert start.run("git", "reset", "-q", "--hard", first).returncode == 0
    shown = run_all(start, DOCS / "how-to" / "workers-without-a-shared-disk.md")
    worker, driver = shown.split("$ wrn-pipe repro --pull\n")
    assert worker.count("Running stage 'train@") == 1
    assert "Running stage 'train@" not in driver
    assert driver.count("is cached - skipping run") == 4
    assert "Next: nothing." in driver
    assert (tmp_path / "driver" / "dvc.lock").read_text() == done[0].lock()


@pytest.mark.soak
@pytest.mark.parametrize(
    "page",
    ["one-row-on-a-gpu", "one-run-on-many-processes", "many-runs", "add-a-dataset", "add-a-network", "your-own-paper"],
)
def test_the_commands_of_a_page_work(done: tuple[Project, str], page: str, tmp_path: Path) -> None:
    copy = tmp_path / "project"
    shutil.copytree(done[0].root, copy, symlinks=True)
    assert run_all(Project(copy), DOCS / "how-to" / f"{page}.md")


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_the_commands_of_a_page_are_understood(page: Path) -> None:
    """Names and options only, in no time; that they work is for the soak tests above."""
    for line in commands(page):
        words = shlex.split(line)
        if words[0] == "wrn-pipe":
            context = get_command(app).make_context("wrn-pipe", words[1:])
            assert isinstance(context.command, TyperGroup)
            name, command, rest = context.command.resolve_command(context, words[1:])
            assert command is not None
            command.make_context(name, rest, parent=context)


def test_what_is_not_run_stands_on_a_page_and_every_page_is_run() -> None:
    assert set(NOT_RUN) <= {line for page in PAGES for line in commands(page)}
    how_to = {"share-results", "workers-without-a-shared-disk", "one-row-on-a-gpu", "add-a-dataset", "add-a-network"}
    run = {"tutorial", "your-own-paper", "one-run-on-many-processes", "many-runs", *how_to}
    assert {page.stem for page in PAGES if commands(page)} == run


@pytest.mark.parametrize("name", reference.pages())
def test_a_page_made_from_the_code_is_current(name: str) -> None:
    written = (ROOT / reference.FOLDER / name).read_text(encoding="utf-8")
    assert written == reference.pages()[name], "run: make docs"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text(encoding="utf-8")):
        place, anchor = target
        if place.startswith("http"):
            continue
        to = (page.parent / place).resolve() if place else page
        assert to.exists(), f"{page.name}: {place}"
        if anchor:
            headings = re.findall(r"^#+ (.*)", to.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, anchor


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached and page.suffix == ".md":
            reached.add(page)
            links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
            waiting += [(page.parent / link).resolve() for link in links if not link.startswith("http")]
    assert set(PAGES) <= reached


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_yaml_on_a_page_is_valid(page: Path) -> None:
    for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
        for section, entries in YAML(typ="safe", pure=True).load(block).items():
            TypeAdapter(Plan.model_fields[section].annotation).validate_python(entries)
