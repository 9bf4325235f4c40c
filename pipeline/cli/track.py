"""wrn-pipe track: MLflow's records of what the files say."""

import typer

from pipeline.cli.options import Json
from pipeline.cli.output import print_json
from pipeline.publication.wide_resnet import PAPER

app = typer.Typer(
    no_args_is_help=True, help="Keep MLflow's records in step with the files.", epilog="Example: wrn-pipe track sync"
)


@app.callback()
def track() -> None:
    """Makes `sync` a word of its own although it is the only one."""


@app.command(epilog="Example: MLFLOW_TRACKING_URI=http://127.0.0.1:5000 wrn-pipe track sync")
def sync(json: Json = False) -> None:
    """Make MLflow show what models/, evaluations/ and dvc.lock say, in tracking/ or at MLFLOW_TRACKING_URI.

    Do it after a server was away, after the database was lost or the folder moved, and for the newest verdicts. What is
    right already is left as it is; a record that says anything else is deleted and written again. Images per second and
    the machine's load are in no file: only a training in progress records them, and they are not made up.
    """
    from pipeline.runner.params_file import load
    from pipeline.tracking.sync import sync_all

    synced = sync_all(PAPER, load(), (lambda _: None) if json else typer.echo)
    if json:
        print_json(synced)
