"""Evidence: what is added is checked, counts whatever the code is now, and is named when somebody has changed it."""

import shutil
from collections.abc import Callable, Iterable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evidence.conftest import contents, edited, other_weights, packed
from project import RUN, Project
from ruamel.yaml import YAML
from typer.testing import CliRunner

from pipeline.artifacts import read_predictions, runs_in_evidence
from pipeline.cli.main import app
from pipeline.comparison.results import load_results, planned_results
from pipeline.data.beton import sha256
from pipeline.errors import UserError
from pipeline.evidence.bundling import add_archive
from pipeline.evidence.recompute import evaluated
from pipeline.evidence.run_check import Finding, add, check, of_evidence, remove
from pipeline.runner.params_file import load

OWN = Path("evidence") / RUN


def wrong(findings: Iterable[Finding]) -> dict[str, str]:
    return {finding.path: finding.why for finding in findings if finding.state == "wrong"}


def checked() -> dict[str, str]:
    return wrong(check(of_evidence(RUN), load()))


@pytest.fixture
def evidence(copy: Project) -> Project:
    add(load(), RUN, weights=True)
    return copy


def test_what_is_added_counts_without_weights_data_and_plan(evidence: Project, tmp_path: Path) -> None:
    assert checked() == {}
    for name in ("metrics.json", "run.json", "digests.json"):
        assert (OWN / name).read_bytes() == Path("evaluations", RUN, name).read_bytes()
    full = read_predictions(Path("evaluations", RUN, "predictions.parquet"))
    slim = pq.read_table(OWN / "predictions.parquet").to_pydict()
    assert (slim["label"], slim["prediction"]) == (full.labels.tolist(), full.predicted.tolist())
    assert (OWN / "predictions.parquet").stat().st_size < 60_000
    (planned,) = planned_results(load(), Path())
    head = evidence.run("git", "rev-parse", "HEAD").stdout.strip()
    assert (planned.run, planned.commit, planned.origin) == (RUN, head, f"evidence of commit {head[:12]}")
    evidence.commit("evidence")
    clone = tmp_path / "clone"
    assert evidence.run("git", "clone", "-q", ".", str(clone)).returncode == 0
    with chdir(clone):
        shutil.rmtree("evaluations")
        (counted,) = load_results(Path())
        assert counted == planned
        verified = Project(clone).cli("evidence", "verify")
        params = (yaml := YAML()).load(Path("params.yaml"))
        params["runs"]["another"] = params["runs"].pop(RUN)
        yaml.dump(params, Path("params.yaml"))
        compared = CliRunner().invoke(app, ["compare", "--paper-table", "4"])
    assert (compared.exit_code, "Ignored" in compared.stdout) == (0, False), compared.output
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert f"files of code and environment are those of commit {head[:12]}" in verified.stdout
    assert " 0 wrong, " in verified.stdout


def test_weights_that_were_kept_are_evaluated_again(evidence: Project) -> None:
    ran = CliRunner().invoke(app, ["verify", RUN, "--deep"])
    assert ran.exit_code == 0, ran.output + repr(ran.exception)
    assert f"right      {OWN}/predictions.parquet  the weights give it again, to the same bits" in ran.stdout
    other_weights(OWN / "model.safetensors")
    assert evaluated(of_evidence(RUN), load()).state == "wrong"
    (OWN / "digests.json").write_text("[]")
    assert "digests.json cannot be read" in evaluated(of_evidence(RUN), load()).why
    (OWN / "model.safetensors").unlink()
    assert evaluated(of_evidence(RUN), load()).state == "unchecked"


def test_an_edit_of_the_code_leaves_evidence_as_it_was(evidence: Project) -> None:
    before = load_results(Path())
    with Path("pipeline/training/loop.py").open("a") as file:
        file.write("# a comment\n")
    assert checked() == {}
    assert load_results(Path()) == before
    shown = " ".join(CliRunner().invoke(app, ["show", RUN]).stdout.split())
    head = evidence.run("git", "rev-parse", "HEAD").stdout.strip()
    assert f"git checkout {head}" in shown
    assert f"wrn-pipe repro {RUN}" in shown
    assert "evidence/ has 1 finished run, which counts as well" in CliRunner().invoke(app, ["status"]).stdout


def other_class(path: Path, right_ones: bool) -> None:
    """One prediction is another class: of an image that was right, or of one that stays wrong."""
    columns = pq.read_table(path).to_pydict()
    labels, predicted = columns["label"], columns["prediction"]
    at = next(i for i in range(len(labels)) if (labels[i] == predicted[i]) is right_ones)
    predicted[at] = next(k for k in range(10) if k not in (labels[at], predicted[at]))
    pq.write_table(pa.table(columns, schema=pq.read_schema(path)), path, compression="zstd")


def hand_in_hand(name: str, change: Callable[[Any], None]) -> None:
    """Change a record and, so that it is not noticed, the sha256 that vouches for it."""
    edited(OWN / name, change)
    place = f"evaluations/{RUN}/{name}"
    edited(OWN / "digests.json", lambda told: told["files"].update({place: sha256(OWN / name)}))


