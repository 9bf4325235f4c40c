"""params.yaml read and checked, also against the networks, tables and datasets there are; mistakes with their line."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from pipeline.errors import UserError
from pipeline.models.names import parse
from pipeline.params import PARAMS, Plan, nearest, read_text, yaml_mapping
from pipeline.publication.paper import KNOWN_DATASETS, TITLES


def load(path: Path = PARAMS) -> Plan:
    """Read and check a plan. Raises UserError with the line of the first mistake and the nearest valid word."""
    above = next((folder for folder in Path.cwd().parents if (folder / path).is_file()), None)
    deleted = f"git checkout {path} if it was deleted"
    return parse_plan(read_text(path, f"cd {above}" if above else f"cd into the repository; {deleted}"), path)


def parse_plan(text: str, path: Path = PARAMS) -> Plan:
    """Check the text of a plan, as `load` does; `path` only names it."""
    values = yaml_mapping(text, path, f"mend the YAML there; its keys are {', '.join(Plan.model_fields)}")
    try:
        plan = Plan.model_validate(values)
    except ValidationError as error:
        # An unknown key first: where it is a misspelt one, the right one is reported missing as well.
        problem = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")[0]
        raise _mistake(path, _with_lines(text), problem) from None
    _check_references(path, text, plan)
    return plan


def _with_lines(text: str) -> Any:
    """The values with their places. Slow: only a mistake pays for it."""
    return YAML().load(text)


def line_of(text: str, *keys: Any) -> int:
    """Line (from 1) of the deepest of `keys` that the text of a plan has."""
    return _line(_with_lines(text), keys)


def _mistake(path: Path, lines: CommentedMap, problem: Any) -> UserError:
    keys, model = _yaml_path(problem["loc"], lines)
    where = f"{path}:{_line(lines, keys)}: {'.'.join(map(str, keys))}"
    word = next((key for key in reversed(problem["loc"]) if isinstance(key, str)), "")
    if problem["type"] == "extra_forbidden":
        return UserError(f"{where}: unknown key", nearest(word, set(model.model_fields) if model else set(), "key"))
    if problem["type"] == "missing":
        return UserError(f"{where}: missing", f"add {word} there; params.yaml in git has an example")
    if problem["type"] == "literal_error":
        return UserError(f"{where}: {problem['input']!r} is not a choice", f"choose {problem['ctx']['expected']}")
    if problem["type"] == "union_tag_invalid":
        wrong = f"{where}: kind {problem['ctx']['tag']!r} is not a choice"
        return UserError(wrong, f"choose {problem['ctx']['expected_tags']}")
    if problem["type"] == "value_error":
        return UserError(f"{where}: {problem['ctx']['error']}", "change one of the two")
    said = problem["msg"][0].lower() + problem["msg"][1:]
    return UserError(f"{where}: {said} (is {problem['input']!r})", _REMEDY.get(problem["type"], f"correct {word}"))


_REMEDY = {
    "int_type": "write a whole number, without quotes or a point",
    "float_type": "write a number without quotes; with an exponent it needs a point and a sign: 5.0e-4",
    "string_type": "put it into quotes",
    "bool_type": "write true or false, without quotes",
    "tuple_type": "write a list: [a, b]",
    "dict_type": "write a mapping: a key to a line, further in",
    "model_type": "write a mapping: a key to a line, further in",
}
"""By pydantic's kind of error: what YAML is like that has the right type."""


def _yaml_path(loc: Sequence[Any], lines: Any) -> tuple[list[Any], type[BaseModel] | None]:
    """The keys of `loc` that stand in the YAML (a union's tag does not) and the model that the last but one names."""
    keys: list[Any] = []
    model: Any = Plan
    parent: Any = None
    node = lines
    for part in loc:
        parent = model
        members = [m for m in _members(model) if isinstance(m, type) and issubclass(m, BaseModel)]
        tagged = [m for m in members if _tag(m) == part]
        if len(members) > 1 and tagged:
            model = tagged[0]
            continue
        fields = getattr(model, "model_fields", {})
        model = fields[part].annotation if part in fields else (get_args(model) or (None,))[-1]
        keys.append(part)
        if isinstance(node, CommentedMap | CommentedSeq):
            try:
                node = node[part]
            except (KeyError, IndexError, TypeError):
                node = None
    return keys, parent if isinstance(parent, type) and issubclass(parent, BaseModel) else None


def _members(model: Any) -> tuple[Any, ...]:
    arguments = get_args(model)
    if arguments and isinstance(arguments[0], type):
        return arguments
    return tuple(get_args(arguments[0])) if arguments else ()


