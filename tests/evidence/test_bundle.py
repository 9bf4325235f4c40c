"""wrn-pipe bundle, and the check of its archives: elsewhere, spoilt, and made to do harm."""

import json
import os
import re
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import chdir
from copy import copy as copy_of
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from evidence.conftest import contents, lock, packed, rerecord, run_stages
from project import ROOT, RUN, Project
from typer.testing import CliRunner

from pipeline.atomic_write import json_text
from pipeline.cli.main import app
from pipeline.cli.verify import run_stage
from pipeline.errors import UserError, WrnPipeError
from pipeline.evidence.bundling import DESCRIPTION, bundle, check, gathered, unpacked
from pipeline.publication.wide_resnet import PAPER
from pipeline.runner.params_file import load

REFERENCES = {"about", "citation", "conformsTo", "license"}
EVALUATION, MODEL = f"evaluations/{RUN}", f"models/{RUN}"


def wrong(archive: Path) -> set[str]:
    return {finding.path for finding in check(archive, run_stage) if finding.state == "wrong"}


def test_the_same_project_gives_the_same_bytes_with_all_that_somebody_needs(
    finished: Project, archive: Path, tmp_path: Path
) -> None:
    os.utime(finished.root / "params.yaml")
    with chdir(finished.root):
        bundle(PAPER, load(), tmp_path / "again.zip", run_stage)
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()
    assert str(finished.root).encode() not in archive.read_bytes()
    members = contents(archive)
    needed = {
        *("params.yaml", "dvc.yaml", "dvc.lock", "environment/requirements.lock", "LICENCES.md", DESCRIPTION),
        *("results/table-4.csv", "results/table-4.md", "results/runs.csv", "results/manifest.json"),
        *(f"{MODEL}/{name}" for name in ("model.safetensors", "history.csv", "run.json")),
        *(f"{EVALUATION}/{name}" for name in ("predictions.parquet", "metrics.json", "run.json", "digests.json")),
        *("data/beton/cifar10-tiny-rgb/card.json", "pipeline/training/loop.py", "stages/train.py"),
    }
    assert needed <= set(members)
    assert not [name for name in members if name.endswith((".beton", ".npy", ".pyc"))]
    assert members["dvc.lock"] == (finished.root / "dvc.lock").read_bytes()
    assert b"Learning Multiple Layers of Features" in members["LICENCES.md"]


def test_its_description_is_a_whole_ro_crate(archive: Path, finished: Project) -> None:
    members = contents(archive)
    crate = json.loads(members.pop(DESCRIPTION))
    entities: dict[str, Any] = {entity["@id"]: entity for entity in crate["@graph"]}
    assert len(entities) == len(crate["@graph"])
    assert crate["@context"][0] == "https://w3id.org/ro/crate/1.2/context"
    assert entities[DESCRIPTION]["about"] == {"@id": "./"}
    root = entities["./"]
    assert {"name", "description", "datePublished", "license"} <= set(root)
    assert {part["@id"] for part in root["hasPart"]} == set(members)
    for name, content in members.items():
        entity = entities[name]
        assert (entity["@type"], entity["contentSize"]) == ("File", str(len(content)))
        assert entity["sha256"] == sha256(content).hexdigest()
    head = finished.run("git", "rev-parse", "HEAD").stdout.strip()
    assert (root["version"], root["creativeWorkStatus"]) == (head, "clean")
    referred = [entity[key]["@id"] for entity in (entities[DESCRIPTION], root) for key in entity if key in REFERENCES]
    assert set(referred) <= {*entities, "https://w3id.org/ro/crate/1.2"}


