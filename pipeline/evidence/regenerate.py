"""Results that git keeps, made again by their own stages in a temporary folder and compared byte for byte.

Of what the stages read: the files here, or where these are not, the evaluations that results/manifest.json tells of.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path

from pipeline.errors import UserError, WrnPipeError
from pipeline.evidence import recorded
from pipeline.evidence.findings import Finding, right, unchecked, wrong
from pipeline.evidence.lock_check import Disk
from pipeline.params import PARAMS, Plan
from pipeline.runner.dag import Stage

Run = Callable[[str], None]
"""Runs a stage's command, such as `python -m stages.tabulate 4`, in the current folder."""
_HIDDEN = {"scratch", "tracking"}


@contextmanager
def view(root: Path, *own: str) -> Iterator[Path]:
    """A folder that shows the repository at `root` by links, but has empty folders `own` of its own: the current one.

    What a stage writes to those is lost at the end, and MLflow's store and unfinished trainings are out of its sight.
    """
    root = root.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in root.iterdir():
            if path.name not in (*own, *_HIDDEN) and not path.name.startswith("."):
                (folder / path.name).symlink_to(path)
        for each in own:
            (folder / each).mkdir()
        with chdir(folder):
            yield folder


def check(plan: Plan, disk: Disk, dag: Sequence[Stage], run: Run) -> Iterator[Finding]:
    """Each file that a stage writes for git, against what the stage makes now of the files that are here.

    Where some are not, against what it makes of the runs that the manifest has, if it reads no more of them.
    """
    made = [stage for stage in dag if stage.committed]
    outs = [out for stage in dag for out in stage.outs]
    lacking: list[tuple[Stage, str, bool]] = []
    with view(disk.root, *{Path(out).parts[0] for stage in made for out in stage.committed}) as folder:
        for stage in made:
            # A folder that a stage reads may hold the outputs of others, an output of another the file that it reads.
            near = [o for o in outs for d in stage.deps if f"{o}/".startswith(f"{d}/") or f"{d}/".startswith(f"{o}/")]
            absent = [out for out in near if not (folder / out).exists()]
            if absent:
                told = all(Path(out).is_relative_to(recorded.EVALUATIONS) for out in near)
                lacking.append((stage, absent[0], told))
                continue
            yield from _compare(disk, stage, run, folder, "the files here")
    if lacking:
        yield from _of_the_manifest(plan, disk, lacking, run)


def _of_the_manifest(plan: Plan, disk: Disk, lacking: Sequence[tuple[Stage, str, bool]], run: Run) -> Iterator[Finding]:
    """Stages whose inputs are not all here, each with one that is not and whether it reads evaluations only.

    The plan is cut down to the runs that the manifest has: the others are not in these results.
    """
    try:
        known = recorded.files(plan, disk.root)
    except UserError:  # which recorded.check has found
        known = {}
    for stage, absent, told in lacking:
        if not known or not told:
            yield from (unchecked(out, f"{absent}, which it is made of, is not here") for out in stage.committed)
    made = [stage for stage, _, told in lacking if known and told]
    with view(disk.root, str(recorded.EVALUATIONS), *{Path(o).parts[0] for s in made for o in s.committed}) as folder:
        for run_id, files in known.items():
            here = disk.root.resolve() / recorded.EVALUATIONS / run_id
            if all((here / name).is_file() for name in files):
                known[run_id] = {name: (here / name).read_bytes() for name in files}
        recorded.write(known, folder / recorded.EVALUATIONS)
        cut = plan.model_copy(update={"runs": {run_id: plan.runs[run_id] for run_id in known}})
        (folder / PARAMS).unlink()
        (folder / PARAMS).write_text(json.dumps(cut.model_dump(mode="json")), encoding="utf-8")
        for stage in made:
            yield from _compare(disk, stage, run, folder, f"the runs in {recorded.MANIFEST}")


def _compare(disk: Disk, stage: Stage, run: Run, folder: Path, of: str) -> Iterator[Finding]:
    for out in stage.committed:
        (folder / out).parent.mkdir(parents=True, exist_ok=True)
    try:
        run(stage.command)
    except WrnPipeError as error:
        yield from (wrong(out, f"cannot be made again: {error.what}") for out in stage.committed)
        return
    except Exception as error:  # noqa: BLE001 - a stage trusts its inputs, which somebody may have edited
        yield from (wrong(out, f"cannot be made again: {error!r}") for out in stage.committed)
        return
    for out in stage.committed:
        here = disk.root.resolve() / out
        if not here.is_file():
            yield wrong(out, f"is not here; git checkout {out}, or wrn-pipe repro {stage.name}")
        elif not (folder / out).is_file():
            yield wrong(out, f"is not what {stage.name} makes: {stage.command}")
        elif here.read_bytes() == (folder / out).read_bytes():
            yield right(out, f"is what {stage.name} makes of {of}")
        else:
            yield wrong(out, f"is not what {stage.name} makes of {of}{_line(here, folder / out)}")


def _line(here: Path, made: Path) -> str:
    """The first line that differs, of a text."""
    one, other = (path.read_bytes().split(b"\n") for path in (here, made))
    for number, lines in enumerate(zip(one, other, strict=False), 1):
        if lines[0] != lines[1]:
            return f": line {number}"
    return f": it ends after line {min(len(one), len(other))}" if len(one) != len(other) else ""
