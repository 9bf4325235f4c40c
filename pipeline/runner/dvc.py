"""DVC, driven as a command, since its Python interface is not a stable one; what it runs right now; and its remote, by
which clones that share no disk take each other's results."""

import fcntl
import fnmatch
import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import uuid4

from pipeline.artifacts import SCRATCH
from pipeline.dvc_lock import content, locked
from pipeline.dvc_lock import read as read_lock
from pipeline.errors import EXIT_CODE_FILE, StoppedError, UserError, WrnPipeError, nearest
from pipeline.params import PARAMS, Plan
from pipeline.progress import say
from pipeline.provenance import fingerprint
from pipeline.runner.dag import Stage, read_dag, with_needed
from pipeline.runner.interruptions import handled, is_alive

_RWLOCK = Path(".dvc/tmp/rwlock")  # DVC's note of the paths in use
_POLL_S = 0.2
_GUIDE = "docs/how-to/share-results.md"
_HOW = {"modified": "edited", "new": "is new", "deleted": "is not there"}
_ABSENT = ("is empty", "is not all there", _HOW["deleted"])


def environment() -> dict[str, str]:
    """This process's environment with this Python first on PATH: the stages' commands say `python`."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def command(*arguments: str) -> list[str]:
    """`dvc --wait-for-lock ...`: without the flag DVC discards a finished training when its lock is held for 3 s."""
    return [sys.executable, "-m", "pipeline.runner.dvc_patches", "--wait-for-lock", *arguments]


def need_repository() -> None:
    """Raise UserError where DVC could do nothing: without .dvc, git or dvc.lock, or with a conflict in that."""
    here, config = Path.cwd(), Path(".dvc/config")
    if not config.is_file():
        remedy = "git checkout .dvc, or dvc init; or work in a git clone, which has it"
        raise UserError(f"{here}: not a DVC repository, it has no {config}", remedy)
    without_git = not any((folder / ".git").exists() for folder in (here, *here.parents))
    if without_git and "no_scm" not in config.read_text(encoding="utf-8"):
        remedy = "work in a git clone; or git init; or, without git, dvc config core.no_scm true"
        raise UserError(f"{here}: not a git repository, which DVC needs", remedy)
    need_locks()
    if "<<<<<<<" in (lock := content()):  # else DVC reads it: that takes as long as all else here
        locked(lock)


def need_locks() -> None:
    """Raise UserError on a file system without locks, where DVC would wait for its own for ever."""
    config, own = Path(".dvc/config"), Path(".dvc/config.local")
    with config.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH)
        except OSError as error:
            if own.is_file() and "hardlink_lock = true" in own.read_text(encoding="utf-8"):
                return
            what = f"{Path.cwd()} is on a file system without locks ({error.strerror})"
            fix = "mount it with them (Lustre: -o flock); or dvc config --local core.hardlink_lock true"
            raise UserError(what, f"{fix}, with which a DVC that is killed leaves its lock: rm .dvc/tmp/lock") from None


def resolve(plan: Plan, targets: Sequence[str], stages: Collection[str]) -> list[str]:
    """DVC's names for what the user typed: a stage, a group of stages such as train, a run id or a pattern of some
    (their evaluations). `stages`: the names of all of the plan's."""
    groups = {name.partition("@")[0] for name in stages}
    resolved = []
    for target in targets:
        if target in groups or target in stages:
            resolved.append(target)
        elif fitting := fnmatch.filter(plan.runs, target):
            resolved += [f"evaluate@{run_id}" for run_id in fitting]
        elif addition := _addition(plan, target):
            raise UserError(f"{PARAMS} has no run {target!r} yet", addition)
        else:
            raise UserError(f"no stage or run {target!r}", nearest(target, {*stages, *groups, *plan.runs}, "target"))
    return resolved


