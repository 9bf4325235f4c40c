"""README and docs/: commands run in a small real repository, links lead somewhere, what code makes is current."""

import csv
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from project import AUTHOR, ROOT, Project, clone, copy_repository, told
from pydantic import TypeAdapter
from ruamel.yaml import YAML
from s3_server import NO_OTHER_CREDENTIALS, s3_server
from safetensors.torch import save_file
from typer.core import TyperGroup
from typer.main import get_command

from pipeline.cli import reference
from pipeline.cli.main import app
from pipeline.models.resnet import build
from pipeline.params import Plan

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
README = (ROOT / "README.md").read_text(encoding="utf-8")
NOT_RUN = {
    "make setup": "fetches a gigabyte of packages; CI runs it",
    "source .venv/bin/activate": "the environment that runs the tests takes its place",
    "wrn-pipe repro --slurm --partition gpu --gpus 1 --cpus 4 --time 8h --max-jobs 20": "tests/runner/test_slurm.py",
    "dvc exp run -S protocols.quick.epochs=2": "trains again; tests/test_pipeline.py trains by dvc",
    "wrn-pipe ui": "serves until Ctrl-C; tests/cli/test_ui.py runs it",
    "wrn-pipe bench train --json": "minutes; tests/benchmarks/test_benchmarks.py runs it on a small network",
    "python benchmarks/first_gpu_day.py scratch/first-gpu-day": "needs a GPU; tests/gpu runs it on the stand-in",
    "wrn-pipe estimate": "probes WRN-16-8 for half a minute; tests/benchmarks/test_benchmarks.py runs it",
    "wrn-pipe repro 'cifar10-wrn-16-8-paper-zca-s*'": "5 trainings of 200 epochs, on a GPU",
}
"""Commands of the pages that are not run, and why."""


def commands(page: Path) -> list[str]:
    """What a reader types; of the README, whose blocks show output as well, what is ours or make's."""
    ours, text = page.name == "README.md", page.read_text(encoding="utf-8")
    blocks = [block for block in text.split("```")[1::2] if block.startswith("\n" if ours else "sh\n")]
    lines = [line for block in blocks for line in block.splitlines()[1:] if line]
    return [line for line in lines if line.startswith(("wrn-pipe ", "make "))] if ours else lines


def run_all(project: Project, page: Path, instead: Mapping[str, str] | None = None) -> str:
    """Run the page's commands in order, with `instead` of names that stand for the reader's own; what they printed."""
    shown = ""
    variables = {**NO_OTHER_CREDENTIALS, **AUTHOR}
    for line in commands(page):
        if line in NOT_RUN:
            continue
        for name, own in (instead or {}).items():
            line = line.replace(name, own)
        if line.startswith("cd "):
            project = Project((project.root / line.removeprefix("cd ")).resolve())
            continue
        words = shlex.split(line)
        is_ours = words[0] == "wrn-pipe"  # of this checkout, not of the environment's installation
        ran = project.cli(*words[1:], **variables) if is_ours else project.run("bash", "-c", line, **variables)
        assert ran.returncode == 0, f"{page.name}: {line}\n{ran.stdout}{ran.stderr}"
        shown += f"$ {line}\n{ran.stdout}"
    return shown