def _tag(model: type[BaseModel]) -> str | None:
    kind = model.model_fields.get("kind")
    return get_args(kind.annotation)[0] if kind else None


def _line(lines: Any, keys: Sequence[Any]) -> int:
    """Line (from 1) of the deepest of `keys` that exists."""
    line, node = 1, lines
    for key in keys:
        if isinstance(node, CommentedMap) and key in node:
            line = node.lc.key(key)[0] + 1
        elif isinstance(node, CommentedSeq) and isinstance(key, int) and key < len(node):
            line = node.lc.item(key)[0] + 1
        else:
            break
        node = node[key]
    return line


def _check_references(path: Path, text: str, plan: Plan) -> None:
    def refuse(keys: list[str], what: str, remedy: str) -> None:
        raise UserError(f"{path}:{line_of(text, *keys)}: {'.'.join(keys)}: {what}", remedy)

    def known(keys: list[str], word: str, section: dict[str, Any], noun: str) -> None:
        if word not in section:
            refuse(keys, f"no {noun} {word!r}", nearest(word, section, noun))

    for section in ("datasets", "protocols"):
        for name in getattr(plan, section):
            if "." in name:
                # Stages depend on `protocols.<name>`, where DVC takes every dot for a step into the mapping.
                refuse([section, name], "a name has no dots", f"rename it {name.replace('.', '-')}")
    papers = yaml_mapping(KNOWN_DATASETS.read_text(encoding="utf-8"), KNOWN_DATASETS, "git checkout it")["datasets"]
    for name in plan.comparison.margins:  # those of datasets that are not planned yet stand there as well
        known(["comparison", "margins", name], name, papers | plan.datasets, "dataset")
    for number, table in enumerate(plan.tables):
        if table not in TITLES:
            where = f"{path}:{line_of(text, 'tables', number)}: tables"
            raise UserError(
                f"{where}: the paper has no table {table!r} with numbers", nearest(table, set(TITLES), "table")
            )
    for name, representation in plan.representations.items():
        known(["representations", name, "dataset"], representation.dataset, plan.datasets, "dataset")
        if name != f"{representation.dataset}-{representation.kind}":
            refuse(
                ["representations", name],
                "must be named <dataset>-<kind>",
                f"rename it {representation.dataset}-{representation.kind}",
            )
        one_shape = plan.datasets[representation.dataset].shape is not None
        if (representation.kind == "jpeg") == one_shape:
            refuse(
                ["representations", name, "kind"],
                f"{representation.dataset} has images of {'one shape' if one_shape else 'many shapes'}",
                f"choose {'rgb or zca' if one_shape else 'jpeg'}, and the name that goes with it",
            )
        for key, usual in (("max_side", 500), ("quality", 90)):
            if (getattr(representation, key) is not None) != (representation.kind == "jpeg"):
                refuse(
                    ["representations", name],
                    f"jpeg needs a {key}" if representation.kind == "jpeg" else f"only jpeg has a {key}",
                    f"add {key}: {usual}" if representation.kind == "jpeg" else f"remove {key}",
                )
    for run_id, run in plan.runs.items():
        at = ["runs", run_id]
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", run_id):
            refuse(at, "a run id has lower-case letters, digits and hyphens", f"e.g. {run.dataset}-wrn-40-1-quick-s1")
        known([*at, "dataset"], run.dataset, plan.datasets, "dataset")
        known([*at, "protocol"], run.protocol, plan.protocols, "protocol")
        known([*at, "representation"], f"{run.dataset}-{run.representation}", plan.representations, "representation")
        protocol = plan.protocols[run.protocol]
        if protocol.holdout >= plan.datasets[run.dataset].splits["train"]:
            refuse(["protocols", run.protocol, "holdout"], f"{run.dataset} has no more training images", "lower it")
        if (protocol.crop == "random-resized") == (plan.datasets[run.dataset].shape is not None):
            what = (
                f"{run.protocol} crops at random sizes, {run.dataset} has images of one size"
                if protocol.crop == "random-resized"
                else f"{run.protocol} does not crop at random sizes, {run.dataset} has images of many sizes"
            )
            refuse([*at, "protocol"], what, "choose another protocol")
        if plan.datasets[run.dataset].shape is None:
            needs = "jpeg"
        else:
            needs = "zca" if protocol.preprocessing == "zca" else "rgb"
        if run.representation != needs:
            refuse([*at, "representation"], f"protocol {run.protocol} needs {needs}", f"write representation: {needs}")
        try:
            parse(run.network)
        except UserError as error:
            refuse([*at, "network"], error.what, error.remedy)
