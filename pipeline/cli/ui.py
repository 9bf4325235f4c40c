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

_PATIENCE_S = 10
"""MLflow's server, asked to end while its helpers still start, was seen to wait for them for ever."""
_QUIET = {
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "PYTHONWARNINGS": "ignore:starlette.middleware.wsgi is deprecated",  # which MLflow imports
}


def ui(port: Annotated[int, Option(help="Port on this machine.", min=1, max=65535)] = 5000) -> None:
    """Open MLflow's web pages on this repository's runs, on this machine only. Ctrl-C stops it.

    It does first what `wrn-pipe track sync` does, so that the pages show what the files say.
    """
    from pipeline.runner.params_file import load
    from pipeline.tracking.mlflow_logger import FOLDER, connect, explained, page, uri
    from pipeline.tracking.sync import SAME, sync_all

    if os.environ.get("MLFLOW_TRACKING_URI"):
        raise UserError(
            "MLFLOW_TRACKING_URI names a server, which has pages of its own", "open its address, or unset the variable"
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise UserError(f"port {port} is in use", f"wrn-pipe ui --port {port + 1}") from None
    sync_all(PAPER, load(), lambda line: None if line.startswith(SAME) else typer.echo(line))
    with explained():
        _, experiment = connect(PAPER)
    typer.echo("starting MLflow's server", err=True)
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri", uri()]
    words += ["--artifacts-destination", (FOLDER / "artifacts").resolve().as_uri(), "--registry-store-uri", uri()]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words, "--uvicorn-opts", "--log-level warning"],
        env={**_QUIET, **os.environ},
        start_new_session=True,
    )
    stop = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if _answers(server, port):
            typer.echo(f"{page(f'http://127.0.0.1:{port}', experiment)} - Ctrl-C stops it")
        code = server.wait()
    except KeyboardInterrupt:
        code = 0
    finally:
        signal.signal(signal.SIGTERM, stop)
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
    raise typer.Exit(code)


def _answers(server: "subprocess.Popen[bytes]", port: int) -> bool:
    """Return when a page can be opened, some ten seconds after the start; False when the server has ended instead."""
    while server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.05)
    return False
