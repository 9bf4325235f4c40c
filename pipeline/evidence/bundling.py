"""One archive with all that stands behind the tables but the data, and the check of one that came from elsewhere.

The archive is a part of a repository: every file that dvc.lock names, at its place; of data/ only the cards. Checking
it is therefore what `wrn-pipe verify` does, in a folder where the data is not. Nothing from the archive is run: tables
are made again by the code of whoever checks. It is a ZIP described as an RO-Crate, which other tools read:
https://w3id.org/ro/crate/1.2. The same files give the same bytes: nothing is compressed, as what is large is compressed
already and zlib's versions give other bytes.
"""

import hashlib
import json
import re
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.artifacts import EVALUATIONS, MODELS, PREDICTIONS, RECORD, Origin, read_record
from pipeline.atomic_write import json_text
from pipeline.comparison.formats import environment
from pipeline.comparison.results import Result, load_results
from pipeline.data.beton import sha256
from pipeline.dvc_lock import IGNORED, LOCK, names
from pipeline.errors import UserError, WrnPipeError
from pipeline.evidence.run_check import Finding, FinishedRun, right, take, wrong
from pipeline.evidence.verification import CARD, Depth, Run, is_here, verify
from pipeline.params import PARAMS, Plan, read_text, yaml_mapping
from pipeline.provenance import DAG, content_of, git, need_commit
from pipeline.publication.paper import Paper
from pipeline.runner.dag import stages
from pipeline.runner.params_file import load

DESCRIPTION, LICENCES = "ro-crate-metadata.json", "LICENCES.md"
_NEEDED = (DESCRIPTION, LICENCES, str(LOCK), str(PARAMS), str(DAG))
_SPECIFICATION = "https://w3id.org/ro/crate/1.2"


class Checkout(NamedTuple):
    """Where an archive was made."""

    commit: str
    state: str
    """clean, or "with edits that are not committed"."""
    date: str
    """Of the commit, ISO 8601: a clock would make every archive another one."""

    @property
    def dirty(self) -> bool:
        return self.state != "clean"

    def __str__(self) -> str:
        return f"commit {self.commit} ({self.state})"


def is_bundle(path: Path) -> bool:
    """Whether a file is an archive that `bundle` wrote, of whatever repository."""
    try:
        with zipfile.ZipFile(path) as archive:
            return set(_NEEDED) <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def bundle(paper: Paper, plan: Plan, to: Path, run: Run, runs: Collection[str] = ()) -> tuple[int, Checkout]:
    """Write the archive of the repository in the current folder; the same files and commit give the same bytes.

    `runs`: those whose weights and predictions it has; empty for all. The small records of the others, of which the
    tables are made as well, are always in it. Returns the number of files.
    Raises WrnPipeError when something here is wrong, as a bundle would say the same of it elsewhere, or not here.
    """
    wanted = _names(plan, runs or plan.runs)
    for finding in verify(plan, run, Depth(), data=False):
        absent = finding.path in wanted and not Path(finding.path).exists()
        if finding.state == "wrong" or absent:
            general = "wrn-pipe repro" if absent else "wrn-pipe verify lists all; tables wait for all runs of the plan"
            raise WrnPipeError(f"{finding.path}: {finding.why}", finding.fix or general)
    head, dirty = need_commit()
    date = git("show", "-s", "--format=%cI", "HEAD").strip()
    checkout = Checkout(head, "with edits that are not committed" if dirty else "clean", date)
    template = environment("markdown", Path(__file__).parent).get_template(f"{LICENCES}.jinja")
    licences = template.render(paper=paper, datasets=plan.datasets)
    part = to.with_name(f".{to.name}.part")
    try:
        with zipfile.ZipFile(part, "w") as archive:
            files = []
            for name in sorted((*wanted, LICENCES)):
                content = licences.encode() if name == LICENCES else Path(name).read_bytes()
                files.append(_add(archive, name, content))
            _add(archive, DESCRIPTION, json_text(_description(files, checkout, paper)).encode())
        part.replace(to)
    except OSError as error:
        raise WrnPipeError(f"cannot write {to}: {error.strerror}", "name another place with --to") from error
    finally:
        part.unlink(missing_ok=True)
    return len(files), checkout


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> dict[str, str]:
    """Write a member; returns it as the description has it."""
    about = zipfile.ZipInfo(name)  # of 1980, as nothing else is said: a file's own time would change the bytes
    about.external_attr = 0o644 << 16
    archive.writestr(about, content)
    size, digest = str(len(content)), hashlib.sha256(content).hexdigest()
    return {"@id": name, "@type": "File", "name": name, "contentSize": size, "sha256": digest}


