"""wrn-pipe evidence: finished runs that count in every comparison, committed, whoever trained them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import completion
from pipeline.cli.verify import report


@dataclass(frozen=True)
class Row:
    """A run as it is listed."""

    run: str
    error: float
    protocol: str
    seed: int
    commit: str


app = typer.Typer(
    no_args_is_help=True,
    help="Keep finished runs, of this checkout or of others, that count in every comparison whatever the code is now.",
    epilog="Example: wrn-pipe evidence add cifar10-wrn-40-1-paper-zca-s1",
)


@app.command(epilog="Example: wrn-pipe evidence add wrn-pipe.zip --run cifar10-wrn-40-1-paper-zca-s1")
def add(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FILE",
            help="A finished run of this checkout, or an archive of wrn-pipe bundle.",
            autocompletion=completion.runs,
        ),
    ],
    run: Annotated[
        list[str] | None, typer.Option(help="Of an archive only this run. Repeatable. Default: all that are finished.")
    ] = None,
    weights: Annotated[bool, typer.Option("--weights", help="Keep the weights too, where they have at most 3 MB.")] = (
        False
    ),
    weights_at: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Note where the weights are to be had.", show_default=False),
    ] = None,
) -> None:
    """Check a finished run and copy its small records into evidence/, to be committed.

    Checked: digests of its files, metrics from the full predictions, the fingerprint from settings and content, the
    code against the commit that is said to have it, the data's digests, and that no evidence is the same run. Whether
    it was trained as it says, nothing can tell; git and whoever commits it vouch for that. Refused: exit code 2.
    """
    from pipeline.errors import UserError
    from pipeline.evidence.evidence_folder import add, add_archive
    from pipeline.runner.params_file import load

    if Path(what).is_file():
        added = add_archive(Path(what), run or [], load(), weights, weights_at)
    elif run:
        raise UserError("--run chooses runs of an archive", f"wrn-pipe evidence add {what}")
    else:
        added = {what: add(load(), what, weights, weights_at)}
    for run_id, findings in added.items():
        report(findings, False, "", "Not checked is what is not here to be compared with: each line says what.")
        typer.echo(f"added evidence/{run_id}; commit it: git add evidence/{run_id} && git commit")


@app.command("list", epilog="Example: wrn-pipe evidence list")
def show() -> None:
    """List the runs in evidence/: error, protocol, seed and commit of each."""
    from rich.console import Console

    from pipeline.cli.row_table import row_table
    from pipeline.comparison.results import load_results

    rows = [
        Row(each.run, each.top1_error, each.record.protocol_name, each.record.seed, each.commit[:12])
        for each in load_results(Path())
        if each.commit
    ]
    if rows:
        Console(highlight=False).print(row_table("Evidence", rows))
    else:
        typer.echo("No evidence yet: wrn-pipe evidence add RUN takes a finished run.")


@app.command(epilog="Example: wrn-pipe evidence verify")
def verify(
    deep: Annotated[bool, typer.Option("--deep", help="Evaluate the weights that lie there again.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check every run in evidence/ as far as its files, this repository's history and the data here allow.

    Exit code: 0 nothing is wrong, 1 something is.
    """
    from pipeline.artifacts import runs_in_evidence
    from pipeline.evidence.verification import Depth, runs
    from pipeline.runner.params_file import load

    found = runs(load(), [], runs_in_evidence(), Depth(deep))
    fix = "git checkout what somebody has edited; a run that is faulty: wrn-pipe evidence remove RUN"
    report(found, json, fix, "Not checked is what is not here to be compared with: each line says what.")


@app.command(epilog="Example: wrn-pipe evidence remove cifar10-wrn-40-1-paper-zca-s1")
def remove(run: Annotated[str, typer.Argument(help="A run in evidence/.")]) -> None:
    """Take a run out of evidence/; git still has it. A run is removed because it is faulty, never for what it says."""
    from pipeline.evidence.evidence_folder import remove

    remove(run)
    typer.echo(f"removed evidence/{run}; say why in the commit")
