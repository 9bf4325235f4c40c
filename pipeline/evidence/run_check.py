"""The checks of a finished run's record, be it of the plan, in evidence/, or about to be taken into it; and taking it.

Each file is compared with what vouches for it, or computed again from what it should follow from. Whether the training
took place as the record says, nothing here can tell: git and whoever committed it vouch for that.
"""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline import artifacts
from pipeline.artifacts import Digests, Origin, RunRecord
from pipeline.atomic_write import new_folder
from pipeline.data.beton import Ints, content, inspect, open_card, sha256
from pipeline.data.sampler import held_out
from pipeline.dataset_config import SPLITS
from pipeline.errors import UserError
from pipeline.models.names import parameters, parse
from pipeline.params import PARAMS, Plan
from pipeline.provenance import inputs, need_commit
from pipeline.tasks.classification import metrics

State = Literal["right", "wrong", "unchecked"]


@dataclass(frozen=True)
class Finding:
    """One line of `wrn-pipe verify`: what looking at a file, or at a few that belong together, has shown."""

    path: str
    """Below the repository's root; dvc.lock with its stage for what is wrong in an entry of it."""
    state: State
    """unchecked: what it would be compared with, or it itself, is not here."""
    why: str
    fix: str = ""
    """The command that helps, in a checkout."""


def right(path: Path | str, why: str) -> Finding:
    return Finding(str(path), "right", why)


def wrong(path: Path | str, why: str, fix: str = "") -> Finding:
    return Finding(str(path), "wrong", why, fix)


def unchecked(path: Path | str, why: str, fix: str = "") -> Finding:
    return Finding(str(path), "unchecked", why, fix)


@dataclass(frozen=True)
class FinishedRun:
    """Where a run's files lie, and what they must agree with."""

    id: str
    trained: Path
    """Folder of the weights, history.csv and run.json."""
    evaluated: Path
    """Folder of the predictions, metrics.json, digests.json and run.json; of evidence it is the same."""
    origin: Origin
    """As in evidence/; without a commit where the code here made it, without a digest of predictions that are whole."""
    said_by: Path
    """params.yaml, or the origin.json that says so."""

    @property
    def weights(self) -> Path:
        return self.trained / artifacts.WEIGHTS

    @property
    def predictions(self) -> Path:
        return self.evaluated / artifacts.PREDICTIONS

    @property
    def data(self) -> Path:
        run = self.origin.settings["run"]
        return artifacts.BETON / f"{run['dataset']}-{run['representation']}"

    @property
    def holdout(self) -> int:
        """How many training images it is evaluated on; 0: on the test split."""
        return int(self.origin.settings["protocol"].get("holdout", 0))


def of_plan(plan: Plan, run_id: str, head: str = "") -> FinishedRun:
    settings, its_content = inputs(plan, run_id)
    origin = Origin(commit=head, settings=settings, content=its_content, predictions="")
    return FinishedRun(run_id, artifacts.MODELS / run_id, artifacts.EVALUATIONS / run_id, origin, PARAMS)


def of_evidence(run_id: str) -> FinishedRun:
    """Raises UserError for a broken origin.json."""
    folder = artifacts.EVIDENCE / run_id
    return FinishedRun(run_id, folder, folder, Origin.read(folder / artifacts.ORIGIN), folder / artifacts.ORIGIN)


