"""The DVC remote, by which clones that share no disk take each other's results.

DVC alone goes on to train where it finds no remote, no bucket, or nothing in it, and exits 0 where files of its run
cache did not arrive.
"""

import re
import subprocess
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from pipeline.errors import UserError, WrnPipeError
from pipeline.params import Plan
from pipeline.runner.dag import read_dag
from pipeline.runner.dvc import command, environment, looked_at

GUIDE = "docs/how-to/share-results.md"


def to_have(target: str, root: Path = Path()) -> str:
    """The command that brings what `target` makes. dvc pull only where the clone at `root` has a default remote: it
    fails without one, and leaves empty folders."""
    again = f"wrn-pipe repro {target}"
    configs = (root / ".dvc" / name for name in ("config", "config.local"))
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in configs if path.is_file()]
    pulled = any(re.search(r"^\s*\[core\][^\[]*^\s*remote\s*=", text, re.M) for text in texts)
    return f"dvc pull, or {again}" if pulled else again


def check(writing: bool) -> None:
    """Raise UserError unless the default remote holds something or, `writing`, takes a file; within seconds."""
    from dvc.config import NoRemoteError
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            remote = repo.cloud.get_remote()
            if not writing:
                with suppress(FileNotFoundError):
                    remote.fs.ls(remote.path)
                    return
                what = f"the DVC remote {remote.name} holds nothing, or its address is wrong"
                raise UserError(what, "push to it first, or compare dvc remote list with where it should be")
            probe = remote.fs.join(remote.path, f"wrn-pipe-{uuid4().hex}")
            remote.fs.makedirs(remote.path, exist_ok=True)
            with remote.fs.open(probe, "wb") as file:
                file.write(b"asked whether this can be written")
            remote.fs.remove(probe)
    except UserError:
        raise
    except NoRemoteError:
        fix = f"dvc remote add --default NAME s3://BUCKET/FOLDER, or a folder's path; see {GUIDE}"
        raise UserError("no DVC remote is set up in this clone", fix) from None
    except ImportError as error:  # s3 is supported, but requires 'dvc-s3' to be installed
        raise UserError(f"the DVC remote cannot be used here: {error}", "make setup, or pip install it") from None
    except Exception as error:  # noqa: BLE001 - every kind of remote has errors of its own
        told = traceback.format_exception_only(error)[-1].strip()
        what = f"the DVC remote does not {'take a file' if writing else 'answer'}: {told}"
        raise UserError(what, f"see dvc remote list and {GUIDE}") from None


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
