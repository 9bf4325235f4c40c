"""wrn-pipe verify: compute again whatever can be, compare, and name every file that does not agree."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

from typer import Option

from pipeline.cli.options import Json, of_plan
from pipeline.cli.output import report
from pipeline.errors import UserError

TELLING = ("summarize", "tabulate", "manifest", "report")
"""Stages that turn files into other files and do nothing else; an archive from elsewhere can make no other one run."""


def verify(
    deep: Annotated[bool, Option("--deep", help="Evaluate the weights again and compare predictions.")] = False,
    deeper: Annotated[
        str | None,
        Option(metavar="RUN", help="Train RUN again in a scratch folder and compare.", autocompletion=of_plan("runs")),
    ] = None,
    epochs: Annotated[int | None, Option(min=1, help="With --deeper: only this many epochs. Default: all.")] = None,
    bundle: Annotated[Path | None, Option(metavar="FILE", help="Check an archive of wrn-pipe bundle.")] = None,
    json: Json = False,
) -> None:
    """Recompute what the results claim, from the files they are said to come from.

    Every file against dvc.lock, read byte by byte; the data's content against the pinned digests; metrics from
    predictions; labels from the data; each run's fingerprint from settings, code and data; tables, manifest and report
    made again by their own stages. --deep computes predictions from weights, --deeper RUN weights from nothing: to the
    same bits on the kind of machine that run.json names. Nothing can tell whether it names the right one or, on another
    kind, whether weights and all that follows were forged to fit: git's history and a bundle's sha256 vouch for those.

    Exit code: 0 nothing is wrong, 1 something is. What is not here, and what takes --deep or --deeper, is listed as not
    checked, and is not wrong.
    """
    from pipeline.evidence import bundling, verification
    from pipeline.runner.params_file import load

    if epochs is not None and deeper is None:
        raise UserError("--epochs without --deeper", "wrn-pipe verify --deeper RUN --epochs 1")
    if bundle is not None:
        if deep or deeper:
            raise UserError("--bundle with --deep or --deeper: an archive has no data", "unpack it where the data is")
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
    report(verification.verify(plan, run_stage, deep=deep, deeper=deeper, epochs=epochs), json, fix, absent)


def run_stage(command: str) -> None:
    """Run a stage's command in this process. Raises UserError unless it is one of TELLING."""
    match command.split():
        case ["python", "-m", module, *words] if module.removeprefix("stages.") in TELLING:
            import_module(f"stages.{module.removeprefix('stages.')}").main(*words)
        case _:
            raise UserError(f"verify does not run {command!r}", "see dvc.yaml")
