"""evidence/<run>/: finished runs that count in every comparison, whoever trained them and whatever the code is now.

run.json, history.csv, metrics.json and digests.json are the run's own files, to the byte, so digests.json vouches for
the other three. predictions.parquet is slim: index, label, prediction. origin.json holds what the run's fingerprint is
the hash of, and the commit that has this code. Weights may lie beside them.
What is computed again here can be trusted by whoever runs it. That the training took place as the record says, only git
and whoever committed it vouch for.
"""

import io
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import chdir
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.artifacts import (
    BETON,
    DIGESTS,
    EVALUATIONS,
    EVIDENCE,
    HISTORY,
    METRICS,
    MODELS,
    ORIGIN,
    PREDICTIONS,
    RECORD,
    WEIGHTS,
    Digests,
    Evaluation,
    Origin,
    RunRecord,
    read_history,
    read_predictions,
    read_record,
    read_slim,
    write_slim,
)
from pipeline.atomic_write import new_folder
from pipeline.data.beton import content, open_card
from pipeline.data.beton import sha256 as digest_of
from pipeline.dataset_config import SPLITS
from pipeline.errors import UserError
from pipeline.evidence import archive, bundling
from pipeline.evidence.findings import Finding, right, unchecked, wrong
from pipeline.params import PARAMS, Plan, read_text, yaml_mapping
from pipeline.provenance import commit, dependencies, digests_of, inputs

LARGEST_WEIGHTS = 3_000_000
"""Bytes of weights that may be committed."""
_COPIED = {RECORD: EVALUATIONS, METRICS: EVALUATIONS, DIGESTS: EVALUATIONS, HISTORY: MODELS}
"""Files that are the run's own, and the folder that a run of the plan has them in."""


class Source(NamedTuple):
    """Where a run is taken from: a checkout or an unpacked archive, the commit of its code, and an address of its
    weights, if they have one."""

    root: Path
    commit: str
    weights_at: str | None


def runs_here() -> list[str]:
    """The runs in evidence/, by id."""
    return sorted(path.parent.name for path in EVIDENCE.glob(f"[!.]*/{ORIGIN}"))


def add(plan: Plan, run_id: str, weights: bool, weights_at: str | None = None) -> list[Finding]:
    """Take a finished run of this checkout into evidence/. Returns what was checked; raises as `_add`."""
    plan.run(run_id)
    head, dirty = commit()
    if dirty:
        raise UserError("this checkout has edits that are not committed", "git commit them: evidence names its commit")
    settings, content = inputs(plan, run_id)
    return _add(Source(Path.cwd(), head, weights_at), run_id, settings, content, plan, weights)