def _addition(plan: Plan, target: str) -> str | None:
    """A remedy that plans the paper's runs which a run id or a pattern stands for; None where it stands for none."""
    from pipeline.publication.wide_resnet import PAPER
    from pipeline.runner.plan_edit import groups_of

    groups, _ = groups_of(PAPER, PAPER.claims, plan, None)
    seeds = range(1, 6)  # what wrn-pipe plan adds of each network unless told otherwise
    fitting = [group for group in groups if fnmatch.filter(map(group.run_id, seeds), target)]
    if not fitting:
        return None
    claim = fitting[0].claims[0]
    filters = shlex.join(["--paper-table", claim.table, "--row", claim.model, "--dataset", claim.dataset])
    them = f"the first of the {len(fitting)} networks that it stands for" if len(fitting) > 1 else "it"
    return f"wrn-pipe plan {filters} adds {them}"


def looked_at(plan: Plan, targets: Sequence[str], stages: dict[str, Stage]) -> list[str]:
    """All stages that `dvc repro` with these targets looks at, in order. Raises as `resolve` does."""
    resolved = set(resolve(plan, targets, stages))
    chosen = [name for name, stage in stages.items() if name in resolved or stage.kind in resolved]
    return with_needed(stages, chosen or stages)


def trainings(plan: Plan, targets: Sequence[str]) -> dict[str, Path]:
    """Run -> scratch folder, of each training that these targets look at."""
    stages = read_dag(plan)
    runs = [stages[name].key for name in looked_at(plan, targets, stages) if stages[name].kind == "train"]
    return {run_id: SCRATCH / fingerprint(plan, run_id) for run_id in runs}


def how_far(plan: Plan, targets: Sequence[str]) -> list[str]:
    """Where each of these trainings is that has begun and is not published."""
    from pipeline.runner.run_hooks import read_heartbeat

    beats = {run_id: read_heartbeat(scratch) for run_id, scratch in trainings(plan, targets).items()}
    return [f"{run_id} is in epoch {beat.epoch} of {beat.epochs}" for run_id, beat in beats.items() if beat]


def running_stages(stages: dict[str, Stage]) -> dict[str, int]:
    """Name -> process id of the DVC on this machine that runs it. Its outputs are not to be read meanwhile."""
    written: dict[Path, int] = {}
    with suppress(FileNotFoundError, ValueError):  # DVC rewrites the file in place: a torn read is as good as none
        rwlock = json.loads(_RWLOCK.read_text(encoding="utf-8"))
        written = {Path(path): info["pid"] for path, info in rwlock.get("write", {}).items() if is_alive(info["pid"])}
    first_outs = {stage.name: Path.cwd() / stage.outs[0] for stage in stages.values() if stage.outs}
    return {name: written[out] for name, out in first_outs.items() if out in written}


def _stage_processes(pid: int) -> set[int]:
    """All processes below `pid` that run `python -m stages.NAME`: not DVC."""
    import psutil  # a fiftieth of the time of a repro with nothing to do

    found = set()
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it has ended meanwhile, or is a zombie
                if any(word.startswith("stages.") for word in process.cmdline()[:3]):
                    found.add(process.pid)
    return found


def repro(plan: Plan, targets: Sequence[str], options: Sequence[str] = ()) -> int:
    """Run `dvc repro`. The exit code of the stage that failed, where one did, else DVC's own.

    Where another repro runs one of the stages that are asked for, waits for its end first, since DVC would fail. An
    interrupt or SIGTERM reaches the running stage, which saves its state; DVC then ends in order. Raises StoppedError
    where no stage was there to answer it, UserError where there is nothing that DVC could work in.
    """
    need_repository()
    stages = read_dag(plan)
    wanted = {name: stages[name] for name in looked_at(plan, targets, stages)}
    said: set[tuple[str, int]] = set()
    while True:
        while others := running_stages(wanted):
            for stage, pid in others.items() - said:
                say(f"another repro runs {stage} here (process {pid}): waiting for its end")
            said |= others.items()
            time.sleep(_POLL_S)
        code = _repro(resolve(plan, targets, stages), targets, options)
        if code != 1 or not running_stages(wanted):  # else another repro began one of them in between
            return code


