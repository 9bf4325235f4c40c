"""wrn-pipe repro: bring results up to date with params.yaml."""

import subprocess
from pathlib import Path
from typing import Annotated

import typer


def repro(
    targets: Annotated[
        list[str] | None,
        typer.Argument(help="Stages (train@RUN), groups (train) or run ids; all by default.", show_default=False),
    ] = None,
    dry: Annotated[bool, typer.Option("--dry", help="Show what would run, run nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Run the targets even when nothing changed.")] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", "-k", help="After a failure go on with what does not need it.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Train from the start what earlier attempts left unfinished.")
    ] = False,
) -> None:
    """Run every stage that is out of date, with `dvc repro`, and say when results differ from the committed ones.

    Exit code: 0 done, 1 a stage failed, 2 a mistake you can mend, 130 or 143 stopped by a signal.
    """
    from pipeline.execution.dvc import LOCK, changed_results, runs_behind
    from pipeline.execution.dvc import repro as run
    from pipeline.params import load
    from pipeline.provenance import fingerprint
    from pipeline.training.holder import discard, hold

    plan = load()
    for run_id in runs_behind(plan, targets or []) if fresh and not dry else ():
        scratch = Path("scratch") / fingerprint(plan, run_id)
        with hold(scratch, run_id):
            discard(scratch)
    options = [flag for flag, on in (("--dry", dry), ("--force", force), ("--keep-going", keep_going)) if on]
    code = run(plan, targets or [], options)
    if code:
        raise typer.Exit(code)
    if dry or not LOCK.is_file():
        return
    committed = _committed(LOCK)
    if committed is None:
        return
    changed = changed_results(committed, LOCK.read_text(encoding="utf-8"))
    trained = [name for name in changed if name.startswith("train@")]
    if trained:
        _explain(trained)


def _committed(path: Path) -> str | None:
    """The file as the checked-out commit has it; None where it has none."""
    done = subprocess.run(["git", "show", f"HEAD:./{path.as_posix()}"], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


def _explain(trained: list[str]) -> None:
    """Say why results differ from the committed ones although nothing was edited: floating point on other hardware."""
    import csv
    import io

    path = Path("results/runs.csv")
    committed = {row["run"]: row for row in csv.DictReader(io.StringIO(_committed(path) or ""))}
    here_text = path.read_text(encoding="utf-8") if path.is_file() else ""
    here = {row["run"]: row for row in csv.DictReader(io.StringIO(here_text))}
    typer.echo("\nSame inputs, other results than in the checked-out commit (dvc.lock and results/ now differ):")
    for name in trained:
        run = name.split("@", 1)[1]
        if run not in committed or run not in here:
            continue
        keys = ("device", "processor", "capability", "threads", "kernels", "torch")
        then, now = ({k: rows[run][k] for k in keys} for rows in (committed, here))
        differences = [f"{k} {then[k]} -> {now[k]}" for k in keys if then[k] != now[k]]
        why = (
            "; ".join(differences)
            or "the same kind of processor by name, so another microcode or an unrepeatable kernel"
        )
        typer.echo(f"  {run}: top-1 error {committed[run]['top1_error']} -> {here[run]['top1_error']} ({why})")
    typer.echo(
        "Floating-point sums depend on the processor, the number of threads and the compiler. "
        "Commit both files to keep these."
    )
