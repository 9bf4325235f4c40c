"""One archive with all that stands behind the tables but the data, and the check of one that came from elsewhere.

The archive is a part of a repository: every file that dvc.lock names, at its place; of data/ only the cards. Checking
it is therefore what `wrn-pipe verify` does, in a folder where the data is not. Nothing from the archive is run: tables
are made again by the code of whoever checks.
"""

import hashlib
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path

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

_OWN = Path(__file__).resolve().parents[2]
"""Where the code is that runs."""
_NEEDED = (crate.NAME, crate.LICENCES, str(LOCK), str(PARAMS), str(DAG))


def is_bundle(path: Path) -> bool:
    """Whether a file is an archive that `bundle` wrote, of whatever repository."""
    return archive.holds(path, *_NEEDED)


def bundle(plan: Plan, to: Path, run: Run, runs: Collection[str] = ()) -> tuple[list[Member], Checkout]:
    """Write the archive of the repository in the current folder; the same files and commit give the same bytes.

    `runs`: those whose weights and predictions it has; empty for all. The small records of the others, of which the
    tables are made as well, are always in it.
    Raises WrnPipeError when something here is wrong, as a bundle would say the same of it elsewhere, or not here.
    """
    wanted = names(plan, runs or plan.runs)
    for finding in verify(plan, run, data=False):
        absent = finding.path in wanted and not Path(finding.path).exists()
        if finding.state == "wrong" or absent:
            general = "wrn-pipe repro" if absent else "wrn-pipe verify lists all, and what to do"
            raise WrnPipeError(f"{finding.path}: {finding.why}", finding.fix or general)
    contents: dict[str, bytes | Path] = {name: Path(name) for name in wanted}
    contents[crate.LICENCES] = crate.licences(plan).encode()
    members = [_member(name, content) for name, content in sorted(contents.items())]
    checkout = _checkout()
    contents[crate.NAME] = json_text(crate.metadata(members, checkout)).encode()
    archive.write(to, contents)
    return members, checkout


def names(plan: Plan, runs: Collection[str]) -> list[str]:
    """The repository's files that belong into its archive with the large files of `runs`, in order."""
    disk, dag = Disk(Path.cwd()), stages(Path.cwd())
    kept = {str(path) for path in (PARAMS, DAG, LOCK, IGNORED)}
    kept |= {f"data/beton/{name}/{CARD}" for name in plan.representations}
    others = [stage for stage in dag if stage.kind in ("train", "evaluate") and stage.key not in runs]
    left_out = {out for stage in others for out in stage.outs if out not in stage.committed or not disk.is_here(out)}
    for path in {path for stage in dag for path in (*stage.deps, *stage.outs) if not path.startswith("data/")}:
        kept |= {f"{path}/{name}" for name in disk.names(path)} if Path(path).is_dir() else {path}
    return sorted(kept - left_out)


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
    """The runs whose predictions are in archives: a plan that has those alone, with the margins of `plan`, and results.

    Nothing is checked but what is read. Raises UserError for a file that is no archive or holds a broken record, and
    for a run that two of them have: it would count twice.
    """
    datasets, runs, results = dict(plan.datasets), {}, []
    origin: dict[str, Path] = {}
    """Of each run, the archive that has it."""
    for path in paths:
        if not is_bundle(path):
            raise UserError(f"{path} is no archive of wrn-pipe bundle", "name one, or leave --bundle out")
        with _unpacked(path) as members:
            try:
                its, found = load(), load_results(Path())
            except UserError as error:
                raise UserError(f"{path}: {error.what}", f"wrn-pipe verify --bundle {path} tells all of it") from None
        datasets = {**its.datasets, **datasets}
        for result in found:
            if result.run not in its.runs or f"evaluations/{result.run}/predictions.parquet" not in members:
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
        lacking = [name for name in _NEEDED if name not in members]
        yield from (wrong(name, "is not in the archive") for name in lacking)
        made = None
        if crate.NAME in members:
            try:
                told, made = crate.read(Path(crate.NAME).read_text(encoding="utf-8"))
            except ValueError as error:
                yield wrong(crate.NAME, f"does not describe the archive: {error}")
            else:
                yield from _described(told, made, members)
        if {str(LOCK), str(PARAMS), str(DAG)}.isdisjoint(lacking):
            yield from _recomputed(load(), run, made)


def _described(told: dict[str, Member], made: Checkout, members: Sequence[str]) -> Iterator[Finding]:
    """The archive's files against its own description of them."""
    alike = 0
    for name in sorted({*told, *members} - {crate.NAME}):
        if name not in told:
            yield wrong(name, f"is in the archive, and {crate.NAME} does not describe it")
        elif name not in members:
            yield wrong(name, f"is not in the archive, although {crate.NAME} describes it")
        elif (found := _member(name, Path(name))) != told[name]:
            yield wrong(name, f"sha256 {found.sha256[:12]}, where {crate.NAME} has {told[name].sha256[:12]}")
        else:
            alike += 1
    yield right(crate.NAME, f"{alike} files have the size and sha256 that it says; made at {made}")


def _recomputed(plan: Plan, run: Run, made: Checkout | None) -> Iterator[Finding]:
    """What verify finds, without advice that helps in a checkout alone; unchecked what other code than this made."""
    dag = [stage for stage in stages(Path.cwd()) if stage.in_git]
    elsewhere = {stage.command: (stage.outs, code) for stage in dag if (code := _other_code(stage))}
    remade: dict[str, str] = {}
    """A result -> the file of other code that made it. From then on, it is wrong for not being what this code makes."""

    def noted(command: str) -> None:
        remade.update(dict.fromkeys(*elsewhere.get(command, ((), ""))))
        run(command)

    at = "its commit" if made is None else f"{made.commit}{', with edits that nobody committed,' * made.dirty}"
    for finding in verify(plan, noted):
        if finding.state == "wrong" and (code := remade.get(finding.path)):
            why = f"made by other code than this: {code} differs; git checkout {at} and check it by that"
            yield unchecked(finding.path, why)
        else:
            yield replace(finding, why=finding.why.replace("not here", "not in the archive"), fix="")


def _other_code(stage: Stage) -> str | None:
    """The first of the archive's files of code that the stage runs, or what lies beside it, that is not as here.

    One that only is here changes nothing unless another, which is in both, differs and uses it.
    """
    disk = Disk(Path.cwd())
    for path in stage.deps:
        if path.split("/")[0] in ("pipeline", "stages"):
            names = [f"{path}/{name}" for name in disk.names(path)] if Path(path).is_dir() else [path]
            for name in names:
                here, own = Path(name), _OWN / name
                if here.is_file() and not (own.is_file() and own.read_bytes() == here.read_bytes()):
                    return name
    return None
