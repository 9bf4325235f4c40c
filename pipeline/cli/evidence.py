"""wrn-pipe evidence: finished runs that count in every comparison, committed, whoever trained them."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from pipeline.cli.options import Json, Runs, of_plan
from pipeline.cli.output import report
from pipeline.errors import UserError

EXAMPLE = "Example: wrn-pipe evidence"
ABSENT = "Not checked is what is not here to be compared with: each line says what."

app = typer.Typer(
    no_args_is_help=True,
    help="Keep finished runs, of this checkout or of others, that count in every comparison whatever the code is now.",
    epilog=f"{EXAMPLE} add cifar10-wrn-40-1-paper-zca-s1",
)


@app.command(epilog=f"{EXAMPLE} add wrn-pipe.zip --run cifar10-wrn-40-1-paper-zca-s1")
def add(
    what: Annotated[str, Argument(metavar="RUN|FILE", help="A run, or an archive.", autocompletion=of_plan("runs"))],
    run: Runs = None,
    weights: Annotated[bool, Option("--weights", help="Keep weights of at most 3 MB too.")] = False,
    weights_at: Annotated[str | None, Option(metavar="URL", help="Note where the weights are to be had.")] = None,
) -> None:
    """Check a finished run and copy its small records into evidence/, to be committed.

    Checked: digests of its files, metrics from the full predictions, the fingerprint from settings and content, the
    code against the commit that is said to have it, the data's digests, and that no evidence is the same run. Whether
    it was trained as it says, nothing can tell; git and whoever commits it vouch for that. Refused: exit code 2.
    """
    from pipeline.evidence.bundling import add_archive
    from pipeline.evidence.run_check import add
    from pipeline.runner.params_file import load

    if Path(what).is_file():
        added = add_archive(Path(what), run or [], load(), weights, weights_at)
    elif run:
        raise UserError("--run chooses runs of an archive", f"wrn-pipe evidence add {what}")
    else:
        added = {what: add(load(), what, weights, weights_at)}
    for run_id, findings in added.items():
        report(findings, False, "", ABSENT)
        typer.echo(f"added evidence/{run_id}; commit it: git add evidence/{run_id} && git commit")


@app.command("list", epilog=f"{EXAMPLE} list")
def show() -> None:
    """List the runs in evidence/: error, protocol, seed and commit of each."""
    from pipeline.comparison.results import load_results

    evidence = [result for result in load_results(Path()) if result.commit]
    for each in evidence:
        its = f"protocol {each.record.protocol_name}, seed {each.record.seed}, commit {(each.commit or '')[:12]}"
        typer.echo(f"{each.run}  {each.top1_error:.2f} %  {its}")
    if not evidence:
        typer.echo("No evidence yet: wrn-pipe evidence add RUN takes a finished run.")


@app.command(epilog=f"{EXAMPLE} verify")
def verify(
    deep: Annotated[bool, Option("--deep", help="Evaluate the weights that lie there again.")] = False,
    json: Json = False,
) -> None:
    """Check every run in evidence/ as far as its files, this repository's history and the data here allow.

    Exit code: 0 nothing is wrong, 1 something is.
    """
    from pipeline.artifacts import runs_in_evidence
    from pipeline.evidence.verification import Depth, runs
    from pipeline.runner.params_file import load

    found = runs(load(), [], runs_in_evidence(), Depth(deep))
    fix = "git checkout what somebody has edited; a run that is faulty: wrn-pipe evidence remove RUN"
    report(found, json, fix, ABSENT)


@app.command(epilog=f"{EXAMPLE} remove cifar10-wrn-40-1-paper-zca-s1")
def remove(run: Annotated[str, Argument(help="A run in evidence/.")]) -> None:
    """Take a run out of evidence/; git still has it. A run is removed because it is faulty, never for what it says."""
    from pipeline.evidence.run_check import remove

    remove(run)
    typer.echo(f"removed evidence/{run}; say why in the commit")
