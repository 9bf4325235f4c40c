"""The DVC remote, by which clones that share no disk take each other's results.

DVC alone goes on to train where it finds no remote, no bucket, or nothing in it, and exits 0 where files of its run
cache did not arrive. Asking whether the remote answers is a process of its own: `python -m pipeline.runner.remote`.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from pipeline.errors import UserError, WrnPipeError, exit_on_error
from pipeline.params import Plan
from pipeline.runner.dag import read_dag
from pipeline.runner.dvc import command, environment, looked_at

GUIDE = "docs/how-to/share-results.md"


def to_have(target: str, root: Path = Path()) -> str:
    """The command that brings what `target` makes: dvc pull only where the clone at `root` has a default remote.

    Without one that fails, and leaves empty folders.
    """
    again = f"wrn-pipe repro {target}"
    configs = (root / ".dvc" / name for name in ("config", "config.local"))
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in configs if path.is_file()]
    pulled = any(re.search(r"^\s*\[core\][^\[]*^\s*remote\s*=", text, re.M) for text in texts)
    return f"dvc pull, or {again}" if pulled else again


def check(writing: bool) -> None:
    """Raise UserError unless the default remote holds something or, `writing`, takes a file; within seconds."""
    asked = [sys.executable, "-m", "pipeline.runner.remote", *(["writing"] if writing else [])]
    done = subprocess.run(asked, capture_output=True, text=True, env=environment(), check=False)
    told = done.stderr.strip().splitlines()
    if done.returncode == UserError.exit_code:
        raise UserError(told[-2].removeprefix("error: "), told[-1].removeprefix("  fix: "))
    if done.returncode:  # it speaks for itself: every kind of remote has errors of its own
        what = f"the DVC remote does not {'take a file' if writing else 'answer'}: {told[-1]}"
        raise UserError(what, f"see dvc remote list and {GUIDE}")


def push(plan: Plan, targets: Sequence[str]) -> None:
    """`dvc push --run-cache` of what these targets and all that they need have made; without targets, of everything.

    Raises WrnPipeError unless all of it arrives.
    """
    pushed = looked_at(plan, targets, read_dag(plan)) if targets else []
    done = subprocess.run(
        command("push", "--run-cache", *pushed), stderr=subprocess.PIPE, text=True, env=environment(), check=False
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ") or "failed to transfer" in line]
    if done.returncode or errors:  # of the run cache's own files DVC says so, and exits 0
        told = errors[0].removeprefix("ERROR: ") if errors else f"exit code {done.returncode}"
        raise WrnPipeError(f"dvc push: {told}", "what was made lies here: the same command again makes nothing twice")


def _ask(writing: bool) -> None:
    from dvc.config import NoRemoteError
    from dvc.repo import Repo

    with Repo() as repo:
        try:
            remote = repo.cloud.get_remote()
        except NoRemoteError:
            fix = f"dvc remote add --default NAME s3://BUCKET/FOLDER, or a folder's path; see {GUIDE}"
            raise UserError("no DVC remote is set up in this clone", fix) from None
        except ImportError as error:  # s3 is supported, but requires 'dvc-s3' to be installed
            raise UserError(f"the DVC remote cannot be used here: {error}", "make setup, or pip install it") from None
        if writing:
            probe = remote.fs.join(remote.path, f"wrn-pipe-{uuid4().hex}")
            remote.fs.makedirs(remote.path, exist_ok=True)
            with remote.fs.open(probe, "wb") as file:
                file.write(b"asked whether this can be written")
            remote.fs.remove(probe)
            return
        try:
            remote.fs.ls(remote.path)
        except FileNotFoundError:
            what = f"the DVC remote {remote.name} holds nothing, or its address is wrong"
            raise UserError(what, "push to it first, or compare dvc remote list with where it should be") from None


if __name__ == "__main__":
    with exit_on_error():
        _ask(writing=sys.argv[1:] == ["writing"])
