"""Everything that `wrn-pipe verify` looks at, in one order: the lock, the data, the results, each run.

dvc.lock vouches for every command, setting, input and output of every stage, the digests pinned in params.yaml for the
decoded content of datasets, cards for .beton files, and for results that git keeps the stage that makes them. `dvc
status` goes by size, time and inode; here every byte is read, which also finds what hides from that.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import chdir
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.artifacts import EVIDENCE, ORIGIN, runs_in_evidence
from pipeline.data.beton import open_card, open_split
from pipeline.data.conversion import load
from pipeline.data.digest import split_digest
from pipeline.data.readers import check as check_shape
from pipeline.dataset_config import SPLITS, Dataset, SourceError, Split
from pipeline.dvc_lock import LOCK, md5, names
from pipeline.dvc_lock import read as read_lock
from pipeline.errors import UserError, WrnPipeError
from pipeline.evidence import run_check
from pipeline.evidence.run_check import Finding, State, right, unchecked, wrong
from pipeline.params import PARAMS, Plan, yaml_mapping
from pipeline.provenance import DAG
from pipeline.runner.dag import Stage, stages
from pipeline.runner.dvc import running_stages, to_have
from pipeline.runner.plan_state import RAW, beton_folders, raw_files

CARD = "card.json"
RESULTS = Path("results")
Run = Callable[[str], None]
"""Runs a stage's command, such as `python -m stages.tabulate 4`, in the current folder."""


class Depth(NamedTuple):
    """How much of the runs is computed again, beyond what takes seconds."""

    deep: bool = False
    """Predictions, from weights."""
    deeper: str | None = None
    """Of this run of the plan the weights, from nothing."""
    epochs: int | None = None
    """Of that training; None: all."""


def is_here(path: str) -> bool:
    """A data folder of which only the card is here, as in a bundle, is not."""
    place = Path(path)
    return place.exists() and not (place.is_dir() and [p.name for p in place.iterdir()] == [CARD])


def verify(plan: Plan, run: Run, depth: Depth, *, data: bool = True, other_code: str = "") -> Iterator[Finding]:
    """Findings on the repository in the current folder, with `run` to run a stage's command.

    Computed again: the md5 of every file that dvc.lock names; digests of the data's decoded content; every result that
    git keeps, by its own stage; and of every run what `runs` does. `data` false leaves out what reads the datasets,
    which may be large. `other_code`: why the code here may make other results than those that are compared; they are
    then unchecked, not wrong.
    """
    dag = stages(Path())
    for name, pid in running_stages({stage.name: stage for stage in dag}).items():
        yield unchecked(DAG, f"{name} runs (process {pid}): what it writes, and all that needs it, is about to change")
    locked: dict[str, Any] = {}
    try:
        locked = read_lock()
        yield from _recorded_files(dag, locked, data)
    except UserError as error:
        yield wrong(LOCK, error.what, error.remedy)
    if data:
        for name in plan.datasets:
            yield from _content(name, plan)
    yield from _made_again(plan, dag, run, other_code)
    yield from _made_by_nothing(dag, locked)
    yield from runs(plan, plan.runs, runs_in_evidence(), depth)


def datasets(names: Iterable[str], plan: Plan) -> Iterator[Finding]:
    """All findings on these datasets, in the current folder, the repository's root."""
    dag, locked = stages(Path()), read_lock()
    for name in names:
        folders = {str(folder) for folder in (RAW / name, *beton_folders(name, plan).values())}
        yield from _content(name, plan)
        writers = [stage for stage in dag if folders & set(stage.outs)]
        yield from (each for each in _recorded_files(writers, locked) if each.path in folders)


def runs(plan: Plan, planned: Iterable[str], evidence: Iterable[str], depth: Depth) -> Iterator[Finding]:
    """Findings on runs of the plan and in evidence/: as run_check has them, and what `depth` says."""
    found = [run_check.of_plan(plan, run_id) for run_id in planned]
    for run_id in evidence:
        try:
            found.append(run_check.of_evidence(run_id))
        except UserError as error:
            yield wrong(EVIDENCE / run_id / ORIGIN, error.what)
    for run in found:
        yield from run_check.check(run, plan)
    if depth.deep or depth.deeper:
        from pipeline.evidence import recompute  # and with it torch
    for run in found:
        if depth.deep:
            yield recompute.evaluated(run, plan)
        elif (run.weights if run.origin.commit else run.predictions).is_file():
            why, fix = "was not computed again from the weights", f"wrn-pipe verify --deep {run.id}"
            yield unchecked(run.predictions, why, fix)
        if run.origin.commit:
            continue
        if depth.deeper == run.id:
            yield from recompute.trained(plan, run.id, depth.epochs)
        elif run.weights.is_file():
            why = "weights and history.csv were not trained again"
            yield unchecked(run.trained, why, f"wrn-pipe verify --deeper {run.id}")