def add_archive(
    path: Path, chosen: Sequence[str], plan: Plan, weights: bool, weights_at: str | None = None
) -> dict[str, list[Finding]]:
    """Take the finished runs of an archive of `wrn-pipe bundle`, or the `chosen` of them, into evidence/.

    Returns what was checked of each; raises as `_add`, and for an archive that does not match its own description.
    """
    here, added = Path.cwd(), {}
    with bundling.unpacked(path) as members:
        root, again = Path.cwd(), "get the archive again from whoever made it"
        try:
            told, made = archive.read_description(Path(archive.DESCRIPTION).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: {archive.DESCRIPTION} does not describe it: {error}", again) from None
        for finding in bundling.described(told, made, members):
            if finding.state == "wrong":
                raise UserError(f"{path}: {finding.path} {finding.why}", again)
        if made.dirty:
            raise UserError(f"{path} was made of code that nobody committed", "commit it there, and bundle again")
        raw = yaml_mapping(read_text(PARAMS, again), PARAMS, again)
        if not {"runs", "loading", "device", "kernels"} <= raw.keys():
            raise UserError(f"{path}: its {PARAMS} is incomplete", again)
        finished = [run_id for run_id in raw["runs"] if f"{EVALUATIONS}/{run_id}/{PREDICTIONS}" in members]
        if absent := set(chosen) - set(finished):
            raise UserError(f"{path} has no finished run {sorted(absent)[0]}", f"it has: {', '.join(finished)}")
        for run_id in chosen or finished:
            record = read_record(EVALUATIONS / run_id / RECORD, None, "protocol")
            settings = {key: raw[key] for key in ("loading", "device", "kernels")}
            settings |= {"run": raw["runs"][run_id], "protocol": record["protocol"]}
            its_content = {
                file: digest
                for dependency in dependencies("train", run_id, raw["runs"][run_id])
                for file, digest in digests_of(dependency).items()
            }
            with chdir(here):
                added[run_id] = _add(
                    Source(root, made.commit, weights_at), run_id, settings, its_content, plan, weights
                )
    return added


def _add(
    source: Source, run_id: str, settings: dict[str, Any], content: dict[str, str], plan: Plan, weights: bool
) -> list[Finding]:
    """Raises UserError for a run that is there already or that has something wrong; then nothing is written."""
    to = EVIDENCE / run_id
    if to.exists():
        raise UserError(f"{to} is there already", f"to take it again: wrn-pipe evidence remove {run_id}")
    evaluated, trained = source.root / EVALUATIONS / run_id, source.root / MODELS / run_id
    for path in (evaluated / PREDICTIONS, trained / WEIGHTS):
        if not path.is_file():
            raise UserError(f"{path} is not here", f"a run is taken whole: wrn-pipe repro {run_id}, or dvc pull")
    if weights and (size := (trained / WEIGHTS).stat().st_size) > LARGEST_WEIGHTS:
        what = f"--weights: {size / 1e6:.1f} MB of {run_id}, where git takes {LARGEST_WEIGHTS / 1e6:g} at most"
        raise UserError(what, "leave it out; --weights-at URL notes where they are to be had")
    told, found = Digests.read(evaluated / DIGESTS), []
    for path in (evaluated / PREDICTIONS, trained / WEIGHTS):
        name = path.relative_to(source.root).as_posix()
        if digest_of(path) != told.files.get(name):
            raise UserError(f"{name} is not what {DIGESTS} vouches for", f"wrn-pipe repro {run_id}")
        found.append(right(name, f"sha256 as in {DIGESTS}"))
    with new_folder(to) as folder:
        for name, place in _COPIED.items():
            shutil.copy(source.root / place / run_id / name, folder / name)
        write_slim(folder / PREDICTIONS, evaluated / PREDICTIONS)
        if weights:
            shutil.copy(trained / WEIGHTS, folder / WEIGHTS)
        Origin(
            commit=source.commit,
            settings=settings,
            content=content,
            predictions=digest_of(folder / PREDICTIONS),
            weights_at=source.weights_at,
        ).write(folder / ORIGIN)
        found += [_metrics_of_all(evaluated / PREDICTIONS, folder / METRICS), *check(folder, run_id, plan)]
        if bad := [finding for finding in found if finding.state == "wrong"]:
            said = "; ".join(f"{finding.path} {finding.why}" for finding in bad)
            raise UserError(f"{run_id} is not taken as evidence: {said}", "nothing was written")
    return found


def _metrics_of_all(full: Path, path: Path) -> Finding:
    """Every metric, from the full predictions, which evidence has no longer."""
    from pipeline.tasks.classification import metrics

    told, again = Evaluation.read(path).model_dump(), metrics(*read_predictions(full))
    if unlike := [key for key, value in again.items() if told.get(key) != value]:
        return wrong(METRICS, f"{', '.join(unlike)}: not what the predictions give")
    return right(METRICS, f"{', '.join(again)} follow from the full predictions")


def check(folder: Path, run_id: str, plan: Plan) -> list[Finding]:
    """What the files of a run in evidence show. `folder`: where they lie, `run_id`: as what they count."""
    try:
        return _check(folder, run_id, plan)
    except (KeyError, TypeError) as error:  # of a record that is JSON, and not what such a record says
        return [wrong(EVIDENCE / run_id, f"one of its records is incomplete: {error!r}")]


def _check(folder: Path, run_id: str, plan: Plan) -> list[Finding]:
    found: list[Finding] = []
    shown = EVIDENCE / run_id
    try:
        record, told = RunRecord.read(folder / RECORD), Digests.read(folder / DIGESTS)
        origin, metrics = Origin.read(folder / ORIGIN), Evaluation.read(folder / METRICS)
        epochs = len(read_history(folder / HISTORY))
        slim = read_slim(folder / PREDICTIONS)
    except UserError as error:
        return [wrong(shown, error.what)]
    for name, place in (*_COPIED.items(), *([(WEIGHTS, MODELS)] if (folder / WEIGHTS).is_file() else [])):
        if name != DIGESTS:
            same = digest_of(folder / name) == told.files.get((place / run_id / name).as_posix())
            found.append(
                right(shown / name, f"sha256 as in {DIGESTS}")
                if same
                else wrong(shown / name, f"is not the file that {DIGESTS} vouches for")
            )
    claimed = {
        "run": {
            "dataset": record.dataset,
            "network": record.network,
            "protocol": record.protocol_name,
            "representation": record.representation,
            "seed": record.seed,
        },
        "protocol": read_record(folder / RECORD)["protocol"],
    }
    if origin.fingerprint != record.fingerprint:
        found.append(wrong(shown / ORIGIN, "the fingerprint in run.json does not follow from it"))
    elif any(origin.settings[key] != value for key, value in claimed.items()) or record.run != run_id:
        found.append(wrong(shown / RECORD, f"does not say what {ORIGIN} has the fingerprint of"))
    else:
        found.append(right(shown / RECORD, f"fingerprint {record.fingerprint[:12]} follows from {ORIGIN}"))
    if not (epochs == record.epochs == record.protocol.epochs):
        found.append(wrong(shown / HISTORY, f"has {epochs} epochs, the protocol {record.protocol.epochs}"))
    again = _errors(slim)
    unlike = [key for key, value in again.items() if metrics.model_dump().get(key) != value]
    if unlike or digest_of(folder / PREDICTIONS) != origin.predictions:
        found.append(wrong(shown / PREDICTIONS, f"is not what was added: {', '.join(unlike) or 'another sha256'}"))
    else:
        found.append(
            right(shown / METRICS, f"{again['errors']} errors of {again['n']} images, as the predictions give")
        )
    found += [_data(shown / DIGESTS, told, record, plan), _labels(folder, run_id, record, metrics.split)]
    if told.data["card"] != origin.content.get(f"{BETON}/{told.data['name']}/card.json"):
        found.append(wrong(shown / DIGESTS, "was evaluated on other data than it was trained on"))
    found.append(_code(shown / ORIGIN, origin))
    for other in runs_here():
        if other != run_id and RunRecord.read(EVIDENCE / other / RECORD).fingerprint == record.fingerprint:
            found.append(wrong(shown, f"is the run {other}, which is evidence already"))
    return found


def _errors(slim: dict[str, Any]) -> dict[str, float]:
    """The metrics that slim predictions give, as metrics.json names and rounds them."""
    labels, n = slim["label"], len(slim["label"])
    wrongs = int((labels != slim["prediction"]).sum())
    found: dict[str, float] = {"n": n, "errors": wrongs, "top1_error": round(100 * wrongs / n, 6)}
    if top := [column for name, column in slim.items() if name.startswith("top_")]:
        missed = int(np.all([labels != column for column in (slim["prediction"], *top)], axis=0).sum())
        found["top5_error"] = round(100 * missed / n, 6)
    return found


def _data(path: Path, told: Digests, record: RunRecord, plan: Plan) -> Finding:
    """The digests of the data's content against the pinned ones, or those of the card that lies here."""
    dataset = plan.datasets.get(record.dataset)
    if record.representation == "rgb" and dataset and dataset.digests:
        if all(told.data[split] == dataset.digests[split] for split in dataset.digests):
            return right(path, f"trained and evaluated on the content pinned in {PARAMS}")
        return wrong(path, f"trained or evaluated on other data: its digests are not those pinned in {PARAMS}")
    here = BETON / told.data["name"]
    if not (here / "card.json").is_file():
        return unchecked(path, f"{here}, whose digests it could be compared with, is not here")
    card = open_card(here)
    if any(told.data[split] != content(card, split) for split in SPLITS):
        return wrong(path, f"trained or evaluated on other data than {here}")
    return right(path, f"trained and evaluated on the data in {here}")


def _labels(folder: Path, run_id: str, record: RunRecord, split: str) -> Finding:
    """The labels against those of other evidence on the same images."""
    path, own = EVIDENCE / run_id / PREDICTIONS, read_slim(folder / PREDICTIONS)["label"]
    for other in runs_here():
        about = Evaluation.read(EVIDENCE / other / METRICS)
        if other != run_id and (about.dataset, about.split) == (record.dataset, split):
            alike = np.array_equal(own, read_slim(EVIDENCE / other / PREDICTIONS)["label"])
            return right(path, f"labels as in {other}") if alike else wrong(path, f"labels are not those of {other}")
    return unchecked(path, f"no other evidence has labels of {record.dataset} to compare with")


def _code(path: Path, origin: Origin) -> Finding:
    """The code that the fingerprint covers against the commit that is said to have it."""
    files = tuple((path, digest) for path, digest in origin.content.items() if not path.startswith("data/"))
    short = origin.commit[:12]
    unlike = _unlike(origin.commit, files)
    if unlike is None:
        return unchecked(path, f"commit {short}, whose code it is said to be, is not in this repository")
    if unlike:
        return wrong(path, f"commit {short} has another {unlike}")
    return right(path, f"{len(files)} files of code and environment are those of commit {short}")


@lru_cache(maxsize=64)
def _unlike(head: str, files: tuple[tuple[str, str], ...]) -> str | None:
    """The first of the files that a commit has otherwise; empty if none; None where there is no such commit."""
    asked = "".join(f"{name}\n" for name in (head, *(f"{head}:{path}" for path, _ in files))).encode()
    told = io.BytesIO(
        subprocess.run(["git", "cat-file", "--batch"], input=asked, capture_output=True, check=False).stdout
    )
    for path, digest in (("", None), *files):
        line = told.readline().split()
        if len(line) != 3:  # NAME missing
            return path or None
        content = told.read(int(line[2]) + 1)[:-1]
        if digest is not None and sha256(content).hexdigest() != digest:
            return path
    return ""


def remove(run_id: str) -> None:
    """Raises UserError for a run that is not in evidence/."""
    if not (EVIDENCE / run_id).is_dir():
        raise UserError(f"no evidence of {run_id!r}", "wrn-pipe evidence list")
    shutil.rmtree(EVIDENCE / run_id)
