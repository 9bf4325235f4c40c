"""wrn-pipe show: where the number of one run comes from."""

from typing import Annotated

import typer

from pipeline.cli import completion

EPILOG = "Example: wrn-pipe show cifar10-wrn-40-1-quick-s1"


def show(
    run: Annotated[str, typer.Argument(help="A run of params.yaml that is evaluated.", autocompletion=completion.runs)],
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with all inputs and dvc.lock's digests.")] = False,
) -> None:
    """Tell where a run's error comes from, what it says about the paper, and what would change it.

    Data, training, machine, versions, the digests of its files, the commit, and whether DVC finds them up to date.
    """
    from pipeline.atomic_write import json_text
    from pipeline.evidence import provenance_summary
    from pipeline.publication.wide_resnet import PAPER
    from pipeline.runner.params_file import load

    told = provenance_summary.of_run(PAPER, load(), run)
    typer.echo(json_text(told) if json else provenance_summary.as_text(told, PAPER), nl=False)