def test_it_is_right_in_an_empty_folder(archive: Path, tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(ROOT), "http_proxy": "http://127.0.0.1:9", "PYTHONSAFEPATH": "1"}
    ran = Project(tmp_path).cli("verify", "--bundle", str(archive), **environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " 0 wrong, " in ran.stdout
    assert f"right      {EVALUATION}/metrics.json" in ran.stdout
    assert "right      results/table-4.csv  is what tabulate@4 makes" in ran.stdout
    assert "unchecked  data/raw/cifar10-tiny  not in the archive" in ran.stdout
    assert not re.search("dvc pull|wrn-pipe repro|git checkout", ran.stdout), "none of it fixes an archive"
    assert re.search(r"made at commit [0-9a-f]{40} \(clean\)\n", ran.stdout)
    assert not list(tmp_path.iterdir())


def described(members: dict[str, bytes]) -> dict[str, bytes]:
    """With a description that fits: what a forger would send."""
    crate = json.loads(members[DESCRIPTION])
    for entity in crate["@graph"]:
        if entity["@type"] == "File":
            content = members[entity["@id"]]
            entity.update(contentSize=str(len(content)), sha256=sha256(content).hexdigest())
    return members | {DESCRIPTION: json_text(crate).encode()}


def recorded(members: dict[str, bytes], folder: Path) -> dict[str, bytes]:
    """With a dvc.lock and a description that fit: what whoever made the archive has if its stages wrote the files."""
    for name, content in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with chdir(folder):
        lock(rerecord)
    return described(members | {"dvc.lock": (folder / "dvc.lock").read_bytes()})


def made_by_other_code(members: dict[str, bytes]) -> dict[str, bytes]:
    """The archive of a checkout whose page has another colour."""
    code, page = "pipeline/report/report.css", "results/report.html"
    colour = next(iter(re.findall(rb"#[0-9a-f]{6}\b", members[code])))
    assert colour in members[page]
    return members | {name: members[name].replace(colour, b"#123456") for name in (code, page)}


def test_what_other_code_made_is_not_called_wrong(finished: Project, archive: Path, tmp_path: Path) -> None:
    members = recorded(made_by_other_code(contents(archive)), tmp_path / "there")
    found = {each.path: each for each in check(packed(tmp_path / "x.zip", members), run_stage)}
    assert [each for each in found.values() if each.state == "wrong"] == []
    head = finished.run("git", "rev-parse", "HEAD").stdout.strip()
    assert found["results/report.html"].state == "unchecked"
    assert f"pipeline/report/report.css differs; git checkout {head} " in found["results/report.html"].why
    assert found["results/table-4.csv"].state == found["results/manifest.json"].state == "right"


def test_a_forged_description_does_not_help(archive: Path, tmp_path: Path) -> None:
    members = contents(archive)
    told = json.loads(members[f"{EVALUATION}/metrics.json"])
    told.update(errors=1, top1_error=round(100 / told["n"], 6))
    members[f"{EVALUATION}/metrics.json"] = (json.dumps(told, indent=2, sort_keys=True) + "\n").encode()
    named = wrong(packed(tmp_path / "x.zip", described(members)))
    assert {f"{EVALUATION}/metrics.json", "results/runs.csv", "results/manifest.json"} <= named
    assert DESCRIPTION not in named


def test_members_too_many_or_too_few_are_named(archive: Path, tmp_path: Path) -> None:
    members = contents(archive) | {"more.txt": b"more"}
    del members["LICENCES.md"]
    named = wrong(packed(tmp_path / "x.zip", members))
    assert named == {"more.txt", "LICENCES.md"}
    assert wrong(packed(tmp_path / "x.zip", contents(archive) | {DESCRIPTION: b"{}"})) == {DESCRIPTION}
    del members["dvc.lock"]
    assert "dvc.lock" in wrong(packed(tmp_path / "x.zip", members))


def test_no_command_of_an_archive_is_run_and_no_file_outside_is_read(archive: Path, tmp_path: Path) -> None:
    """Its dvc.yaml may name any; only stages that turn files into tables are run, and those of the installed code."""

    def harmful(inside: bytes, other: bytes) -> set[str]:
        members = contents(archive)
        assert inside in members["dvc.yaml"]
        members["dvc.yaml"] = members["dvc.yaml"].replace(inside, other, 1)
        return wrong(packed(tmp_path / "x.zip", described(members)))

    for command in (b"python -m stages.download cifar10-tiny", b"touch harm"):
        assert "results/runs.csv" in harmful(b"python -m stages.summarize", command)
    for inside, outside in ((b"- results/runs.csv", b"- ../results/runs.csv"), (b"- evaluations\n", b"- /etc\n")):
        with pytest.raises(UserError, match="outside the repository"):
            harmful(inside, outside)


def test_what_is_wrong_is_not_bundled(copy: Project, tmp_path: Path) -> None:
    weights = Path(MODEL, "model.safetensors")
    weights.rename("weights")
    with pytest.raises(WrnPipeError, match=r"model\.safetensors") as refusal:
        bundle(PAPER, load(), tmp_path / "x.zip", run_stage)
    assert refusal.value.what == f"{weights}: not here"
    assert refusal.value.remedy == f"wrn-pipe repro train@{RUN}"
    Path("weights").rename(weights)
    table = Path("results/table-4.csv")
    table.write_text(table.read_text().replace("6.85", "6.84"))
    with pytest.raises(WrnPipeError, match=r"table-4\.csv"):
        bundle(PAPER, load(), tmp_path / "x.zip", run_stage)
    assert not list(tmp_path.glob("*.zip*"))


def test_it_says_what_it_is_made_of_and_replaces_only_its_like(copy: Project) -> None:
    Path("notes.txt").write_text("notes")
    packed(Path("other.zip"), {"a": b"a"})
    Path("link.zip").symlink_to("params.yaml")
    before = {path: path.read_bytes() for path in copy.root.rglob("*") if path.is_file()}
    kept = "params.yaml notes.txt other.zip link.zip results evaluations/x.zip pipeline/report/x.zip"
    for name in kept.split():
        refusal = CliRunner().invoke(app, ["bundle", "--to", name]).exception
        assert isinstance(refusal, UserError), name
        assert refusal.what.startswith(f"--to {name} is ")
        assert "another" in refusal.remedy
    assert {path: path.read_bytes() for path in copy.root.rglob("*") if path.is_file()} == before

    head = copy.run("git", "rev-parse", "HEAD").stdout.strip()
    assert f"\nMade at commit {head} (clean).\n" in CliRunner().invoke(app, ["bundle"], catch_exceptions=False).stdout
    Path(".gitignore").write_text(Path(".gitignore").read_text() + "# edited\n")
    told = json.loads(CliRunner().invoke(app, ["bundle", "--json"], catch_exceptions=False).stdout)
    assert (told["archive"], told["commit"], told["dirty"]) == ("wrn-pipe.zip", head, True)
    assert told["sha256"] == sha256(Path("wrn-pipe.zip").read_bytes()).hexdigest()
    assert "wrn-pipe.zip" not in copy.run("git", "status", "--porcelain").stdout
    (described,) = (f for f in check(Path("wrn-pipe.zip"), run_stage) if f.path == DESCRIPTION and "made at" in f.why)
    assert described.why.endswith(f"made at commit {head} (with edits that are not committed)")


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"0" * 10_000)


