"""wrn-pipe show: where the number of one run comes from."""

import typer

from pipeline.cli.options import Json, Run
from pipeline.cli.output import print_json
from pipeline.publication.wide_resnet import PAPER


def show(run: Run, json: Json = False) -> None:
    """Tell where a run's error comes from, what it says about the paper, and what would change it.

    Data, training, machine, versions, the digests of its files, the commit, and whether DVC finds them up to date.
    --json: with all inputs and dvc.lock's digests.
    """
    from pipeline.evidence import provenance_summary, provenance_text
    from pipeline.runner.params_file import load

    told = provenance_summary.of_run(PAPER, load(), run)
    if json:
        print_json(told)
    else:
        typer.echo(provenance_text.run(told, PAPER), nl=False)
