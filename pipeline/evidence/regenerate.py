"""Results that git keeps, made again by their own stages in a temporary folder and compared byte for byte.

Their stages read what git has of the runs, so a fresh clone can do it.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from itertools import zip_longest
from pathlib import Path

from pipeline.errors import WrnPipeError
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


def check(plan: Plan, disk: Disk, dag: Sequence[Stage], run: Run, other_code: str) -> Iterator[Finding]:
    """Each output of the stages whose outputs all are in git, against what the stage makes now of the files here.

    The plan is cut down to the runs that are evaluated: the others are not in these results yet. `other_code`: why the
    code here may make other results than those that are compared; they are then unchecked, not wrong.
    """
    made = [stage for stage in dag if stage.in_git]
    evaluated = {name: each for name, each in plan.runs.items() if disk.is_here(f"evaluations/{name}/metrics.json")}
    with view(disk.root, *{Path(out).parts[0] for stage in made for out in stage.outs}) as folder:
        if len(evaluated) < len(plan.runs):
            (folder / PARAMS).unlink()
            cut = plan.model_copy(update={"runs": evaluated})
            (folder / PARAMS).write_text(json.dumps(cut.model_dump(mode="json")), encoding="utf-8")
        for stage in made:
            for finding in _compare(disk, stage, run, folder):
                differs = other_code and finding.state == "wrong" and (disk.root / finding.path).is_file()
                yield unchecked(finding.path, other_code) if differs else finding


def _compare(disk: Disk, stage: Stage, run: Run, folder: Path) -> Iterator[Finding]:
    for out in stage.outs:
        (folder / out).parent.mkdir(parents=True, exist_ok=True)
    try:
        run(stage.command)
    except Exception as error:  # noqa: BLE001 - a stage trusts its inputs, which somebody may have edited
        why = error.what if isinstance(error, WrnPipeError) else repr(error)
        yield from (wrong(out, f"cannot be made again: {why}") for out in stage.outs)
        return
    for out in stage.outs:
        here, made = disk.root.resolve() / out, folder / out
        if not here.is_file():
            yield wrong(out, "not found", f"git checkout {out}, or wrn-pipe repro {stage.name}")
        elif not made.is_file():
            yield wrong(out, f"is not what {stage.name} makes: {stage.command}")
        elif here.read_bytes() == made.read_bytes():
            yield right(out, f"is what {stage.name} makes of the runs here")
        else:
            lines = zip_longest(*(path.read_bytes().split(b"\n") for path in (here, made)))
            first = next(number for number, (one, other) in enumerate(lines, 1) if one != other)
            yield wrong(out, f"is not what {stage.name} makes of the runs here: line {first}")