def _names(plan: Plan, runs: Collection[str]) -> list[str]:
    """The repository's files that belong into its archive with the large files of `runs`, in order."""
    dag = stages(Path())
    kept = {str(path) for path in (PARAMS, DAG, LOCK, IGNORED)}
    kept |= {f"data/beton/{name}/{CARD}" for name in plan.representations}
    others = [stage for stage in dag if stage.kind in ("train", "evaluate") and stage.key not in runs]
    left_out = {out for stage in others for out in stage.outs if out not in stage.committed or not is_here(out)}
    for path in {path for stage in dag for path in (*stage.deps, *stage.outs) if not path.startswith("data/")}:
        kept |= {f"{path}/{name}" for name in names(path)} if Path(path).is_dir() else {path}
    return sorted(kept - left_out)


def _description(files: list[dict[str, str]], checkout: Checkout, paper: Paper) -> dict[str, Any]:
    """A JSON-LD graph with the archive as root Dataset, its files, and the paper."""
    about = {"@id": DESCRIPTION, "@type": "CreativeWork", "conformsTo": {"@id": _SPECIFICATION}, "about": {"@id": "./"}}
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"Reproduction of {paper.title}",
        "description": f"Made by wrn-pipe at {checkout}. wrn-pipe verify --bundle checks it.",
        "datePublished": checkout.date,
        "version": checkout.commit,
        "creativeWorkStatus": checkout.state,
        "license": {"@id": LICENCES},
        "citation": {"@id": paper.url},
        "hasPart": [{"@id": file["@id"]} for file in files],
    }
    article = {"@id": paper.url, "@type": "ScholarlyArticle", "name": paper.title}
    context = [f"{_SPECIFICATION}/context", {"sha256": "https://schema.org/sha256"}]
    return {"@context": context, "@graph": [about, root, article, *files]}