def _recorded_files(dag: Sequence[Stage], locked: dict[str, Any], data: bool = True) -> Iterator[Finding]:
    """Every stage's entry in dvc.lock, whose stages are `locked`, then every file that dvc.yaml and some entry name.

    `data` false leaves out data/.
    """
    params = yaml_mapping(PARAMS.read_text(encoding="utf-8"), PARAMS, f"git checkout {PARAMS}")
    records: dict[str, list[tuple[Stage, str]]] = {}
    """By path the md5s that stages recorded of it, in the order of dvc.yaml: who writes it first."""
    for stage in dag:
        entry = locked.get(stage.name, {})
        yield _entry(stage, entry, params)
        for part, listed in (("outs", stage.outs), ("deps", stage.deps)):
            for each in entry.get(part, ()):
                if (path := each["path"]) in listed and (data or not path.startswith("data/")):
                    records.setdefault(path, []).append((stage, each["md5"]))
    for path, told in records.items():
        yield _file(path, told, [out for stage in dag for out in stage.outs if out.startswith(f"{path}/")])


def _entry(stage: Stage, entry: dict[str, Any], params: dict[str, Any]) -> Finding:
    at = f"{LOCK}: {stage.name}"
    if not entry:
        here = [out for out in stage.outs if is_here(out)]
        why = "dvc.lock has no such stage: it has not run"
        return wrong(at, f"{why}, and yet {here[0]} is here") if here else unchecked(at, why, "wrn-pipe repro runs it")
    differences = []
    if entry.get("cmd") != stage.command:
        differences.append(f"its command is {entry.get('cmd')!r}, in dvc.yaml {stage.command!r}")
    for part, what, listed in (("deps", "inputs", stage.deps), ("outs", "outputs", stage.outs)):
        if {each["path"] for each in entry.get(part, ())} != set(listed):
            differences.append(f"its {what} are not those of dvc.yaml")
    before = entry.get("params", {}).get(str(PARAMS), {})
    now = {name: _value(params, name) for name in stage.params}
    if changed := [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]:
        differences.append(f"{', '.join(changed)}: not as {PARAMS} has it now")
    if differences:
        return wrong(at, "; ".join(differences))
    return right(at, "command, settings and names of inputs and outputs are those of dvc.yaml and params.yaml")


def _value(params: Any, name: str) -> Any:
    for part in name.split("."):
        params = params.get(part) if isinstance(params, dict) else None
    return params


def _file(path: str, told: Sequence[tuple[Stage, str]], inside: Sequence[str]) -> Finding:
    """A file or folder against the md5s that stages `told` of it. `inside`: what others write in the folder."""
    stage = told[0][0]
    if not all(is_here(out) for out in inside):
        return unchecked(path, "not all of it is here")
    if not is_here(path):
        if path in stage.outs and path not in stage.committed:
            return unchecked(path, "not here", to_have(stage.name))
        return wrong(path, "not found", f"git checkout {path}, or wrn-pipe repro {stage.name}")
    found = md5(path)
    unlike = [(stage, recorded) for stage, recorded in told if recorded != found]
    if not unlike:
        return right(path, f"md5 {found[:12]} as in dvc.lock")
    stage, other = unlike[0]
    how = f"as {'written' if path in stage.outs else 'read'} by {stage.name}"
    if len(unlike) == len(told):
        return wrong(path, f"md5 {found[:12]}, where dvc.lock has {other[:12]} {how}")
    return wrong(
        f"{LOCK}: {stage.name}", f"has {path} as {other[:12]}, which is {found[:12]} here and in other entries"
    )


def _content(name: str, plan: Plan) -> Iterator[Finding]:
    """Findings on each file of data/raw/<name> and of its representations, as far as their folders are here."""
    dataset, folders = plan.datasets[name], beton_folders(name, plan)
    if dataset.shape is not None and is_here(str(RAW / name)):
        for split in SPLITS:
            state, why = _raw_split(name, dataset, split, folders.get("rgb"))
            fix = f"wrn-pipe repro download@{name}" if state == "wrong" else ""
            paths = (path for path in raw_files(name, dataset) if path.name.startswith(f"{split}_"))
            yield from (Finding(str(path), state, why, fix) for path in paths)
    for kind, folder in folders.items():
        if is_here(str(folder)):
            yield from (_beton(folder, split, dataset.digests if kind == "rgb" else None) for split in SPLITS)


