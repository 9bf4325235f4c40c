"""dvc.yaml with the plan's names filled in: the stages, their commands, what they read and what they write."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import UserError
from pipeline.params import PARAMS

DAG = Path("dvc.yaml")


@dataclass(frozen=True)
class Stage:
    """One stage as dvc.lock names it, such as train@<run>. Paths are below the repository's root."""

    name: str
    command: str
    deps: tuple[str, ...]
    params: tuple[str, ...]
    """Dotted keys of params.yaml."""
    outs: tuple[str, ...]
    """Of all kinds: outs, metrics and plots."""
    committed: tuple[str, ...]
    """Those of `outs` that git keeps, not DVC: `cache: false`."""


def stages(root: Path) -> list[Stage]:
    """All stages of the repository at `root`, in the order of its dvc.yaml.

    Raises UserError when that is none, or names a path outside the repository.
    """
    try:
        made = _stages(*(_yaml(root / path) for path in (DAG, PARAMS)))
    except (OSError, YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{DAG} is no pipeline: {error!r}", f"git checkout {DAG}") from None
    for path in (path for stage in made for path in (*stage.deps, *stage.outs)):
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise UserError(f"{DAG} names {path}, which is not in the repository", f"git checkout {DAG}")
    return made


def _yaml(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    return values


def _stages(dag: dict[str, Any], params: dict[str, Any]) -> list[Stage]:
    made = []
    for name, body in dag["stages"].items():
        if "foreach" not in body:
            made.append(_stage(name, body))
            continue
        items = params[body["foreach"].removeprefix("${").removesuffix("}")]
        keyed = items if isinstance(items, dict) else {item: item for item in items}
        made += [_stage(f"{name}@{key}", _filled(body["do"], key, item)) for key, item in keyed.items()]
    return made


def _stage(name: str, body: dict[str, Any]) -> Stage:
    outs: list[str] = []
    committed: list[str] = []
    for out in (*body.get("outs", ()), *body.get("metrics", ()), *body.get("plots", ())):
        ((path, options),) = out.items() if isinstance(out, dict) else ((out, {}),)
        outs.append(path)
        if options.get("cache") is False:
            committed.append(path)
    deps, params = tuple(body.get("deps", ())), tuple(body.get("params", ()))
    return Stage(name, body["cmd"], deps, params, tuple(outs), tuple(committed))


def _filled(value: Any, key: str, item: Any) -> Any:
    if isinstance(value, dict):
        return {_filled(k, key, item): _filled(v, key, item) for k, v in value.items()}
    if isinstance(value, list):
        return [_filled(each, key, item) for each in value]
    if not isinstance(value, str):
        return value
    value = value.replace("${key}", key)
    if not isinstance(item, dict):
        return value.replace("${item}", str(item))
    for name, setting in item.items():
        value = value.replace(f"${{item.{name}}}", str(setting))
    return value
