"""wrn-pipe verify: compute again whatever can be, compare, and name every file that does not agree."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import completion

if TYPE_CHECKING:
    from pipeline.evidence.findings import Finding

EPILOG = "Example: wrn-pipe verify --deep cifar10-wrn-40-1-quick-s1"
TELLING = ("summarize", "tabulate", "manifest", "report")
"""Stages that turn files into other files and do nothing else; an archive from elsewhere can make no other one run."""


def verify(
    run: Annotated[
        str | None,
        typer.Argument(
            help="Only this run, of params.yaml or in evidence/. Default: everything.",
            show_default=False,
            autocompletion=completion.runs,
        ),
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Evaluate the weights again and compare predictions.")] = False,
    deeper: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="Train RUN again in a scratch folder and compare.", autocompletion=completion.runs
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="With --deeper: only this many epochs. Default: all.", show_default=False)
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Check an archive of wrn-pipe bundle instead, anywhere.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Recompute what the results claim, from the files they are said to come from.

    Every file against dvc.lock, read byte by byte; the data's content against the pinned digests; tables, manifest and
    report made again by their own stages; and of every run, of params.yaml or in evidence/, metrics from predictions,
    labels from the data, the fingerprint from settings, code and data. --deep computes predictions from weights,
    --deeper RUN weights from nothing: to the same bits on the kind of machine that run.json names. Nothing can tell
    whether it names the right one or, on another kind, whether weights and all that follows were forged to fit: git's
    history and a bundle's sha256 vouch for those.

    Exit code: 0 nothing is wrong, 1 something is. What is not here, and what takes --deep or --deeper, is listed as not
    checked, and is not wrong.
    """
    from pipeline.artifacts import runs_in_evidence
    from pipeline.errors import UserError
    from pipeline.evidence import bundling, verification
    from pipeline.runner.params_file import load

    if epochs is not None and deeper is None:
        raise UserError("--epochs without --deeper", "wrn-pipe verify --deeper RUN --epochs 1")
    if bundle is not None:
        if run or deep or deeper:
            raise UserError("--bundle with RUN, --deep or --deeper: it has no data", "unpack it where the data is")
        fix = "Get the archive again from whoever made it: these files are not as it, or the others, say."
        absent = "Not checked is what needs the images, which no archive has, or this code where another made it."
        report(bundling.check(bundle, run_stage), json, fix, absent)
        return
    plan = load()
    if deeper is not None:
        plan.run(deeper)
    fix = (
        "To get them right: git checkout what you did not mean to edit, then dvc checkout,\n"
        "or wrn-pipe repro to make again what follows from your edits."
    )
    absent = "Not checked is what is not here, has nothing here to be compared with, or takes long: each line says why."
    depth = verification.Depth(deep, deeper, epochs)
    if run is None:
        found = verification.verify(plan, run_stage, depth)
    else:
        planned = [each for each in plan.runs if each in (run, deeper)]
        evidence = [each for each in runs_in_evidence() if each in (run, deeper)]
        if run not in (*planned, *evidence):
            plan.run(run)
        found = verification.runs(plan, planned, evidence, depth)
    report(found, json, fix, absent)


def run_stage(command: str) -> None:
    """Run a stage's command in this process. Raises UserError unless it is one of TELLING."""
    from importlib import import_module

    from pipeline.errors import UserError

    words = command.split()
    module = words[2].removeprefix("stages.") if len(words) > 2 else ""
    if words[:2] != ["python", "-m"] or module not in TELLING:
        raise UserError(f"verify does not run {command!r}", "see dvc.yaml")
    import_module(f"stages.{module}").main(*words[3:])


def report(findings: "Iterable[Finding]", json: bool, fix: str, absent: str) -> None:
    """Print each finding as it comes, then how many there are and what to do; exit 1 if any is wrong.

    `fix` is said when some are wrong, `absent` when some are only not checked.
    """
    from dataclasses import asdict
    from json import dumps

    found = []
    for finding in findings:
        found.append(finding)
        if not json:
            colour = {"right": "green", "wrong": "red", "unchecked": "yellow"}[finding.state]
            state = typer.style(f"{finding.state:<9}", fg=colour)
            typer.echo(f"{state}  {finding.path}  {finding.why}{'; ' * bool(finding.fix)}{finding.fix}")
    counted = {state: sum(each.state == state for each in found) for state in ("right", "wrong", "unchecked")}
    if json:
        typer.echo(dumps({**counted, "findings": [asdict(each) for each in found]}, indent=2))
    else:
        typer.echo(f"{counted['right']} right, {counted['wrong']} wrong, {counted['unchecked']} not checked.")
        if counted["wrong"]:
            named = ", ".join(dict.fromkeys(each.path for each in found if each.state == "wrong"))
            typer.echo(f"Wrong: {named}\n{fix}")
        elif counted["unchecked"]:
            typer.echo(absent)
    if counted["wrong"]:
        raise typer.Exit(1)
