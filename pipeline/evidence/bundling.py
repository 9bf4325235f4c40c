"""One archive with all that stands behind the tables but the data, and the check of one that came from elsewhere.

The archive is a part of a repository: every file that dvc.lock names, at its place; of data/ only the cards. Checking
it is therefore what `wrn-pipe verify` does, in a folder where the data is not. Nothing from the archive is run: tables
are made again by the code of whoever checks.
"""

import hashlib
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pipeline.comparison.results import Result, load_results
from pipeline.data.beton import sha256
from pipeline.dvc_lock import LOCK
from pipeline.errors import UserError, WrnPipeError
from pipeline.evidence import archive, crate
from pipeline.evidence.crate import Checkout, Member
from pipeline.evidence.findings import Finding, right, unchecked, wrong
from pipeline.evidence.lock_check import CARD, IGNORED, Disk
from pipeline.evidence.regenerate import Run
from pipeline.evidence.verification import verify
from pipeline.params import PARAMS, Plan
from pipeline.provenance import commit
from pipeline.publish import json_text
from pipeline.runner.dag import DAG, Stage, stages
from pipeline.runner.params_file import load

DATA = "data/"
MANIFEST = Path("results/manifest.json")
_OWN = Path(__file__).resolve().parents[2]
"""Where the code is that runs."""
_DESCRIBER = "pipeline/evidence/crate.py"
_REMEDY = re.compile("; ((?:dvc pull|git checkout|wrn-pipe repro) .*)")
"""What a finding advises, at its end, which helps in a checkout alone."""


def is_bundle(path: Path) -> bool:
    """Whether a file is an archive that `bundle` wrote, of whatever repository."""
    return archive.holds(path, crate.NAME, crate.LICENCES, str(LOCK), str(PARAMS))


def bundle(plan: Plan, to: Path, run: Run) -> tuple[list[Member], Checkout]:
    """Write the archive of the repository in the current folder; the same files and commit give the same bytes.

    Raises WrnPipeError when something here is wrong, as a bundle would say the same of it elsewhere, or not here.
    """
    for finding in verify(plan, run, data=False):
        absent = finding.state == "unchecked" and not finding.path.startswith(DATA) and not Path(finding.path).exists()
        if finding.state == "wrong" or absent:
            own = _REMEDY.search(finding.why)
            general = "wrn-pipe repro" if absent else "wrn-pipe verify lists all, and what to do"
            what = f"{finding.path}: {_REMEDY.sub('', finding.why)}"
            raise WrnPipeError(what, own.group(1) if own else general)
    contents: dict[str, bytes | Path] = {name: Path(name) for name in names(plan)}
    contents[crate.LICENCES] = crate.licences(plan).encode()
    members = [_member(name, content) for name, content in sorted(contents.items())]
    manifest = json.loads(MANIFEST.read_text(encoding="utf-8"))
    checkout = _checkout()
    contents[crate.NAME] = json_text(crate.metadata(plan, manifest, members, checkout)).encode()
    archive.write(to, contents)
    return members, checkout


def names(plan: Plan) -> list[str]:
    """The repository's files that belong into its archive, in order."""
    disk = Disk(Path.cwd())
    paths = {path for stage in stages(Path.cwd()) for path in (*stage.deps, *stage.outs)}
    kept = {_DESCRIBER, *(str(path) for path in (PARAMS, DAG, LOCK, IGNORED))}
    kept |= {f"data/beton/{name}/{CARD}" for name in plan.representations}
    for path in paths:
        if not path.startswith(DATA):
            kept |= {f"{path}/{name}" for name in disk.names(path)} if Path(path).is_dir() else {path}
    return sorted(kept)


def _member(name: str, content: bytes | Path) -> Member:
    if isinstance(content, Path):
        return Member(name, content.stat().st_size, sha256(content))
    return Member(name, len(content), hashlib.sha256(content).hexdigest())


