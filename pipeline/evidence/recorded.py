"""results/manifest.json read backwards: the evaluations of runs whose files are not here, as in a fresh clone.

The manifest has all that metrics.json, run.json and digests.json of a run say. So they can be written from it again, to
the bytes whose md5 dvc.lock has, and tables from these.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.evidence.findings import Finding, right, wrong
from pipeline.params import Plan
from pipeline.publish import json_text

MANIFEST = Path("results/manifest.json")
EVALUATIONS = Path("evaluations")
_SAME = {"network", "dataset", "representation", "seed", "parameters", "fingerprint", "loader", "kernels", "devices"}
_SAME |= {"unrepeatable_kernels", "versions"}
"""Keys of run.json that the manifest has by the same name."""


def files(plan: Plan, root: Path) -> dict[str, dict[str, bytes]]:
    """Run of the plan -> its JSON files in evaluations/, as the manifest at `root` has them; none where that is not.

    Raises UserError for one that is broken.
    """
    if not (root / MANIFEST).is_file():
        return {}
    try:
        told = json.loads((root / MANIFEST).read_bytes())["runs"]
        return {run: _files(run, told[run]) for run in plan.runs if run in told}
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(
            f"{MANIFEST} is no manifest: {error!r}", f"git checkout {MANIFEST}, or wrn-pipe repro manifest"
        ) from None


def _files(run: str, told: dict[str, Any]) -> dict[str, bytes]:
    record = {
        **{key: told[key] for key in _SAME},
        "run": run,
        "protocol_name": told["protocol"],
        "protocol": told["settings"],
        "epochs": told["settings"]["epochs"],
        "device": told["devices"][-1],
    }
    digests = {"data": told["data"], "device": told["evaluated_on"], "files": told["files"]}
    found = {"metrics.json": told["metrics"], "run.json": record, "digests.json": digests}
    return {name: json_text(value).encode() for name, value in found.items()}


def absent(plan: Plan, root: Path) -> dict[str, dict[str, bytes]]:
    """Those of `files` whose run is not evaluated at `root`."""
    if all((root / EVALUATIONS / run / "metrics.json").is_file() for run in plan.runs):
        return {}
    told = files(plan, root)
    return {run: told[run] for run in told if not (root / EVALUATIONS / run / "metrics.json").is_file()}


def write(told: dict[str, dict[str, bytes]], to: Path) -> None:
    """Each run's files, in a folder of its own below `to`."""
    for run, contents in told.items():
        (to / run).mkdir()
        for name, content in contents.items():
            (to / run / name).write_bytes(content)


@contextmanager
def filled(plan: Plan) -> Iterator[list[str]]:
    """The runs that only the manifest has; while the block runs, evaluations/ of the current folder has these as well.

    The current folder is another one meanwhile, which holds nothing else. Raises UserError as `files` does.
    """
    lacking = absent(plan, Path())
    if not lacking:
        yield []
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / EVALUATIONS
        folder.mkdir()
        write(lacking, folder)
        for path in EVALUATIONS.resolve().glob("*"):
            if path.name not in lacking:
                (folder / path.name).symlink_to(path)
        with chdir(name):
            yield list(lacking)


def check(plan: Plan, root: Path, lock: dict[str, Any]) -> Iterator[Finding]:
    """What the manifest says of each run, against the md5s that dvc.lock has of the files that say so.

    Needs none of these files. `lock` has the stages of dvc.lock.
    """
    if not (root / MANIFEST).is_file():
        return
    try:
        told = files(plan, root)
    except UserError as error:
        yield wrong(MANIFEST, f"{error.what.removeprefix(f'{MANIFEST} ')}; {error.remedy}")
        return
    alike = 0
    for run in plan.runs:
        outs = {out["path"]: out["md5"] for out in lock.get(f"evaluate@{run}", {}).get("outs", ())}
        if outs and run not in told:
            yield wrong(MANIFEST, f"has no run {run}, of which dvc.lock has an evaluation; wrn-pipe repro manifest")
        for name, content in told.get(run, {}).items():
            path = str(EVALUATIONS / run / name)
            if path not in outs:
                continue
            if hashlib.md5(content, usedforsecurity=False).hexdigest() == outs[path]:
                alike += 1
            else:
                yield wrong(MANIFEST, f"does not say of {run} what {path} says, whose md5 dvc.lock has")
    if alike:
        yield right(MANIFEST, f"says what {alike} files in {EVALUATIONS}/ say, by their md5s in dvc.lock")
