"""The stages of dvc.yaml for a plan, with what each reads and writes."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.params import Plan

DAG = Path("dvc.yaml")


@dataclass(frozen=True)
class Stage:
    """One stage as DVC names it."""

    name: str
    """train@RUN, or summarize, which there is only one of."""
    reads: tuple[str, ...]
    """Files and folders, from the repository's root."""
    writes: tuple[str, ...]
    needs: frozenset[str] = frozenset()
    """Names of the stages that write what it reads, or something in it."""

    @property
    def kind(self) -> str:
        return self.name.partition("@")[0]

    @property
    def key(self) -> str:
        """The run, dataset, representation or table; empty where there is only one."""
        return self.name.partition("@")[2]


def read_dag(plan: Plan) -> dict[str, Stage]:
    """All stages by name, each behind those that it needs, else in the order of dvc.yaml."""
    dag = YAML(typ="safe", pure=True).load(DAG)["stages"]
    stages = {stage.name: stage for kind, body in dag.items() for stage in _expand(kind, body, plan)}
    written: dict[str, set[str]] = {}
    """A path, or a folder above it -> who writes it."""
    for stage in stages.values():
        for path in stage.writes:
            for place in _upwards(path):
                written.setdefault(place, set()).add(stage.name)
    exact = {path: stage.name for stage in stages.values() for path in stage.writes}
    for name, stage in stages.items():
        below = (written.get(path, set()) for path in stage.reads)
        above = ({exact[place] for place in _upwards(path) if place in exact} for path in stage.reads)
        stages[name] = replace(stage, needs=frozenset().union(*below, *above) - {name})
    sorter = TopologicalSorter({name: stage.needs for name, stage in stages.items()})
    sorter.prepare()
    ordered: dict[str, Stage] = {}
    while sorter.is_active():
        ready = set(sorter.get_ready())
        ordered |= {name: stage for name, stage in stages.items() if name in ready}
        sorter.done(*ready)
    return ordered


def with_needed(stages: dict[str, Stage], names: Collection[str]) -> list[str]:
    """These stages and all that they need, in order: what `dvc repro NAMES` looks at."""
    wanted = set(names)
    for name in reversed(stages):
        if name in wanted:
            wanted |= stages[name].needs
    return [name for name in stages if name in wanted]


def with_behind(stages: dict[str, Stage], names: Collection[str]) -> dict[str, str | None]:
    """These stages and all that need them, in order -> one of those that it needs itself."""
    found: dict[str, str | None] = {}
    for name, stage in stages.items():
        before = min(stage.needs & found.keys(), default=None)
        if name in names or before:
            found[name] = before
    return found


def _expand(kind: str, body: dict[str, Any], plan: Plan) -> Iterator[Stage]:
    if "foreach" not in body:
        yield _stage(kind, body, {})
        return
    each = getattr(plan, body["foreach"].removeprefix("${").removesuffix("}"))
    for key in each:
        item = each[key].model_dump(mode="json") if isinstance(each, dict) else {}
        words = {"${key}": key, "${item}": key} | {f"${{item.{name}}}": str(value) for name, value in item.items()}
        yield _stage(f"{kind}@{key}", body["do"], words)


def _stage(name: str, body: dict[str, Any], words: dict[str, str]) -> Stage:
    def paths(part: str) -> Iterator[str]:
        for entry in body.get(part, []):
            path = next(iter(entry)) if isinstance(entry, dict) else entry
            for word, value in words.items():
                path = path.replace(word, value)
            yield path

    return Stage(
        name, tuple(paths("deps")), tuple(path for part in ("outs", "metrics", "plots") for path in paths(part))
    )


def _upwards(path: str) -> Iterator[str]:
    """The path, its folder, the folder of that, ..."""
    parts = path.split("/")
    return ("/".join(parts[:n]) for n in range(len(parts), 0, -1))