SPOILT: list[tuple[str, Callable[[], object]]] = [
    ("predictions.parquet", lambda: other_class(OWN / "predictions.parquet", True)),
    ("predictions.parquet", lambda: other_class(OWN / "predictions.parquet", False)),
    ("metrics.json", lambda: edited(OWN / "metrics.json", errors=1)),
    ("metrics.json", lambda: hand_in_hand("metrics.json", lambda m: m.update(errors=1))),
    ("run.json", lambda: hand_in_hand("run.json", lambda r: r.update(seed=7))),
    ("run.json", lambda: hand_in_hand("run.json", lambda r: r["protocol"].update(label_smoothing=0.2))),
    ("origin.json", lambda: edited(OWN / "origin.json", lambda o: o["settings"]["run"].update(seed=7))),
    ("digests.json", lambda: edited(OWN / "digests.json", lambda d: d["data"].update(train="0" * 64))),
    ("history.csv", lambda: shutil.copy(OWN / "metrics.json", OWN / "history.csv")),
    ("model.safetensors", lambda: (OWN / "model.safetensors").write_bytes(b"other")),
    ("run.json", lambda: (OWN / "run.json").write_text("{")),
]


def test_what_was_changed_is_named(evidence: Project) -> None:
    shutil.copytree(OWN, "kept")
    for named, spoil in SPOILT:
        spoil()
        assert str(OWN / named) in checked(), checked()
        shutil.copytree("kept", OWN, dirs_exist_ok=True)
    spoil()
    assert CliRunner().invoke(app, ["evidence", "verify"]).exit_code == 1
    (OWN / "origin.json").write_text("{")
    ran = CliRunner().invoke(app, ["evidence", "verify"])
    assert (ran.exit_code, f"wrong      {OWN}/origin.json" in ran.stdout) == (1, True), ran.output


def test_labels_are_compared_with_other_evidence_where_the_data_is_not(evidence: Project) -> None:
    theirs = shutil.copytree(OWN, OWN.with_name("theirs")) / "predictions.parquet"
    shutil.rmtree("data/beton")
    predictions = str(OWN / "predictions.parquet")
    assert predictions not in checked()
    columns = pq.read_table(theirs).to_pydict()
    columns["label"][3] = (columns["label"][3] + 1) % 10
    pq.write_table(pa.table(columns, schema=pq.read_schema(theirs)), theirs, compression="zstd")
    assert "not those of evidence/theirs: first at image 3" in checked()[predictions]


def test_another_commit_than_that_of_the_code_is_named(evidence: Project) -> None:
    with Path("pipeline/training/loop.py").open("a") as file:
        file.write("# another\n")
    evidence.commit("another")
    head = evidence.run("git", "rev-parse", "HEAD").stdout.strip()
    edited(OWN / "origin.json", commit=head)
    assert "pipeline/training/loop.py" in checked()[str(OWN / "origin.json")]
    edited(OWN / "origin.json", commit="0" * 40)
    unchecked = [f.why for f in check(of_evidence(RUN), load()) if f.state == "unchecked"]
    assert any("is not in this repository" in why for why in unchecked)


def test_what_can_not_be_evidence_is_refused(copy: Project) -> None:
    with Path("pipeline/training/loop.py").open("a") as file:
        file.write("# edited\n")
    with pytest.raises(UserError, match="edits that are not committed"):
        add(load(), RUN, weights=False)
    copy.commit("edited")
    with pytest.raises(UserError, match="does not follow"):  # trained by the code of before
        add(load(), RUN, weights=False)
    with pytest.raises(UserError, match="no run"):
        add(load(), "another", weights=False)
    assert runs_in_evidence() == []


def test_it_is_added_once_and_removed_by_name(evidence: Project) -> None:
    shutil.copytree(OWN, OWN.with_name("another-name"))
    named = wrong(check(of_evidence("another-name"), load()))
    assert "which is evidence already" in named["evidence/another-name"]
    remove("another-name")
    with pytest.raises(UserError, match="is there already"):
        add(load(), RUN, weights=False)
    with pytest.raises(UserError, match="no evidence of 'another'"):
        remove("another")
    remove(RUN)
    assert runs_in_evidence() == []


def test_an_archive_from_elsewhere_is_taken_unless_it_was_changed(copy: Project, archive: Path, tmp_path: Path) -> None:
    """Without the run's own weights and data here, and into a repository whose code has changed since."""
    with Path("pipeline/training/loop.py").open("a") as file:
        file.write("# newer\n")
    copy.commit("newer")
    for folder in ("models", "evaluations", "data"):
        shutil.rmtree(folder)
    for change, why in (
        ({f"evaluations/{RUN}/metrics.json": b"{}"}, "sha256"),
        ({"../evil.txt": b"x"}, r"evil\.txt"),
        ({"ro-crate-metadata.json": b""}, "does not describe"),
    ):
        with pytest.raises(UserError, match=why):
            add_archive(packed(tmp_path / "spoilt.zip", contents(archive) | change), [], load(), weights=False)
    with pytest.raises(UserError, match="no finished run another"):
        add_archive(archive, ["another"], load(), weights=True)
    assert runs_in_evidence() == []
    assert list(add_archive(archive, [], load(), weights=True)) == [RUN]
    assert checked() == {}