def _raw_split(name: str, dataset: Dataset, split: Split, converted: Path | None) -> tuple[State, str]:
    try:
        images, labels = load(RAW / name, split)
        check_shape({split: (images, labels)}, dataset)
    except (OSError, ValueError, EOFError, SourceError, UserError) as error:
        return "wrong", error.what if isinstance(error, UserError) else f"not as {PARAMS} says: {error}"
    found, pinned, by = split_digest(np.asarray(images), labels), None, f"pinned in {PARAMS}"
    if dataset.digests:
        pinned = dataset.digests[split]
    elif converted and (converted / CARD).is_file():
        pinned, by = open_card(converted)["splits"][split]["digest"], f"in {converted / CARD}"
    if pinned is None:
        return "unchecked", f"digest {found}; pin it in {PARAMS}"
    if found == pinned:
        return "right", f"digest {found[:12]} of images and labels as {by}"
    return "wrong", f"digest of images and labels is {found}, {by} {pinned}"


def _beton(folder: Path, split: Split, pinned: dict[Split, str] | None) -> Finding:
    """One .beton file against its card, and the card against the digests pinned of what it keeps."""
    path = folder / f"{split}.beton"
    try:
        open_split(folder, split)
    except UserError as error:
        return wrong(path, error.what, error.remedy)
    entry = open_card(folder)["splits"][split]
    digest = entry.get("digest", "unknown")
    if pinned and digest != pinned[split]:
        return wrong(path, f"its card says content {digest}, pinned in {PARAMS} {pinned[split]}")
    as_pinned = f", content {digest[:12]} as pinned in {PARAMS}" if pinned else ""
    return right(path, f"sha256 {entry['beton']['sha256'][:12]} as in its card{as_pinned}")


def _made_again(plan: Plan, dag: Sequence[Stage], run: Run, other_code: str) -> Iterator[Finding]:
    """Each output of the stages whose outputs all are in git, against what the stage makes now of the files here: they
    read what git has of the runs, so a fresh clone can do it.

    The plan is cut down to the runs that are evaluated: the others are not in these results yet.
    """
    made = [stage for stage in dag if stage.in_git]
    unseen = {"scratch", "tracking", *(Path(out).parts[0] for stage in made for out in stage.outs)}
    evaluated = {name: each for name, each in plan.runs.items() if is_here(f"evaluations/{name}/metrics.json")}
    root = Path.cwd()
    with tempfile.TemporaryDirectory() as name, chdir(name):
        for path in root.iterdir():
            if path.name not in unseen and not path.name.startswith("."):
                Path(path.name).symlink_to(path)
        if len(evaluated) < len(plan.runs):
            PARAMS.unlink()
            cut = plan.model_copy(update={"runs": evaluated})
            PARAMS.write_text(json.dumps(cut.model_dump(mode="json")), encoding="utf-8")
        for stage in made:
            for finding in _compare(root, stage, run):
                differs = other_code and finding.state == "wrong" and (root / finding.path).is_file()
                yield unchecked(finding.path, other_code) if differs else finding


def _compare(root: Path, stage: Stage, run: Run) -> Iterator[Finding]:
    for out in map(Path, stage.outs):
        out.parent.mkdir(parents=True, exist_ok=True)
    try:
        run(stage.command)
    except Exception as error:  # noqa: BLE001 - a stage trusts its inputs, which somebody may have edited
        why = error.what if isinstance(error, WrnPipeError) else repr(error)
        yield from (wrong(out, f"cannot be made again: {why}") for out in stage.outs)
        return
    for out in map(Path, stage.outs):
        here = root / out
        if not here.is_file():
            yield wrong(out, "not found", f"git checkout {out}, or wrn-pipe repro {stage.name}")
        elif not out.is_file():
            yield wrong(out, f"is not what {stage.name} makes: {stage.command}")
        elif here.read_bytes() == out.read_bytes():
            yield right(out, f"is what {stage.name} makes of the runs here")
        else:
            lines = zip_longest(*(path.read_bytes().split(b"\n") for path in (here, out)))
            first = next(number for number, (one, other) in enumerate(lines, 1) if one != other)
            yield wrong(out, f"is not what {stage.name} makes of the runs here: line {first}")


def _made_by_nothing(dag: Sequence[Stage], locked: dict[str, Any]) -> Iterator[Finding]:
    """Entries of dvc.lock without a stage, and results that no stage makes."""
    kinds, known = {stage.kind for stage in dag}, {stage.name for stage in dag}
    for name in (name for name in locked if name not in known):
        kind, _, key = name.partition("@")
        if kind in kinds and key:  # DVC leaves it there when a run is taken out of the plan
            yield unchecked(LOCK, f"{name} is not in {PARAMS} (any more), so nothing here is compared with its entry")
        else:
            yield wrong(f"{LOCK}: {name}", f"{DAG} has no such stage", f"git checkout {DAG} {LOCK}")
    made = {out for stage in dag for out in stage.committed}
    for path in (f"{RESULTS}/{name}" for name in names(str(RESULTS))):
        if Path(path).is_relative_to(RESULTS / "fast"):
            yield unchecked(path, "no stage makes it; docs/reference/fast.md says what it is")
        elif path not in made:
            yield wrong(path, f"no stage of {DAG} makes it", f"git rm it, or move it out of {RESULTS}/")
