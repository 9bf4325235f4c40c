"""DVC as we call it, with parameters remembered and stages recorded at once, does what DVC does."""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import dvc.dependency.param as params
import pytest
from dvc.fs import LocalFileSystem
from dvc.utils.serialize import dump_yaml, modify_yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from project import ROOT, Project
from ruamel.yaml import YAML

from pipeline.runner import dvc_patches

NAMES = st.text("ab*1", min_size=1, max_size=2)


def values(floats: st.SearchStrategy[float]) -> st.SearchStrategy[Any]:
    return st.recursive(
        st.none() | st.integers() | floats | st.text("xyz ", max_size=3),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3),
        max_leaves=12,
    )


VALUES = values(st.floats(allow_nan=False))
# Of floats with many digits and an exponent DVC's library loses the last digit each time it writes dvc.lock.
LOCKED = values(st.sampled_from([0.0, -0.1, 0.0005, 1e-05, 2.5e-07, 1e30, 123456.75]))


@given(
    content=st.dictionaries(NAMES, VALUES, min_size=1, max_size=4),
    keys=st.lists(st.lists(NAMES | st.just("0"), min_size=1, max_size=3).map(".".join), min_size=1, max_size=5),
)
@settings(max_examples=40)
def test_a_parameter_is_what_dvc_reads(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any], keys: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / f"{abs(hash(json.dumps(content)))}.yaml"
    YAML(typ="safe").dump(content, path)

    def read(reader: Any) -> Any:
        try:
            return list(reader(LocalFileSystem(), str(path), keys, flatten=True).items())
        except Exception as error:  # noqa: BLE001 - whatever DVC raises, such as for a pattern that fits twice
            return type(error), str(error)

    assert read(dvc_patches.read_param_file) == read(params.read_param_file)


WORDS = st.text(st.sampled_from("ab .:-'\"#&*\n\tä"), max_size=6) | st.sampled_from(
    ["python -m stages.train " + "long " * 40]
)
ENTRIES = st.fixed_dictionaries(
    {"cmd": WORDS, "params": st.dictionaries(st.text("ab: #'", min_size=1, max_size=3), LOCKED | WORDS, max_size=3)}
)
LOCKS = st.dictionaries(
    st.text("ab.-1", min_size=1, max_size=5).map("train@{}".format), ENTRIES, min_size=1, max_size=4
)