def _checkout() -> Checkout:
    head, dirty = commit()
    done = subprocess.run(["git", "show", "-s", "--format=%cI", "HEAD"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(
            "this folder has no commit of git", "git init, git add -A and git commit, or clone the repository"
        )
    return Checkout(head, done.stdout.strip(), dirty)


@contextmanager
def _unpacked(path: Path) -> Iterator[list[str]]:
    """Be in a folder with an archive's files; their names. Raises UserError when it is none, or a hostile one."""
    with tempfile.TemporaryDirectory() as name:
        members = archive.unpack(path, Path(name))
        with chdir(name):
            yield members


def gathered(plan: Plan, paths: Sequence[Path]) -> tuple[Plan, list[Result]]:
    """The runs of archives: a plan that has those alone, with the margins of `plan`, and what came of them.

    Nothing is checked but what is read. Raises UserError for a file that is no archive or holds a broken record, and
    for a run that two of them have: it would count twice.
    """
    datasets, runs, results = dict(plan.datasets), {}, []
    origin: dict[str, Path] = {}
    """Of each run, the archive that has it."""
    for path in paths:
        if not is_bundle(path):
            raise UserError(f"{path} is no archive of wrn-pipe bundle", "name one, or leave --bundle out")
        with _unpacked(path):
            try:
                its, found = load(), load_results(Path())
            except UserError as error:
                raise UserError(f"{path}: {error.what}", f"wrn-pipe verify --bundle {path} tells all of it") from None
        datasets = {**its.datasets, **datasets}
        for result in found:
            if result.run not in its.runs:
                continue
            if result.run in origin:
                raise UserError(f"{path} and {origin[result.run]} both have {result.run}", "name one of the two")
            origin[result.run] = path
            runs[result.run] = its.runs[result.run]
            results.append(result)
    return plan.model_copy(update={"datasets": datasets, "runs": runs}), results


def check(path: Path, run: Run) -> Iterator[Finding]:
    """Findings on an archive, wherever it is. Raises UserError when it is none, or a hostile one."""
    with _unpacked(path) as members:
        yield from _described(members)
        lacking = [str(each) for each in (PARAMS, DAG, LOCK, MANIFEST, crate.NAME) if str(each) not in members]
        if lacking:
            yield from (wrong(each, "is not in the archive") for each in lacking)
            return
        plan = load()
        yield from _redescribed(plan, members)
        yield from _recomputed(plan, run)


def _recomputed(plan: Plan, run: Run) -> Iterator[Finding]:
    """What verify finds, less what only a checkout could mend, or other code than this would have to judge."""
    dag = stages(Path.cwd())
    others = {stage.command: code for stage in dag if stage.in_git and (code := _other_code(*_code(stage)))}
    outs: dict[str, str] = {}
    """Made again, so that what verify finds of them from then on is that they are not what this code makes."""

    def noted(command: str) -> None:
        if command in others:
            outs.update({out: others[command] for each in dag if each.command == command for out in each.committed})
        run(command)

    for finding in verify(plan, noted):
        if finding.state == "wrong" and finding.path in outs:
            yield unchecked(finding.path, _made_elsewhere(outs[finding.path]))
        else:
            yield replace(finding, why=re.sub("^not here$", "not in the archive", _REMEDY.sub("", finding.why)))


def _code(stage: Stage) -> Iterator[str]:
    """The archive's files that are code which the stage runs, or what lies beside it, such as a page's template."""
    disk = Disk(Path.cwd())
    for path in stage.deps:
        if path.split("/")[0] in ("pipeline", "stages"):
            yield from (f"{path}/{name}" for name in disk.names(path)) if Path(path).is_dir() else (path,)


def _other_code(*names: str) -> str | None:
    """The first of these files of the archive that is not as here, if any.

    One that only is here changes nothing unless another, which is in both, differs and uses it.
    """
    for name in names:
        here, own = Path(name), _OWN / name
        if here.is_file() and not (own.is_file() and own.read_bytes() == here.read_bytes()):
            return name
    return None


def _made_elsewhere(code: str) -> str:
    try:
        told = crate.checkout_of(json.loads(Path(crate.NAME).read_text(encoding="utf-8"))["@graph"])
        known = re.fullmatch("[0-9a-f]{40,64}", told.commit)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # which is a finding of its own
        known = None
    commit = f"{told.commit}{', with edits that nobody committed,' if told.dirty else ''}" if known else "its commit"
    return f"made by other code than this: {code} differs; git checkout {commit} and check it by that"


def _described(members: list[str]) -> Iterator[Finding]:
    """The archive's files against its own description of them."""
    if crate.NAME not in members:
        return
    try:
        graph: list[dict[str, Any]] = json.loads(Path(crate.NAME).read_text(encoding="utf-8"))["@graph"]
        told = {e["@id"]: Member(e["@id"], int(e["contentSize"]), e["sha256"]) for e in graph if e["@type"] == "File"}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        yield wrong(crate.NAME, f"does not describe the archive: {error!r}")
        return
    alike = 0
    for name in sorted({*told, *members} - {crate.NAME}):
        if name not in told:
            yield wrong(name, f"is in the archive, and {crate.NAME} does not describe it")
        elif name not in members:
            yield wrong(name, f"is not in the archive, although {crate.NAME} describes it")
        elif asdict(found := _member(name, Path(name))) != asdict(told[name]):
            yield wrong(name, f"sha256 {found.sha256[:12]}, where {crate.NAME} has {told[name].sha256[:12]}")
        else:
            alike += 1
    yield right(crate.NAME, f"{alike} files have the size and sha256 that it says")


def _redescribed(plan: Plan, members: list[str]) -> Iterator[Finding]:
    """The description and the licence notes as they follow from the other files."""
    files = [_member(name, Path(name)) for name in sorted(members) if name != crate.NAME]
    here = Path(crate.NAME).read_bytes()
    other = _other_code(_DESCRIBER)
    try:
        manifest = json.loads(MANIFEST.read_text(encoding="utf-8"))
        checkout = crate.checkout_of(json.loads(here)["@graph"])
        again = json_text(crate.metadata(plan, manifest, files, checkout)).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        yield wrong(crate.NAME, f"cannot be made again: {error!r}")
        return
    if here == again:
        yield right(crate.NAME, f"follows from the files; made at {checkout}")
    elif other:
        yield unchecked(crate.NAME, _made_elsewhere(other))
    else:
        yield wrong(crate.NAME, "is not what follows from the files")
    notes = Path(crate.LICENCES)
    if not notes.is_file() or notes.read_bytes() != crate.licences(plan).encode():
        yield unchecked(notes, _made_elsewhere(other)) if other else wrong(notes, f"is not what follows from {PARAMS}")
