"""dvc.yaml with the plan's names filled in: the stages, what each runs, reads and writes, and which need which."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.params import PARAMS, Plan, read_text, yaml_mapping
from pipeline.provenance import DAG, filled, read_dvc_yaml


@dataclass(frozen=True)
class Stage:
    """One stage as DVC names it, such as train@RUN or summarize. Paths lie below the repository's root."""

    name: str
    command: str
    deps: tuple[str, ...]
    params: tuple[str, ...]
    """Dotted keys of params.yaml."""
    outs: tuple[str, ...]
    """Of all kinds: outs, metrics and plots."""
    committed: tuple[str, ...]
    """Those of `outs` that git keeps, not DVC: `cache: false`."""
    needs: frozenset[str] = frozenset()
    """Names of the stages that write one of `deps`, or something in it; `read_dag` fills them in."""

    @property
    def in_git(self) -> bool:
        """Whether git keeps all that it writes, so that it can be made again and compared where DVC has nothing."""
        return bool(self.outs) and set(self.outs) == set(self.committed)

    @property
    def kind(self) -> str:
        return self.name.partition("@")[0]

    @property
    def key(self) -> str:
        """The run, dataset, representation or table; empty where there is only one."""
        return self.name.partition("@")[2]


def stages(root: Path, plan: Plan | None = None) -> list[Stage]:
    """All stages of the repository at `root`, in the order of its dvc.yaml; of its params.yaml unless `plan` is given.

    Raises UserError for an invalid dvc.yaml, or one that names a path outside the repository.
    """
    remedy = f"git checkout {PARAMS}"
    params = plan.model_dump(mode="json") if plan else yaml_mapping(read_text(root / PARAMS, remedy), PARAMS, remedy)
    made: list[Stage] = []
    try:
        for name, body in read_dvc_yaml(root)["stages"].items():
            if "foreach" not in body:
                made.append(_stage(name, body))
                continue
            items = params[body["foreach"].strip("${}")]
            keyed = items if isinstance(items, dict) else {item: item for item in items}
            made += [_stage(f"{name}@{key}", filled(body["do"], key, item)) for key, item in keyed.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{DAG}: invalid pipeline: {error!r}", f"git checkout {DAG}") from None
    for path in (path for stage in made for path in (*stage.deps, *stage.outs)):
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise UserError(f"{DAG} names {path}, which is outside the repository", f"git checkout {DAG}")
    return made


def read_dag(plan: Plan) -> dict[str, Stage]:
    """All stages by name, each behind those that it needs."""
    made = stages(Path(), plan)
    writers: dict[str, set[str]] = {}
    """A path that is written, or a folder above it -> the stages that do."""
    for stage in made:
        for place in (place for out in stage.outs for place in _upwards(out)):
            writers.setdefault(place, set()).add(stage.name)
    outs = {out for stage in made for out in stage.outs}
    found = {}
    for stage in made:
        places = {*stage.deps, *(place for path in stage.deps for place in _upwards(path) if place in outs)}
        needs = {name for place in places for name in writers.get(place, ())}
        found[stage.name] = replace(stage, needs=frozenset(needs - {stage.name}))
    order = TopologicalSorter({name: sorted(stage.needs) for name, stage in found.items()}).static_order()
    return {name: found[name] for name in order}


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


def _stage(name: str, body: dict[str, Any]) -> Stage:
    options: dict[str, dict[str, Any]] = {}
    for out in (*body.get("outs", ()), *body.get("metrics", ()), *body.get("plots", ())):
        options |= out if isinstance(out, dict) else {out: {}}
    committed = tuple(path for path, option in options.items() if option.get("cache") is False)
    deps, params = tuple(body.get("deps", ())), tuple(body.get("params", ()))
    return Stage(name, body["cmd"], deps, params, tuple(options), committed)


def _upwards(path: str) -> list[str]:
    """The path, and the folders that it lies in."""
    return [path, *(place.as_posix() for place in Path(path).parents if place != Path())]