def _repro(names: Sequence[str], targets: Sequence[str], options: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        failed = Path(folder) / "exit-code"
        child = subprocess.Popen(command("repro", *options, *names), env={**environment(), EXIT_CODE_FILE: str(failed)})
        received: list[int] = []
        told: set[int] = set()

        def hear(signum: int, frame: FrameType | None) -> None:
            received.append(signum)
            running = _stage_processes(child.pid)
            if signum == signal.SIGINT:  # which a terminal sends to the whole group itself
                told.update(running)
            elif running:
                told.clear()
            else:  # DVC hashes files, or is between two stages: it takes this as from a terminal
                child.send_signal(signal.SIGINT)

        ended = os.pidfd_open(child.pid)
        with handled(hear):
            while (code := child.poll()) is None:
                select.select([ended], [], [], _POLL_S)
                # No further stage is completed: with --keep-going DVC would start one.
                for process in _stage_processes(child.pid) - told if received else ():
                    told.add(process)
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGTERM)
        os.close(ended)
        if failed.is_file():
            last = int(failed.read_text())
            return 128 + received[0] if received and last > 128 else last
    if code and received:
        again = shlex.join(["wrn-pipe", "repro", *options, *targets])
        what = "stopped; no stage was at work, and what is done stays done"
        raise StoppedError(received[0], what, f"continue with: {again}")
    return 1 if code else 0


def record(names: Sequence[str]) -> None:
    """Write stages that were run elsewhere into dvc.lock, all at once (`record` of pipeline/runner/dvc_patches.py).

    Raises WrnPipeError when DVC fails; nothing is recorded then.
    """
    done = _asked(command("record"), "\n".join(names))
    if done.returncode != 0:
        what = f"DVC cannot record {len(names)} stages: {_lines(done)[-1]}"
        raise WrnPipeError(
            what, "fix that and run it again: results and last states are kept, nothing is trained again"
        )


def ask(stages: Collection[Stage], running: Collection[str] = (), wait: bool = True) -> dict[str, list[str]]:
    """Stage -> why `dvc status` calls it out of date; takes about a second.

    DVC refuses to look at what a running stage writes, so it is not asked about those nor about what needs them. Of a
    stage that has never run it says that all its inputs were edited. Raises UserError where DVC can do nothing,
    WrnPipeError when it fails; without `wait` also when another process holds its lock for three seconds.
    """
    free = [stage.name for stage in stages if stage.name not in running and not stage.needs & set(running)]
    if not free:  # which DVC takes for all
        return {}
    asking = command("status", "--json", *free)
    if not wait:
        asking.remove("--wait-for-lock")
    done = _asked(asking)
    if done.returncode != 0:
        need_repository()
        busy = any(word in done.stderr for word in ("is busy", "Unable to acquire lock"))
        remedy = "wait for the other DVC: wrn-pipe status shows it" if busy else "wrn-pipe doctor says what is wrong"
        raise WrnPipeError(f"dvc status: {_lines(done)[0].removeprefix('ERROR: ').rstrip(':')}", remedy)
    changed = json.loads(done.stdout)
    ran = read_lock() if changed else {}
    lost = [out for stage in stages for out in stage.outs if not Path(out).exists()]
    return {name: _reasons(change, lost) if name in ran else ["it never ran here"] for name, change in changed.items()}


def _asked(words: Sequence[str], said: str | None = None) -> "subprocess.CompletedProcess[str]":
    # In a session of its own: a terminal's Ctrl-C must not leave half of what is written.
    return subprocess.run(
        words, input=said, capture_output=True, text=True, env=environment(), check=False, start_new_session=True
    )


def _lines(done: "subprocess.CompletedProcess[str]") -> list[str]:
    return done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]


def only_absent(why: Sequence[str]) -> bool:
    """Whether reasons of `ask` only say that files are not here, as in a fresh clone, not that something differs."""
    return all(reason.endswith(_ABSENT) for reason in why)


