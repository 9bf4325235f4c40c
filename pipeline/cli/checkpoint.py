"""wrn-pipe checkpoint: take an unfinished training to another machine."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument

from pipeline.cli.options import Run, To

EXAMPLE = "Example: wrn-pipe checkpoint export cifar10-wrn-40-1-quick-s1 --to s1.zip"

app = typer.Typer(
    no_args_is_help=True, help="Take an unfinished training to another machine, and go on there.", epilog=EXAMPLE
)


@app.command(epilog=EXAMPLE)
def export(run: Run, to: To) -> None:
    """Write the last saved state of a run into one file that checks itself."""
    from pipeline.runner.checkpoint_transfer import export
    from pipeline.runner.params_file import load

    epochs, steps, size = export(load(), run, to)
    typer.echo(f"{to}: {run} after {epochs} epochs and {steps} steps, {size / 1e6:.1f} MB")
    typer.echo(f"Elsewhere, at the same commit: wrn-pipe checkpoint import {to.name}, then wrn-pipe repro {run}")


@app.command("import", epilog="Example: wrn-pipe checkpoint import s1.zip")
def take(file: Annotated[Path, Argument(help="A file of wrn-pipe checkpoint export.")]) -> None:
    """Put such a state where its training goes on from. Refused, with what differs, for other settings, code, data."""
    from pipeline.runner.checkpoint_transfer import take
    from pipeline.runner.params_file import load

    run, epochs, steps = take(load(), file)
    typer.echo(f"{run}: {epochs} epochs and {steps} steps are done; wrn-pipe repro {run} goes on")
