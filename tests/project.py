"""A whole wrn-pipe repository in a temporary folder, with a few real images, driven by the real commands."""

import hashlib
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
WRN_PIPE = (sys.executable, "-c", "from pipeline.cli.main import main; main()")
RUN = "cifar10-tiny-wrn-10-1-brief-s1"
COPIED = ("pipeline", "stages", "dvc.yaml", ".dvcignore", ".gitignore", "environment/requirements.lock")
COPIED += ("evidence/README.md",)

# Tests have repositories of their own, whatever repository's hook runs them and however the user signs commits.
for name in [name for name in os.environ if name.startswith("GIT_")]:
    del os.environ[name]
os.environ["GIT_CONFIG_GLOBAL"] = os.devnull

AUTHOR = {f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
"""An environment in which git commits, whoever the user is."""

WrnPipe = Callable[..., "subprocess.CompletedProcess[str]"]
"""The fixture wrn_pipe."""


def _with_path(more: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **more}


@dataclass(frozen=True)
class Project:
    """The folder, and how to run commands in it."""

    root: Path

    def run(self, *command: str, said: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of this environment, which is `said` that on its input, with both streams captured."""
        env = _with_path({"MLFLOW_DISABLE_TELEMETRY": "true", **environment})
        return subprocess.run(command, cwd=self.root, env=env, input=said, capture_output=True, text=True, check=False)

    def cli(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run(*WRN_PIPE, *arguments, **environment)

    def start(self, log: Path, *arguments: str, **environment: str) -> "subprocess.Popen[bytes]":
        """`wrn-pipe` in the background, in a session of its own as a terminal gives it; `log`: what it prints."""
        with log.open("wb") as file:
            return subprocess.Popen(
                [*WRN_PIPE, *arguments],
                cwd=self.root,
                env=_with_path(environment),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    @property
    def log(self) -> Path:
        """What `train` prints."""
        return self.root / "log"

    def train(self, *options: str, **environment: str) -> "subprocess.Popen[bytes]":
        """An attempt at the run in the background, of which MLflow is not told; the log is that of this attempt."""
        words = ("stage", "train", RUN, *options)
        return self.start(self.log, *words, **{"MLFLOW_TRACKING_URI": "none://", **environment})

    def published(self, run: str = RUN) -> list[bytes]:
        """The files of a trained run: weights, history and record."""
        names = ("model.safetensors", "history.csv", "run.json")
        return [(self.root / "models" / run / name).read_bytes() for name in names]

    def edit(self, change: Callable[[Any], None]) -> None:
        """Change params.yaml."""
        yaml = YAML()
        path = self.root / "params.yaml"
        params = yaml.load(path)
        change(params)
        yaml.dump(params, path)

    def set_brief(self, **values: object) -> None:
        """Change the protocol `brief` in params.yaml."""
        self.edit(lambda params: params["protocols"]["brief"].update(values))

    def lock(self) -> str:
        return (self.root / "dvc.lock").read_text()

    def commit(self, message: str) -> None:
        for arguments in (("add", "-A"), ("commit", "-q", "-m", message)):
            told(self.run("git", *arguments, **AUTHOR))


def told(ran: "subprocess.CompletedProcess[str]") -> str:
    """What a command that went well has printed."""
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def refused(ran: "subprocess.CompletedProcess[str]") -> str:
    """The two lines about a mistake of the user's, with which a command ends."""
    assert ran.returncode == 2, ran.stdout + ran.stderr
    what, fix = ran.stderr.splitlines()[-2:]
    assert (what[:7], fix[:7]) == ("error: ", "  fix: ")
    return f"{what}\n{fix}\n"


def wait_for(words: str, log: Path, process: "subprocess.Popen[bytes]") -> None:
    """Return when a process has said so. Fails when it ends without."""
    while words not in log.read_text() and process.poll() is None:
        time.sleep(0.02)
    assert words in log.read_text(), log.read_text()


def clone(project: Project, to: Path) -> Project:
    told(project.run("git", "clone", "-q", str(project.root), str(to)))
    return Project(to)


def made(project: Project) -> dict[str, str]:
    """Digests of all that the stages write."""
    paths = [p for top in ("data", "models", "evaluations", "results") for p in (project.root / top).rglob("*")]
    return {
        str(p.relative_to(project.root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in paths
        if p.is_file() and p.name != ".gitignore"
    }


def copy_repository(root: Path, *more: str) -> Project:
    """A git repository with this one's code and DAG at `root`, without its plan, and the files `more` of it; nothing
    is committed."""
    for name in (*COPIED, *more):
        source, to = ROOT / name, root / name
        to.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, to)
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    subprocess.run(["git", "init", "-q", "-b", "main", root], check=True)
    return Project(root)


def make_project(root: Path, dataset: dict[str, Any] | None = None, beton: Path | None = None) -> Project:
    """This repository's code and DAG at `root`, with a plan of one brief run on the dataset `cifar10-tiny`, by
    default without a source that answers. With `beton`, a folder of converted data, that is there already."""
    import tiny

    project = copy_repository(root)
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["datasets"] = {"cifar10-tiny": dataset or tiny.entry()}
    params["representations"] = {"cifar10-tiny-rgb": {"dataset": "cifar10-tiny", "kind": "rgb"}}
    brief = params["protocols"]["quick"]
    brief.update(epochs=2, batch_size=32, learning_rate=0.1, test_every=1)
    params["protocols"] = {"brief": brief, "paper-meanstd": params["protocols"]["paper-meanstd"]}
    params["runs"] = {
        RUN: {"dataset": "cifar10-tiny", "representation": "rgb", "network": "WRN-10-1", "protocol": "brief", "seed": 1}
    }
    params["comparison"]["margins"]["cifar10-tiny"] = 0.3
    params["loading"]["backend"] = "numpy"  # importing FFCV takes seconds
    yaml.dump(params, root / "params.yaml")
    project.commit("start")
    if beton:
        (root / "data" / "beton").mkdir(parents=True)
        (root / "data" / "beton" / "cifar10-tiny-rgb").symlink_to(beton)
    return project


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def file_size_limit(most: int) -> Iterator[None]:
    """No file grows beyond `most` bytes: to write more fails in the middle, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