def _reasons(change: Sequence[Any], lost: Sequence[str]) -> list[str]:
    """What DVC says of one stage, in words. `lost`: outputs of any stage that are not here."""
    words = [part for part in change if isinstance(part, str)]  # such as changed command
    parts = [part.items() for part in change if isinstance(part, dict)]
    for what, path, how in [(what, *item) for part in parts for what, items in part for item in items.items()]:
        if isinstance(how, dict):  # a params file: {key: how}
            words += [f"{path}: {key} {_HOW.get(value, value)}" for key, value in how.items()]
            continue
        now = _HOW.get(how, how)
        if how == "modified" and Path(path).is_dir() and not holds_a_file(Path(path)):
            now = "is empty"
        elif how == "modified" and any(out.startswith(f"{path}/") for out in lost):
            now = "is not all there"
        elif how == "not in cache" and not holds_a_file(Path(path)):
            now = "is not there"
        words.append(f"{'' if what == 'changed deps' else 'output '}{path} {now}")
    return words


def holds_a_file(path: Path) -> bool:
    """Whether it is a file, or a folder with one: a dvc pull that fails leaves empty folders."""
    return path.is_file() or any(map(Path.is_file, path.rglob("*")))


def to_have(target: str, root: Path = Path()) -> str:
    """The command that brings what `target` makes. dvc pull only where the clone at `root` has a default remote: it
    fails without one, and leaves empty folders."""
    again = f"wrn-pipe repro {target}"
    configs = (root / ".dvc" / name for name in ("config", "config.local"))
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in configs if path.is_file()]
    pulled = any(re.search(r"^\s*\[core\][^\[]*^\s*remote\s*=", text, re.M) for text in texts)
    return f"dvc pull, or {again}" if pulled else again


def check_remote(writing: bool) -> None:
    """Raise UserError unless the default remote holds something or, `writing`, takes a file; within seconds.

    DVC alone goes on to train where it finds no remote, no bucket, or nothing in it.
    """
    from dvc.config import NoRemoteError
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            remote = repo.cloud.get_remote()
            if writing:
                probe = remote.fs.join(remote.path, f"wrn-pipe-{uuid4().hex}")
                remote.fs.makedirs(remote.path, exist_ok=True)
                with remote.fs.open(probe, "wb") as file:
                    file.write(b"asked whether this can be written")
                remote.fs.remove(probe)
            else:
                remote.fs.ls(remote.path)
    except Exception as error:  # noqa: BLE001 - every kind of remote has errors of its own
        told, fix = traceback.format_exception_only(error)[-1].strip(), f"see dvc remote list and {_GUIDE}"
        what = f"the DVC remote does not {'take a file' if writing else 'answer'}: {told}"
        if isinstance(error, NoRemoteError):
            what = "no DVC remote is set up in this clone"
            fix = f"dvc remote add --default NAME s3://BUCKET/FOLDER, or a folder's path; see {_GUIDE}"
        elif isinstance(error, ImportError):  # s3 is supported, but requires 'dvc-s3' to be installed
            what, fix = f"the DVC remote cannot be used here: {error}", "make setup, or pip install it"
        elif isinstance(error, FileNotFoundError) and not writing:
            what = f"the DVC remote {remote.name} holds nothing, or its address is wrong"
            fix = "push to it first, or compare dvc remote list with where it should be"
        raise UserError(what, fix) from None


def push(plan: Plan, targets: Sequence[str]) -> None:
    """`dvc push --run-cache` of what these targets and all that they need have made; without targets, of everything.

    Raises WrnPipeError unless all of it arrives: of files of its run cache that do not, DVC says so and exits 0.
    """
    pushed = looked_at(plan, targets, read_dag(plan)) if targets else []
    done = subprocess.run(
        command("push", "--run-cache", *pushed), stderr=subprocess.PIPE, text=True, env=environment(), check=False
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ") or "failed to transfer" in line]
    if done.returncode or errors:
        told = errors[0].removeprefix("ERROR: ") if errors else f"exit code {done.returncode}"
        raise WrnPipeError(f"dvc push: {told}", "what was made lies here: the same command again makes nothing twice")
