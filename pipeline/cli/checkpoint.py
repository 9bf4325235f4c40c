"""wrn-pipe checkpoint: take an unfinished training to another machine.

It travels as a ZIP without compression: the state under its own name, which has the sha256 of its content, and what its
fingerprint is the hash of, so that a machine whose code or settings differ can say in what.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument

from pipeline.cli.options import Run, To
from pipeline.errors import UserError

EXAMPLE = "Example: wrn-pipe checkpoint export cifar10-wrn-40-1-quick-s1 --to s1.zip"

app = typer.Typer(
    no_args_is_help=True, help="Take an unfinished training to another machine, and go on there.", epilog=EXAMPLE
)
_ABOUT = "checkpoint.json"


@app.command(epilog=EXAMPLE)
def export(run: Run, to: To) -> None:
    """Write the last saved state of a run into one file that checks itself."""
    import zipfile

    from pipeline.artifacts import SAVED_STATES, SCRATCH, fingerprint_of, read_checkpoint
    from pipeline.atomic_write import json_text, writing
    from pipeline.provenance import inputs
    from pipeline.runner.params_file import load

    settings, content = inputs(load(), run)
    state = max((SCRATCH / fingerprint_of(settings, content)).glob(SAVED_STATES), default=None)
    if state is None:
        what = f"run {run} has no saved state by the settings and code here"
        raise UserError(what, f"wrn-pipe repro {run} trains it; Ctrl-C or SIGTERM saves")
    at, _ = read_checkpoint(state)
    with writing(to), zipfile.ZipFile(to, "w") as file:
        file.write(state, state.name)
        file.writestr(_ABOUT, json_text({"run": run, "settings": settings, "content": content}))
    typer.echo(f"{to}: {run} after {at.epoch} epochs and {at.step} steps, {to.stat().st_size / 1e6:.1f} MB")
    typer.echo(f"Elsewhere, at the same commit: wrn-pipe checkpoint import {to.name}, then wrn-pipe repro {run}")


@app.command("import", epilog="Example: wrn-pipe checkpoint import s1.zip")
def take(file: Annotated[Path, Argument(help="A file of wrn-pipe checkpoint export.")]) -> None:
    """Put such a state where its training goes on from. Refused, with what differs, for other settings, code, data."""
    import json
    import zipfile

    from pipeline.artifacts import SAVED_STATES, SCRATCH, fingerprint_of, read_checkpoint
    from pipeline.atomic_write import new_file
    from pipeline.provenance import inputs
    from pipeline.runner.attempts import living_owner
    from pipeline.runner.params_file import load
    from pipeline.tracking.mlflow_logger import flat

    again = "export it again with: wrn-pipe checkpoint export RUN --to FILE"
    try:
        with zipfile.ZipFile(file) as archive:
            about: dict[str, Any] = json.loads(archive.read(_ABOUT))
            (name,) = (path for path in archive.namelist() if Path(path).match(SAVED_STATES))
            state = archive.read(name)
            run, settings, content = about["run"], about["settings"], about["content"]
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        raise UserError(f"{file} holds no state of a training: {error}", again) from None
    settings_here, content_here = inputs(load(), run)
    theirs, ours = flat(settings), flat(settings_here)
    unlike = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
    differences = [f"{key} {theirs.get(key)}, here {ours.get(key)}" for key in unlike]
    differences += [path for path in {**content, **content_here} if content.get(path) != content_here.get(path)]
    if differences:
        raise UserError(
            f"{file} was saved by other settings, code or data: {'; '.join(differences)}",
            "check out the commit that it was saved at; its bits could not be told from a training by both",
        )
    scratch = SCRATCH / fingerprint_of(settings, content)
    if owner := living_owner(scratch):
        raise UserError(f"run {run} is being trained by {owner}", "wait for its end, or stop it")
    to = scratch / Path(name).name
    if any(there.name.split(".")[0] >= to.name.split(".")[0] for there in scratch.glob(SAVED_STATES)):
        raise UserError(f"a state of {run} that is as far or further lies here", f"wrn-pipe repro {run} goes on")
    new_file(to, state)
    try:
        at, _ = read_checkpoint(to)
    except OSError as error:
        to.unlink()
        raise UserError(f"{file} is damaged: {error.strerror}", again) from None
    typer.echo(f"{run}: {at.epoch} epochs and {at.step} steps are done; wrn-pipe repro {run} goes on")