def check(run: FinishedRun, plan: Plan) -> Iterator[Finding]:
    """What the files of a run show, with the datasets of `plan` and the data here."""
    record = run.evaluated / artifacts.RECORD
    looks = [(run.evaluated / artifacts.METRICS, _metrics), (record, _record)]
    looks += [(run.trained / artifacts.HISTORY, _history), (run.evaluated / artifacts.DIGESTS, _digests)]
    trained = run.trained / artifacts.RECORD
    looks += [(record, _code), (record, _only_once)] if run.origin.commit else [(trained, _record)]
    for path, look in looks:
        try:
            if path.is_file():
                yield from look(run, plan, path)
            else:
                yield _absent(run, path, "not here")
        except UserError as error:
            yield wrong(path, error.what)
        except (OSError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            yield wrong(path, f"cannot be checked, it or what belongs to it is broken: {error!r}")


def _absent(run: FinishedRun, path: Path, why: str) -> Finding:
    """Of the plan a run may be half made, or its large files elsewhere; evidence is whole."""
    return wrong(path, why) if run.origin.commit else unchecked(path, why)


def _metrics(run: FinishedRun, plan: Plan, path: Path) -> Iterator[Finding]:
    predictions, its = run.predictions, run.origin.settings["run"]
    if not predictions.is_file():
        yield _absent(run, path, "the predictions that it should follow from are not here")
        return
    if run.origin.predictions:
        slim = artifacts.read_slim(predictions)
        labels, again = slim["label"], _errors(slim)
    else:
        labels, predicted, probabilities = full = artifacts.read_predictions(predictions)
        again = metrics(*full)
        valid = np.allclose(probabilities.sum(1), 1) and (probabilities >= 0).all()
        if not valid or not np.array_equal(predicted, probabilities.argmax(1)):
            why = "its predictions are not the most probable classes, or its probabilities not valid"
            yield wrong(predictions, why)
    about = {"run": run.id, "dataset": its["dataset"], "network": its["network"]}
    about["split"] = "held-out" if run.holdout else "test"
    told = artifacts.read_record(path)
    if unlike := [f"{key} {value}" for key, value in (about | again).items() if told.get(key) != value]:
        yield wrong(path, f"{predictions.name} and {run.said_by} give {', '.join(unlike)}")
    else:
        yield right(path, f"follows from the {len(labels)} predictions in {predictions.name}")
    yield _labels(run, predictions, labels)


def _errors(slim: dict[str, Ints]) -> dict[str, float]:
    """The metrics that slim predictions give, as metrics.json names and rounds them."""
    labels, n = slim["label"], len(slim["label"])
    wrongs = int((labels != slim["prediction"]).sum())
    found: dict[str, float] = {"n": n, "errors": wrongs, "top1_error": round(100 * wrongs / n, 6)}
    if top := [column for name, column in slim.items() if name.startswith("top_")]:
        missed = int(np.all([labels != column for column in (slim["prediction"], *top)], axis=0).sum())
        found["top5_error"] = round(100 * missed / n, 6)
    return found


def _labels(run: FinishedRun, path: Path, labels: Ints) -> Finding:
    """Against those of the data or, where that is not here, of other evidence on the same images."""
    known, of = None, run.data / ("train.beton" if run.holdout else "test.beton")
    if of.is_file():
        known = inspect(of).labels
        known = known[held_out(len(known), run.holdout)] if run.holdout else known
    elif run.origin.commit:
        for other in map(of_evidence, artifacts.runs_in_evidence()):
            same = other.origin.settings["run"]["dataset"] == run.origin.settings["run"]["dataset"]
            if other.id != run.id and same and other.holdout == run.holdout:
                known, of = artifacts.read_slim(other.predictions)["label"], other.evaluated
                break
    if known is None:
        return unchecked(path, f"{of}, whose labels it should have, is not here")
    if np.array_equal(labels, known):
        return right(path, f"has the labels of {of}, in its order")
    at = "another number of them" if len(labels) != len(known) else f"first at image {(labels != known).argmax()}"
    return wrong(path, f"its labels are not those of {of}: {at}")


def _record(run: FinishedRun, plan: Plan, path: Path) -> Iterator[Finding]:
    """run.json against the settings, and its fingerprint against settings and content."""
    settings = run.origin.settings
    its, protocol = settings["run"], settings["protocol"]
    expected = {"run": run.id, **its, "protocol_name": its["protocol"], "protocol": protocol}
    expected |= {"epochs": protocol["epochs"], "loader": settings["loading"]["backend"]}
    if dataset := plan.datasets.get(its["dataset"]):
        expected["parameters"] = parameters(parse(its["network"]), dataset.classes)
    record, found = artifacts.read_record(path), run.origin.fingerprint
    unlike = [key for key, value in expected.items() if record.get(key) != value]
    if unlike:
        yield wrong(path, f"{', '.join(unlike)}: not as {run.said_by} has it")
    if not run.origin.commit and f"{run.data}/card.json" not in run.origin.content:
        yield unchecked(path, "the data's card.json, which its fingerprint covers, is not here")
    elif record.get("fingerprint") != found:
        why = f"the fingerprint in {artifacts.RECORD} does not follow from settings, code and data, which give {found}"
        yield wrong(run.said_by if run.origin.predictions else path, why)
    elif not unlike:
        yield right(path, f"as {run.said_by} has it; fingerprint {found[:12]} follows from settings, code and data")


def _history(run: FinishedRun, plan: Plan, path: Path) -> Iterator[Finding]:
    epochs, found = run.origin.settings["protocol"]["epochs"], len(artifacts.read_history(path))
    if found == epochs:
        yield right(path, f"has the {epochs} epochs of its protocol, one a row")
    else:
        yield wrong(path, f"has {found} epochs, its protocol {epochs}")


def _digests(run: FinishedRun, plan: Plan, path: Path) -> Iterator[Finding]:
    """digests.json against the files that it vouches for, and against the data."""
    told, slim, alike = Digests.read(path), run.origin.predictions, 0
    files = {f"{artifacts.MODELS}/{run.id}/{name}": run.trained / name for name in artifacts.MODEL_FILES}
    files |= {f"{artifacts.EVALUATIONS}/{run.id}/{name}": run.evaluated / name for name in artifacts.EVALUATION_FILES}
    for name, file in files.items():
        digest = slim if slim and file == run.predictions else told.files.get(name)
        if not file.is_file():
            yield unchecked(file, f"not here; {path} has its sha256")
        elif (found := sha256(file)) != digest:
            yield wrong(file, f"sha256 {found[:12]}, where {path} has {str(digest)[:12]}")
        else:
            alike += 1
    if told.files.keys() != files.keys():
        yield wrong(path, "lists other files than those of a run")
    elif alike == len(files):
        yield right(path, f"has the sha256 of {alike} files")
    card, its = run.origin.content.get(f"{run.data}/card.json"), told.data["card"]
    if card and its != card:
        why = f"sha256 {card[:12]}, where {path} has {its[:12]}: evaluated on other data than it was trained on"
        yield wrong(path if slim else run.data / "card.json", why)
    yield _data(run, plan, path, told.data)


def _data(run: FinishedRun, plan: Plan, path: Path, told: dict[str, str]) -> Finding:
    """The digests of the data's content against the pinned ones, or those of the card that lies here."""
    its, pinned, where = run.origin.settings["run"], None, PARAMS
    if its["representation"] == "rgb" and (dataset := plan.datasets.get(its["dataset"])):
        pinned = dataset.digests
    if pinned is None:
        where = run.data
        if not (where / "card.json").is_file():
            return unchecked(path, f"{where}, whose digests it could be compared with, is not here")
        card = open_card(where)
        pinned = {split: content(card, split) for split in SPLITS}
    if all(told[split] == digest for split, digest in pinned.items()):
        return right(path, f"the data's digests are those in {where}")
    return wrong(path, f"the data's digests are not those in {where}: trained or evaluated on other data")


def _code(run: FinishedRun, plan: Plan, path: Path) -> Iterator[Finding]:
    """The code that the fingerprint covers against the commit that is said to have it."""
    head = run.origin.commit
    files = {name: digest for name, digest in run.origin.content.items() if not name.startswith("data/")}
    if _digest_at(head, "") is None:
        yield unchecked(run.said_by, f"commit {head[:12]}, whose code it is said to be, is not in this repository")
    elif unlike := next((name for name, digest in files.items() if _digest_at(head, name) != digest), None):
        yield wrong(run.said_by, f"commit {head[:12]} has another {unlike}")
    else:
        yield right(run.said_by, f"{len(files)} files of code and environment are those of commit {head[:12]}")


@lru_cache(maxsize=4096)
def _digest_at(head: str, path: str) -> str | None:
    """sha256 of a file as a commit has it; None where it, or the commit, is not there."""
    told = subprocess.run(["git", "show", f"{head}:{path}"], capture_output=True, check=False)
    return hashlib.sha256(told.stdout).hexdigest() if told.returncode == 0 else None


def _only_once(run: FinishedRun, plan: Plan, path: Path) -> Iterator[Finding]:
    fingerprint = RunRecord.read(path).fingerprint
    for other in artifacts.runs_in_evidence():
        if other != run.id and RunRecord.read(artifacts.EVIDENCE / other / artifacts.RECORD).fingerprint == fingerprint:
            yield wrong(artifacts.EVIDENCE / run.id, f"is the run {other}, which is evidence already")


def add(plan: Plan, run_id: str, weights: bool, weights_at: str | None = None) -> list[Finding]:
    """Take a finished run of this checkout into evidence/. Returns what was checked; raises as `take`."""
    head, dirty = need_commit()
    if dirty:
        raise UserError("this checkout has edits that are not committed", "git commit them: evidence names its commit")
    return take(of_plan(plan, run_id, head), plan, weights, weights_at)


def take(run: FinishedRun, plan: Plan, weights: bool, weights_at: str | None) -> list[Finding]:
    """Copy a run into evidence/ as evidence/README.md has it. Returns what was checked.

    Raises UserError for a run that is there already or that has something wrong; then nothing is written.
    """
    to = artifacts.EVIDENCE / run.id
    if to.exists():
        raise UserError(f"{to} is there already", f"to take it again: wrn-pipe evidence remove {run.id}")
    for path in (run.predictions, run.weights):
        if not path.is_file():
            raise UserError(f"{path} is not here", f"a run is taken whole: wrn-pipe repro {run.id}, or dvc pull")
    if weights and (size := run.weights.stat().st_size / 1e6) > 3:
        what = f"--weights: {size:.1f} MB of {run.id}, where git takes 3 at most"
        raise UserError(what, "leave it out; --weights-at URL notes where they are to be had")
    found = list(check(run, plan))
    if bad := [finding for finding in found if finding.state == "wrong"]:
        said = "; ".join(f"{Path(finding.path).name} {finding.why}" for finding in bad)
        raise UserError(f"{run.id} is not taken as evidence: {said}", "nothing was written")
    small = artifacts.RECORD, artifacts.METRICS, artifacts.DIGESTS
    copied = [run.trained / artifacts.HISTORY, *(run.evaluated / name for name in small)]
    with new_folder(to) as folder:
        for path in (*copied, *[run.weights] * weights):
            shutil.copy(path, folder)
        artifacts.write_slim(folder / artifacts.PREDICTIONS, run.predictions)
        slim = {"predictions": sha256(folder / artifacts.PREDICTIONS), "weights_at": weights_at}
        run.origin.model_copy(update=slim).write(folder / artifacts.ORIGIN)
    return found


def remove(run_id: str) -> None:
    """Raises UserError for a run that is not in evidence/."""
    if not (artifacts.EVIDENCE / run_id).is_dir():
        raise UserError(f"no evidence of {run_id!r}", "wrn-pipe evidence list")
    shutil.rmtree(artifacts.EVIDENCE / run_id)