def overlapping(path: Path) -> None:
    """Many names for one large member: as ZIP bombs do that need no compression."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"0" * 10_000)
        for k in range(20):
            alias = copy_of(archive.filelist[0])
            alias.filename = alias.orig_filename = f"a{k}"
            archive.filelist.append(alias)


HOSTILE: dict[str, Callable[[Path], object]] = {
    "a file as folder": lambda path: packed(path, {"a": b"0", "a/b": b"0"}),
    "a damaged member": lambda path: packed(path, {"a": b"0" * 99}).write_bytes(
        path.read_bytes().replace(b"00", b"01")
    ),
    "a bomb": bomb,
    "overlapping": overlapping,
    "other bytes": lambda path: path.write_text("hello"),
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x.zip"
    HOSTILE[what](path)
    with pytest.raises(UserError) as refusal, unpacked(path):
        pass
    assert f"{path} cannot be unpacked" in refusal.value.what
    assert refusal.value.remedy


@pytest.mark.parametrize("name", ["../harm", "a/../../harm", "/harm", "a/../harm", "./harm"])
def test_no_member_is_written_outside_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = packed(tmp_path / "x.zip", {name: b"0"})
    with unpacked(path) as (written,):
        assert {file for file in tmp_path.rglob("*") if file.is_file()} == {path, Path(written).resolve()}
    assert list(tmp_path.iterdir()) == [path]


def test_chosen_runs_are_compared_and_verified_without_the_others(
    copy: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run is trained and one is not chosen: its weights and predictions may be away, as in a clone."""
    other = RUN[:-1] + "2"
    copy.edit(lambda params: params["runs"].update({other: {**params["runs"][RUN], "seed": 2}}))
    run_stages(copy.root, monkeypatch, lambda stage: stage.key == other or stage.in_git)
    copy.commit("two runs")
    Path("models", other, "model.safetensors").unlink()
    ran = CliRunner().invoke(app, ["bundle", "--run", RUN, "--to", str(tmp_path / "one.zip")])
    assert ran.exit_code == 0, repr(ran.exception)
    members = contents(tmp_path / "one.zip")
    assert f"{MODEL}/model.safetensors" in members
    assert f"evaluations/{other}/metrics.json" in members
    assert not {f"models/{other}/model.safetensors", f"evaluations/{other}/predictions.parquet"} & set(members)
    found = {(each.path, each.state) for each in check(tmp_path / "one.zip", run_stage)}
    assert not [path for path, state in found if state == "wrong"]
    assert ("results/table-4.csv", "right") in found
    for name in ("predictions.parquet", "metrics.json"):  # so both runs are looked at
        assert (f"evaluations/{other}/{name}", "unchecked") in found
    plan, results = gathered(load(), [tmp_path / "one.zip"])
    assert [result.run for result in results] == list(plan.runs) == [RUN]
    with pytest.raises(WrnPipeError, match=rf"{other}/model\.safetensors: not here"):
        bundle(PAPER, load(), tmp_path / "all.zip", run_stage)