@pytest.fixture(scope="module")
def done(tiny_entry: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """This repository after the tutorial, and what that printed: with its own plan, but a few hundred images in place
    of CIFAR-10 and two epochs of 8 steps."""
    project = copy_repository(tmp_path_factory.mktemp("docs") / "project", "params.yaml")

    def smaller(params: Any) -> None:
        params["datasets"]["cifar10"] = tiny_entry
        params["protocols"]["quick"].update(epochs=2, batch_size=32)
        params["loading"]["backend"] = "numpy"  # importing FFCV takes seconds, twice

    project.edit(smaller)
    project.commit("start")
    shown = run_all(project, DOCS / "tutorial.md")
    project.commit("results")
    return project, shown


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
        third = clone(colleague, tmp_path / "third")
        told(third.run("dvc", "pull", **bucket.keys))
        assert "Next: nothing." in told(third.cli("status"))


@pytest.mark.endurance
@pytest.mark.soak
def test_a_driver_collects_what_a_worker_trained(done: tuple[Project, str], tmp_path: Path) -> None:
    start = clone(done[0], tmp_path / "start")
    told(
        start.run("git", "reset", "-q", "--hard", told(start.run("git", "rev-list", "--max-parents=0", "HEAD")).strip())
    )
    shown = run_all(start, DOCS / "how-to" / "workers-without-a-shared-disk.md")
    worker, driver = shown.split("$ wrn-pipe repro --pull\n")
    assert worker.count("Running stage 'train@") == 1
    assert "Running stage 'train@" not in driver
    assert driver.count("is cached - skipping run") == 4
    assert "Next: nothing." in driver
    assert (tmp_path / "driver" / "dvc.lock").read_text() == done[0].lock()


WITH_COMMANDS = [page for page in (*PAGES, ROOT / "README.md", CONTRIBUTING) if commands(page)]
OTHERS = ("README", "tutorial", "share-results", "workers-without-a-shared-disk")


@pytest.mark.soak
@pytest.mark.parametrize("page", [p for p in WITH_COMMANDS if p.stem not in OTHERS], ids=lambda p: p.stem)
def test_the_commands_of_a_page_work(done: tuple[Project, str], page: Path, tmp_path: Path) -> None:
    copy = tmp_path / "project"
    shutil.copytree(done[0].root, copy, symlinks=True)
    assert run_all(Project(copy), page)


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.stem)
def test_the_commands_of_a_page_are_understood(page: Path) -> None:
    """Names and options only, in no time; that they work is for the soak tests above."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in commands(page):
        words = shlex.split(line, comments=True)
        if words[0] == "wrn-pipe":
            context = get_command(app).make_context("wrn-pipe", words[1:])
            assert isinstance(context.command, TyperGroup)
            name, command, rest = context.command.resolve_command(context, words[1:])
            assert command is not None
            command.make_context(name, rest, parent=context)
        elif words[0] == "make":
            assert f"\n{words[1]}: " in makefile, line


def test_what_is_not_run_stands_on_a_page() -> None:
    assert set(NOT_RUN) <= {line for page in PAGES for line in commands(page)}


@pytest.mark.parametrize("name", reference.pages())
def test_a_page_made_from_the_code_is_current(name: str) -> None:
    written = (ROOT / reference.FOLDER / name).read_text(encoding="utf-8")
    assert written == reference.pages()[name], "run: make docs"


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "README.md", CONTRIBUTING], ids=lambda page: page.relative_to(ROOT).as_posix()
)
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


def test_the_folders_of_the_table_exist() -> None:
    made = {"data/", "models/", "evaluations/", "results/", "tracking/", "scratch/"}
    for row in re.findall(r"^\| (`.*?`) \|", README, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", row):
            assert name in made or (ROOT / name).exists(), name


def test_the_python_of_the_readme_loads_published_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block as it stands, beside weights as the train stage writes them, gives the network that was trained."""
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert "mlflow" not in code
    trained = build("WRN-40-1", 10, conv_init="fan_out", bn_init="uniform", seed=5)
    trained(torch.randn(2, 3, 32, 32))  # moves the running statistics
    (tmp_path / "models" / "cifar10-wrn-40-1-quick-s1").mkdir(parents=True)
    save_file(trained.state_dict(), tmp_path / "models" / "cifar10-wrn-40-1-quick-s1" / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    names: dict[str, torch.nn.Module] = {}
    exec(code, names)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(names["model"](images), trained.eval()(images))


def test_the_readme_opens_with_what_the_comparison_prints_in_a_fresh_clone(tmp_path: Path) -> None:
    """Not here, where `make reproduce` may have written what another processor computes."""
    shown = README.split("```\n")[1].removesuffix("...\n")
    assert "(n=" in shown
    fresh = clone(Project(ROOT), tmp_path / "clone")
    assert told(fresh.cli("compare", "--paper-table", "4", COLUMNS="100")).startswith(shown)


@pytest.mark.soak
def test_tests_pass_where_another_processor_has_rewritten_the_results(tmp_path: Path) -> None:
    """`make reproduce`, then `make test`, of which these look at files that the former rewrites."""
    project = clone(Project(ROOT), tmp_path / "clone")  # as it was committed: this checkout's may be rewritten already
    runs, lock = project.root / "results" / "runs.csv", project.root / "dvc.lock"
    (row,) = csv.DictReader(runs.read_text().splitlines())
    other = f"{float(row['top1_error']) + 1:.2f}"
    for path in (project.root / "results").iterdir():
        if path.is_file():
            path.write_text(path.read_text().replace(row["top1_error"], other))
    assert other in runs.read_text()
    lock.write_text(lock.read_text().replace("md5: a", "md5: b"))
    files = ("tests/test_dag.py", "tests/test_docs.py", "tests/cli/test_broken_files.py")
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not soak", *files)
    assert " passed" in told(project.run(*command))