@given(before=LOCKS, written=LOCKS)
@settings(max_examples=25)
def test_spliced_text_is_what_dvc_writes(
    tmp_path_factory: pytest.TempPathFactory, before: dict[str, Any], written: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "spliced.lock"
    dump_yaml(path, {"schema": "2.0", "stages": before})
    text = path.read_text()
    with modify_yaml(path) as lock:
        lock["stages"].update(written)
    assert dvc_patches.spliced(text, {name: {name: entry} for name, entry in written.items()}) == path.read_text()


STAGES = """
stages:
  one:
    foreach: ${runs}
    do:
      cmd: python work.py one ${key}
      deps:
        - work.py
      params:
        - runs.${key}
        - common
      outs:
        - out/${key}
  two:
    foreach: ${runs}
    do:
      cmd: python work.py two ${key}
      deps:
        - out/${key}
      params: [common]
      metrics:
        - end/${key}.json
  all:
    cmd: python work.py all all
    deps: [end]
    outs:
      - all.json: {cache: false}
"""
WORK = """
import json, pathlib, sys
stage, key = sys.argv[1:]
to = {"one": f"out/{key}/data", "two": f"end/{key}.json", "all": "all.json"}[stage]
pathlib.Path(to).parent.mkdir(parents=True, exist_ok=True)
pathlib.Path(to).write_text(json.dumps({"key": len(key)}))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "dvc.yaml").write_text(STAGES)
    (tmp_path / "work.py").write_text(WORK)
    runs = {f"run-{n}": {"seed": n, "network": "W"} for n in (2, 1)}
    (tmp_path / "params.yaml").write_text(json.dumps({"runs": runs, "common": {"rate": 0.1}}))
    call(tmp_path, "git", "init", "-q")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\nanalytics = false\n")
    (tmp_path / ".gitignore").write_text(".dvc/cache\n.dvc/tmp\n")
    return tmp_path


def call(folder: Path, *words: str, said: str = "", rc: int = 0) -> str:
    done = Project(folder).run(*words, said=said, PYTHONPATH=str(ROOT))
    assert done.returncode == rc, done.stderr
    return done.stdout


def quick(folder: Path, *words: str, **more: Any) -> str:
    return call(folder, sys.executable, "-m", "pipeline.runner.dvc_patches", *words, **more)


def record(folder: Path, *stages: str, rc: int = 0) -> None:
    quick(folder, "record", said="\n".join(stages), rc=rc)


def test_stages_are_recorded_as_dvc_does_one_by_one_or_at_once(project: Path) -> None:
    call(project, "dvc", "repro")
    by_dvc = (project / "dvc.lock").read_text()
    (project / "dvc.lock").unlink()
    record(project, *(f"{stage}@run-{n}" for n in (1, 2) for stage in ("two", "one")))
    assert json.loads(quick(project, "status", "--json")).keys() == {"all"}
    quick(project, "repro")
    assert (project / "dvc.lock").read_text() == by_dvc
    shutil.rmtree(project / "out" / "run-2")
    for missing in ("one@run-2", "one@run-4"):  # an output that is not there, a stage that is not
        record(project, "one@run-1", missing, rc=1)
        assert (project / "dvc.lock").read_text() == by_dvc
    (project / "dvc.lock").unlink()
    quick(project, "repro", "two@run-2", "one", "all")
    assert YAML(typ="safe").load(project / "dvc.lock") == YAML(typ="safe").load(by_dvc)
    (project / "end" / "run-2.json").write_text("{}")
    assert json.loads(quick(project, "status", "--json", "two@run-2", "all")).keys() == {"two@run-2", "all"}


MIXED = """
stages:
  train:
    cmd: cp params.yaml run.json && sed s/seed/weight/ params.yaml > weights
    params: [seed]
    deps: [work.py]
    outs:
      - weights
      - run.json: {cache: false}
"""


def test_what_git_keeps_of_a_training_does_not_make_it_run_again(project: Path) -> None:
    """Neither when an edit is taken back, nor in a clone with the weights in its cache, nor by a remote's run cache."""
    (project / "dvc.yaml").write_text(MIXED)
    (project / "params.yaml").write_text("seed: 1")
    for words in ("git add -A", "git -c user.name=t -c user.email=t@example.org commit -q -m start"):
        call(project, *words.split())
    config = project / ".dvc" / "config"
    config.write_text(config.read_text() + f"remote = shared\n['remote \"shared\"']\nurl = {project / 'shared'}\n")

    def ran(folder: Path, *options: str) -> bool:
        return "Running stage 'train'" in quick(folder, "repro", *options)

    assert ran(project)
    (project / "params.yaml").write_text("seed: 2")
    assert ran(project)
    (project / "params.yaml").write_text("seed: 1")
    assert not ran(project)
    assert (project / "run.json").read_text() == "seed: 1"
    quick(project, "push", "--run-cache")
    clone = project / "clone"
    call(project, "git", "clone", "-q", ".", "clone")
    (clone / ".dvc" / "config").write_text(config.read_text())
    assert not ran(clone, "--pull"), "which has no dvc.lock"
    assert (clone / "run.json").read_text() == "seed: 1"
    digest = hashlib.md5(b"seed: 1").hexdigest()
    shutil.rmtree(clone / ".dvc/cache/runs")
    for lost in ("weights", f".dvc/cache/files/md5/{digest[:2]}/{digest[2:]}"):
        (clone / lost).unlink()
    assert not ran(clone), "its cache has the weights, and git the rest"
    assert (clone / "weights").read_text() == "weight: 1"
