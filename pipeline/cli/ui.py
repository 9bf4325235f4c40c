"""wrn-pipe ui: browse the recorded runs in MLflow."""

import os
import signal
import socket
import subprocess
import sys
import time
from typing import Annotated

import typer
from typer import Option

from pipeline.errors import UserError
from pipeline.publication.wide_resnet import PAPER


def ui(port: Annotated[int, Option(help="Port on this machine.", min=1, max=65535)] = 5000) -> None:
    """Open MLflow's web pages on this repository's runs, on this machine only. Ctrl-C stops it.

    It does first what `wrn-pipe track sync` does, so that the pages show what the files say.
    """
    from pipeline.runner.params_file import load
    from pipeline.tracking.mlflow_logger import connect, explained, folder, page, uri
    from pipeline.tracking.sync import SAME, sync_all

    if os.environ.get("MLFLOW_TRACKING_URI"):
        what = "MLFLOW_TRACKING_URI names a server, which has pages of its own"
        raise UserError(what, "open its address, or unset the variable")
    if _answers(port):
        raise UserError(f"port {port} is in use", f"wrn-pipe ui --port {port + 1}")
    sync_all(PAPER, load(), lambda line: None if line.startswith(SAME) else typer.echo(line))
    with explained():
        _, experiment = connect(PAPER)
    typer.echo("starting MLflow's server", err=True)
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri", uri()]
    words += ["--artifacts-destination", (folder() / "artifacts").as_uri(), "--registry-store-uri", uri()]
    quiet = {"MLFLOW_LOGGING_LEVEL": "WARNING", "PYTHONWARNINGS": "ignore:starlette.middleware.wsgi is deprecated"}
    command = [sys.executable, "-m", "mlflow", *words, "--uvicorn-opts", "--log-level warning"]
    server = subprocess.Popen(command, env={**quiet, **os.environ}, start_new_session=True)
    try:
        while server.poll() is None and not _answers(port):  # some ten seconds
            time.sleep(0.05)
        if server.poll() is None:
            typer.echo(f"{page(f'http://127.0.0.1:{port}', experiment)} - Ctrl-C stops it")
        code = server.wait()
    except KeyboardInterrupt:
        code = 0
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:  # asked to end while its helpers start, it was seen to wait for ever
                os.killpg(server.pid, signal.SIGKILL)
    raise typer.Exit(code)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
