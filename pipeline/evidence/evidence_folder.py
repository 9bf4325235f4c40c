"""evidence/<run>/: finished runs that count in every comparison, whoever trained them and whatever the code is now.

run.json, history.csv, metrics.json and digests.json are the run's own files, to the byte, so digests.json vouches for
the other three. predictions.parquet is slim: index, label, prediction. origin.json holds what the run's fingerprint is
the hash of, and the commit that has this code. Weights may lie beside them.
"""

import shutil
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

from pipeline.artifacts import (
    DIGESTS,
    EVALUATIONS,
    EVIDENCE,
    HISTORY,
    METRICS,
    MODELS,
    ORIGIN,
    PREDICTIONS,
    RECORD,
    Origin,
    read_record,
    write_slim,
)
from pipeline.atomic_write import new_folder
from pipeline.data.beton import sha256
from pipeline.errors import UserError
from pipeline.evidence import bundling, run_check
from pipeline.evidence.run_check import Finding, FinishedRun
from pipeline.params import PARAMS, Plan, read_text, yaml_mapping
from pipeline.provenance import commit, content_of

LARGEST_WEIGHTS = 3_000_000
"""Bytes of weights that may be committed."""


def add(plan: Plan, run_id: str, weights: bool, weights_at: str | None = None) -> list[Finding]:
    """Take a finished run of this checkout into evidence/. Returns what was checked; raises as `_add`."""
    head, dirty = commit()
    if dirty:
        raise UserError("this checkout has edits that are not committed", "git commit them: evidence names its commit")
    return _add(run_check.of_plan(plan, run_id, head), plan, weights, weights_at)


def add_archive(
    path: Path, chosen: Sequence[str], plan: Plan, weights: bool, weights_at: str | None = None
) -> dict[str, list[Finding]]:
    """Take the finished runs of an archive of `wrn-pipe bundle`, or the `chosen` of them, into evidence/.

    Returns what was checked of each; raises as `_add`, and for an archive that does not match its own description.
    """
    here, added = Path.cwd(), {}
    with bundling.unpacked(path) as members:
        root, again = Path.cwd(), "get the archive again from whoever made it"
        made, found = bundling.described(members)
        for finding in found:
            if finding.state == "wrong":
                raise UserError(f"{path}: {finding.path} {finding.why}", again)
        if made is None or made.dirty:
            raise UserError(f"{path} was made of code that nobody committed", "commit it there, and bundle again")
        raw = yaml_mapping(read_text(PARAMS, again), PARAMS, again)
        finished = [run_id for run_id in raw["runs"] if f"{EVALUATIONS}/{run_id}/{PREDICTIONS}" in members]
        if absent := set(chosen) - set(finished):
            raise UserError(f"{path} has no finished run {sorted(absent)[0]}", f"it has: {', '.join(finished)}")
        for run_id in chosen or finished:
            # The protocol as its code completed it, which the code here may do otherwise.
            protocol = read_record(EVALUATIONS / run_id / RECORD, None, "protocol")["protocol"]
            settings = {key: raw[key] for key in ("loading", "device", "kernels")}
            settings |= {"run": raw["runs"][run_id], "protocol": protocol}
            content = content_of(run_id, settings["run"])
            origin = Origin(commit=made.commit, settings=settings, content=content, predictions="")
            run = FinishedRun(run_id, root / MODELS / run_id, root / EVALUATIONS / run_id, origin, PARAMS)
            with chdir(here):
                found = _add(run, plan, weights, weights_at)
            added[run_id] = [replace(each, path=each.path.removeprefix(f"{root}/")) for each in found]
    return added


def _add(run: FinishedRun, plan: Plan, weights: bool, weights_at: str | None) -> list[Finding]:
    """Raises UserError for a run that is there already or that has something wrong; then nothing is written."""
    to = EVIDENCE / run.id
    if to.exists():
        raise UserError(f"{to} is there already", f"to take it again: wrn-pipe evidence remove {run.id}")
    for path in (run.predictions, run.weights):
        if not path.is_file():
            raise UserError(f"{path} is not here", f"a run is taken whole: wrn-pipe repro {run.id}, or dvc pull")
    if weights and (size := run.weights.stat().st_size) > LARGEST_WEIGHTS:
        what = f"--weights: {size / 1e6:.1f} MB of {run.id}, where git takes {LARGEST_WEIGHTS / 1e6:g} at most"
        raise UserError(what, "leave it out; --weights-at URL notes where they are to be had")
    found = list(run_check.check(run, plan))
    if bad := [finding for finding in found if finding.state == "wrong"]:
        said = "; ".join(f"{Path(finding.path).name} {finding.why}" for finding in bad)
        raise UserError(f"{run.id} is not taken as evidence: {said}", "nothing was written")
    copied = [run.trained / HISTORY, *(run.evaluated / name for name in (RECORD, METRICS, DIGESTS))]
    with new_folder(to) as folder:
        for path in (*copied, *[run.weights] * weights):
            shutil.copy(path, folder)
        write_slim(folder / PREDICTIONS, run.predictions)
        slim = {"predictions": sha256(folder / PREDICTIONS), "weights_at": weights_at}
        run.origin.model_copy(update=slim).write(folder / ORIGIN)
    return found


def remove(run_id: str) -> None:
    """Raises UserError for a run that is not in evidence/."""
    if not (EVIDENCE / run_id).is_dir():
        raise UserError(f"no evidence of {run_id!r}", "wrn-pipe evidence list")
    shutil.rmtree(EVIDENCE / run_id)