@contextmanager
def unpacked(path: Path) -> Iterator[list[str]]:
    """Be in a folder with an archive's files, none of which is written above it; their names.

    Raises UserError for a damaged one, and before anything is written for one that would take more room than it has.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
                    raise zipfile.BadZipFile("its members are compressed, or overlap")
                archive.extractall(folder)
        except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
            fix = "name an archive of wrn-pipe bundle, or get it again from whoever made it"
            raise UserError(f"{path} cannot be unpacked: {error}", fix) from None
        with chdir(folder):
            yield sorted(file.as_posix() for file in Path().rglob("*") if file.is_file())


def described(members: Sequence[str]) -> tuple[Checkout | None, list[Finding]]:
    """Where the archive in the current folder was made, if it says so, and its files against its description."""
    try:
        graph = {entity["@id"]: entity for entity in json.loads(Path(DESCRIPTION).read_bytes())["@graph"]}
        told = {name: str(entity["sha256"]) for name, entity in graph.items() if entity["@type"] == "File"}
        made = Checkout(*(graph["./"][key] for key in ("version", "creativeWorkStatus", "datePublished")))
        if not re.fullmatch("[0-9a-f]{40,64}", made.commit):
            raise ValueError("its version is not a commit")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return None, [wrong(DESCRIPTION, f"does not describe the archive: {error!r}")]
    here = {name: sha256(Path(name)) for name in members if name != DESCRIPTION}
    found = []
    for name in sorted({name for name, _ in told.items() ^ here.items()}):
        one, other = (digests.get(name, "none")[:12] for digests in (here, told))
        found.append(wrong(name, f"sha256 in the archive: {one}, where {DESCRIPTION} has {other}"))
    alike = len(told.items() & here.items())
    return made, [*found, right(DESCRIPTION, f"{alike} files have the sha256 that it says; made at {made}")]


def check(path: Path, run: Run) -> Iterator[Finding]:
    """Findings on an archive, wherever it is. Raises UserError as `unpacked` does."""
    with unpacked(path) as members:
        made, found = described(members)
        absent = [name for name in _NEEDED if name not in members]
        yield from (*found, *(wrong(name, "is not in the archive") for name in absent))
        if made is None or absent:
            return
        code = next(filter(_is_other_code, members), None)
        edits = ", with edits that nobody committed," if made.dirty else ""
        other = f"made by other code than this: {code} differs; git checkout {made.commit}{edits} and check it by that"
        for finding in verify(load(), run, Depth(), other_code=other if code else ""):
            yield replace(finding, why=finding.why.replace("not here", "not in the archive"), fix="")


def _is_other_code(name: str) -> bool:
    own = Path(__file__).resolve().parents[2] / name  # where the code is that runs
    code = name.startswith(("pipeline/", "stages/"))
    return code and not (own.is_file() and own.read_bytes() == Path(name).read_bytes())


def gathered(plan: Plan, paths: Sequence[Path]) -> tuple[Plan, list[Result]]:
    """The runs whose predictions are in archives: a plan that has those alone, with the margins of `plan`, and results.

    Nothing is checked but what is read. Raises UserError for another file, for one with a broken record, and for a run
    that two of them have: it would count twice.
    """
    datasets, runs = dict(plan.datasets), {}
    found: dict[str, tuple[Path, Result]] = {}
    """Of each run, the archive that has it, and the result."""
    for path in paths:
        if not is_bundle(path):
            raise UserError(f"{path}: not an archive of wrn-pipe bundle", "name one, or leave --bundle out")
        with unpacked(path) as members:
            try:
                its, results = load(), load_results(Path())
            except UserError as error:
                raise UserError(f"{path}: {error.what}", f"wrn-pipe verify --bundle {path} tells all of it") from None
        datasets = {**its.datasets, **datasets}
        for result in results:
            if result.run not in its.runs or f"{EVALUATIONS}/{result.run}/{PREDICTIONS}" not in members:
                continue
            other, _ = found.setdefault(result.run, (path, result))  # evidence of it comes first
            if other != path:
                raise UserError(f"{path} and {other} both have {result.run}", "name one of the two")
            runs[result.run] = its.runs[result.run]
    results = [result for _, result in found.values()]
    return plan.model_copy(update={"datasets": datasets, "runs": runs}), results


def add_archive(
    path: Path, chosen: Sequence[str], plan: Plan, weights: bool, weights_at: str | None = None
) -> dict[str, list[Finding]]:
    """Take the finished runs of an archive of `wrn-pipe bundle`, or the `chosen` of them, into evidence/.

    Returns what was checked of each; raises as `take`, and for an archive that does not match its own description.
    """
    here, added = Path.cwd(), {}
    with unpacked(path) as members:
        root, again = Path.cwd(), "get the archive again from whoever made it"
        made, found = described(members)
        for finding in found:
            if finding.state == "wrong":
                raise UserError(f"{path}: {finding.path} {finding.why}", again)
        if made is None or made.dirty:
            raise UserError(f"{path} was made of code that nobody committed", "commit it there, and bundle again")
        raw = yaml_mapping(read_text(PARAMS, again), PARAMS, again)
        finished = [run_id for run_id in raw.get("runs", ()) if f"{EVALUATIONS}/{run_id}/{PREDICTIONS}" in members]
        if absent := set(chosen) - set(finished):
            raise UserError(f"{path} has no finished run {sorted(absent)[0]}", f"it has: {', '.join(finished)}")
        for run_id in chosen or finished:
            # The protocol as its code completed it, which the code here may do otherwise.
            protocol = read_record(EVALUATIONS / run_id / RECORD, None, "protocol")["protocol"]
            settings: dict[str, Any] = {key: raw.get(key) for key in ("loading", "device", "kernels")}
            settings |= {"run": raw["runs"][run_id], "protocol": protocol}
            content = content_of(run_id, settings["run"])
            origin = Origin(commit=made.commit, settings=settings, content=content, predictions="")
            run = FinishedRun(run_id, root / MODELS / run_id, root / EVALUATIONS / run_id, origin, PARAMS)
            with chdir(here):
                found = take(run, plan, weights, weights_at)
            added[run_id] = [replace(each, path=each.path.removeprefix(f"{root}/")) for each in found]
    return added
