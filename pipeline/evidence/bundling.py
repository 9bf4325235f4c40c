"""One archive with all that stands behind the tables but the data, and the check of one that came from elsewhere.

The archive is a part of a repository: every file that dvc.lock names, at its place; of data/ only the cards. Checking
it is therefore what `wrn-pipe verify` does, in a folder where the data is not. Nothing from the archive is run: tables
are made again by the code of whoever checks.
"""

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
from pipeline.evidence import archive
from pipeline.evidence.archive import DESCRIPTION, LICENCES, Checkout
from pipeline.evidence.findings import Finding, right, wrong
from pipeline.evidence.lock_check import CARD, IGNORED, Disk
from pipeline.evidence.regenerate import Run
from pipeline.evidence.verification import verify
from pipeline.params import PARAMS, Plan
from pipeline.provenance import commit
from pipeline.publication.paper import Paper
from pipeline.runner.dag import DAG, stages
from pipeline.runner.params_file import load

_OWN = Path(__file__).resolve().parents[2]
"""Where the code is that runs."""
_NEEDED = (DESCRIPTION, LICENCES, str(LOCK), str(PARAMS), str(DAG))


def is_bundle(path: Path) -> bool:
    """Whether a file is an archive that `bundle` wrote, of whatever repository."""
    return archive.holds(path, *_NEEDED)


def bundle(paper: Paper, plan: Plan, to: Path, run: Run, runs: Collection[str] = ()) -> tuple[int, Checkout]:
    """Write the archive of the repository in the current folder; the same files and commit give the same bytes.

    `runs`: those whose weights and predictions it has; empty for all. The small records of the others, of which the
    tables are made as well, are always in it. Returns the number of files.
    Raises WrnPipeError when something here is wrong, as a bundle would say the same of it elsewhere, or not here.
    """
    wanted = names(plan, runs or plan.runs)
    for finding in verify(plan, run, data=False):
        absent = finding.path in wanted and not Path(finding.path).exists()
        if finding.state == "wrong" or absent:
            general = "wrn-pipe repro" if absent else "wrn-pipe verify lists all, and what to do"
            raise WrnPipeError(f"{finding.path}: {finding.why}", finding.fix or general)
    contents: dict[str, bytes | Path] = {name: Path(name) for name in wanted}
    contents[LICENCES] = _licences(plan, paper).encode()
    checkout = _checkout()
    archive.write(to, contents, checkout, paper)
    return len(contents), checkout


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


def _checkout() -> Checkout:
    head, dirty = commit()
    done = subprocess.run(["git", "show", "-s", "--format=%cI", "HEAD"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        what, fix = "this folder has no commit", "git init, git add -A and git commit, or clone the repository"
        raise UserError(what, fix)
    return Checkout(head, done.stdout.strip(), dirty)


def _licences(plan: Plan, paper: Paper) -> str:
    """LICENCES.md: on what terms the data may be used, and why it is not here."""
    lines = [
        "# Licences and citations",
        "",
        f"The numbers compared with: {paper.citation}",
        paper.url,
        "",
        "The images are not in this archive: nobody gave leave to pass them on with it. The cards hold the digests of",
        "what was trained on, params.yaml says where it comes from, `wrn-pipe repro download` fetches and checks it.",
        "The predictions hold the labels of the test images and no pixel.",
        "",
    ]
    for name, dataset in plan.datasets.items():
        lines += [f"## {dataset.title} ({name})", "", f"- home page: {dataset.homepage}"]
        lines += [f"- licence: {dataset.licence}", f"- cite: {dataset.citation}", ""]
    return "\n".join(lines)


@contextmanager
def unpacked(path: Path) -> Iterator[list[str]]:
    """Be in a folder with an archive's files; their names. Raises UserError as archive.unpack does."""
    with tempfile.TemporaryDirectory() as name:
        members = archive.unpack(path, Path(name))
        with chdir(name):
            yield members


def gathered(plan: Plan, paths: Sequence[Path]) -> tuple[Plan, list[Result]]:
    """The runs whose predictions are in archives: a plan that has those alone, with the margins of `plan`, and results.

    Nothing is checked but what is read. Raises UserError for another file, for one with a broken record, and for a run
    that two of them have: it would count twice.
    """
    datasets, runs, results = dict(plan.datasets), {}, []
    origin: dict[str, Path] = {}
    """Of each run, the archive that has it."""
    for path in paths:
        if not is_bundle(path):
            raise UserError(f"{path}: not an archive of wrn-pipe bundle", "name one, or leave --bundle out")
        with unpacked(path) as members:
            try:
                its, found = load(), load_results(Path())
            except UserError as error:
                raise UserError(f"{path}: {error.what}", f"wrn-pipe verify --bundle {path} tells all of it") from None
        datasets = {**its.datasets, **datasets}
        for result in found:
            if result.run not in its.runs or f"evaluations/{result.run}/predictions.parquet" not in members:
                continue
            if origin.get(result.run) == path:  # there as evidence too, which was counted first
                continue
            if result.run in origin:
                raise UserError(f"{path} and {origin[result.run]} both have {result.run}", "name one of the two")
            origin[result.run] = path
            runs[result.run] = its.runs[result.run]
            results.append(result)
    return plan.model_copy(update={"datasets": datasets, "runs": runs}), results


def check(path: Path, run: Run) -> Iterator[Finding]:
    """Findings on an archive, wherever it is. Raises UserError as archive.unpack does."""
    with unpacked(path) as members:
        lacking = [name for name in _NEEDED if name not in members]
        yield from (wrong(name, "is not in the archive") for name in lacking)
        made = None
        if DESCRIPTION in members:
            try:
                told, made = archive.read_description(Path(DESCRIPTION).read_text(encoding="utf-8"))
            except ValueError as error:
                yield wrong(DESCRIPTION, f"does not describe the archive: {error}")
            else:
                yield from described(told, made, members)
        if {str(LOCK), str(PARAMS), str(DAG)}.isdisjoint(lacking):
            at = "its commit" if made is None else f"{made.commit}{', with edits that nobody committed,' * made.dirty}"
            code = next((name for name in members if _is_other_code(name)), None)
            other = f"made by other code than this: {code} differs; git checkout {at} and check it by that"
            for finding in verify(load(), run, other_code=other if code else ""):
                yield replace(finding, why=finding.why.replace("not here", "not in the archive"), fix="")


def described(told: dict[str, str], made: Checkout, members: Sequence[str]) -> Iterator[Finding]:
    """The archive's files against its own description of them."""
    alike = 0
    for name in sorted({*told, *members} - {DESCRIPTION}):
        if name not in told:
            yield wrong(name, f"is in the archive, and {DESCRIPTION} does not describe it")
        elif name not in members:
            yield wrong(name, f"is not in the archive, although {DESCRIPTION} describes it")
        elif (found := sha256(Path(name))) != told[name]:
            yield wrong(name, f"sha256 {found[:12]}, where {DESCRIPTION} has {told[name][:12]}")
        else:
            alike += 1
    yield right(DESCRIPTION, f"{alike} files have the sha256 that it says; made at {made}")


def _is_other_code(name: str) -> bool:
    own = _OWN / name
    code = name.split("/")[0] in ("pipeline", "stages")
    return code and not (own.is_file() and own.read_bytes() == Path(name).read_bytes())
