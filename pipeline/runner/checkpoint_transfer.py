"""The state of an unfinished training as one file that travels: saved here, gone on with on another machine.

A ZIP without compression: the checkpoint under its own name, which has the sha256 of its content, and what its
fingerprint is the hash of, so that a machine whose code or settings differ can say in what.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

from pipeline.artifacts import SAVED_STATES, SCRATCH, fingerprint_of, read_checkpoint
from pipeline.atomic_write import json_text, new_file, writing
from pipeline.errors import UserError
from pipeline.params import Plan
from pipeline.provenance import inputs
from pipeline.runner.run_lock import living_owner

Inputs = tuple[dict[str, Any], dict[str, str]]
"""Settings and content of `provenance.inputs`."""
_ABOUT = "checkpoint.json"
_AGAIN = "export it again with: wrn-pipe checkpoint export RUN --to FILE"


def export(plan: Plan, run_id: str, to: Path) -> tuple[int, int, int]:
    """Write the furthest state of a run into a file; returns epochs done, steps of the next one, and bytes.

    Raises UserError for a run without a saved state, or one that cannot be written.
    """
    settings, content = inputs(plan, run_id)
    states = sorted((SCRATCH / fingerprint_of(settings, content)).glob(SAVED_STATES))
    if not states:
        raise UserError(
            f"run {run_id} has no saved state by the settings and code here",
            f"wrn-pipe repro {run_id} trains it; Ctrl-C or SIGTERM saves",
        )
    at, _ = read_checkpoint(states[-1])
    with writing(to), zipfile.ZipFile(to, "w") as file:
        file.write(states[-1], states[-1].name)
        file.writestr(_ABOUT, json_text({"run": run_id, "settings": settings, "content": content}))
    return at.epoch, at.step, to.stat().st_size


def take(plan: Plan, file: Path) -> tuple[str, int, int]:
    """Put a state that `export` wrote where its training goes on from; returns the run, epochs done, and steps.

    Raises UserError for a damaged file, one of another training than the plan's of that name, with what differs, for a
    run that a process trains right now, and where a state lies here that is as far or further.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            about: dict[str, Any] = json.loads(archive.read(_ABOUT))
            (name,) = set(archive.namelist()) - {_ABOUT}
            state = archive.read(name)
            run_id, settings, content = about["run"], about["settings"], about["content"]
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        raise UserError(f"{file} holds no state of a training: {error}", _AGAIN) from None
    own = inputs(plan, run_id)
    if (settings, content) != own:
        raise UserError(
            f"{file} was saved by other settings, code or data: {'; '.join(_differences((settings, content), own))}",
            "check out the commit that it was saved at; its bits could not be told from a training by both",
        )
    scratch = SCRATCH / fingerprint_of(settings, content)
    if owner := living_owner(scratch):
        raise UserError(f"run {run_id} is being trained by {owner}", "wait for its end, or stop it")
    if Path(name).name != name or not Path(name).match(SAVED_STATES):
        raise UserError(f"{file} holds no state of a training: {name}", _AGAIN)
    if any(there.name.split(".")[0] >= name.split(".")[0] for there in scratch.glob(SAVED_STATES)):
        raise UserError(f"a state of {run_id} that is as far or further lies here", f"wrn-pipe repro {run_id} goes on")
    new_file(scratch / name, state)
    try:
        at, _ = read_checkpoint(scratch / name)
    except OSError as error:
        (scratch / name).unlink()
        raise UserError(f"{file} is damaged: {error.strerror}", _AGAIN) from None
    return run_id, at.epoch, at.step


def _differences(
    theirs: tuple[dict[str, Any], dict[str, str]], ours: tuple[dict[str, Any], dict[str, str]]
) -> list[str]:
    """Settings and files in which two trainings differ, in words."""
    found = []
    for (key, there), here in ((item, ours[0].get(item[0])) for item in theirs[0].items()):
        if isinstance(there, dict) and isinstance(here, dict):
            keys = [name for name in {**there, **here} if there.get(name) != here.get(name)]
            found += [f"{key}.{name} {there.get(name)}, here {here.get(name)}" for name in keys]
        elif there != here:
            found.append(f"{key} {there}, here {here}")
    files = [path for path in {**theirs[1], **ours[1]} if theirs[1].get(path) != ours[1].get(path)]
    return [*found, *files]
