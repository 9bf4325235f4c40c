"""Clones of a project that share a DVC remote, and what their commands say."""

import hashlib
import re
import subprocess
from pathlib import Path

from project import Project
from s3_server import Bucket


def told(ran: "subprocess.CompletedProcess[str]") -> str:
    """What a command that went well has printed."""
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def clone(project: Project, to: Path) -> Project:
    told(project.run("git", "clone", "-q", str(project.root), str(to)))
    return Project(to)


def use(project: Project, bucket: Bucket) -> None:
    """Make the bucket the project's remote, as a user does who means to commit it."""
    told(project.run("dvc", "remote", "add", "--default", "bucket", f"s3://{bucket.name}/wrn"))
    told(project.run("dvc", "remote", "modify", "bucket", "endpointurl", bucket.endpoint))


def stages_run(text: str) -> list[str]:
    return re.findall(r"^Running stage '(.*)':$", text, re.M)


def stages_taken(text: str) -> list[str]:
    return re.findall(r"^Stage '(.*)' is cached - skipping run", text, re.M)


def made(project: Project) -> dict[str, str]:
    """Digests of all that the stages write."""
    paths = [p for top in ("data", "models", "evaluations", "results") for p in (project.root / top).rglob("*")]
    return {
        str(p.relative_to(project.root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in paths
        if p.is_file() and p.name != ".gitignore"
    }


def committed(project: Project, text: str) -> bool:
    """Whether any file that git has says so."""
    return project.run("git", "grep", "-q", "-e", text, "HEAD").returncode == 0
