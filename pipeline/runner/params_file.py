"""params.yaml read and checked, also against the networks, tables and datasets there are; mistakes with their line."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from pipeline.dataset_config import Strict
from pipeline.errors import UserError, nearest
from pipeline.models.names import parse
from pipeline.params import PARAMS, Plan, read_text, yaml_mapping
from pipeline.publication.paper import Paper
from pipeline.publication.wide_resnet import PAPER


def load(path: Path = PARAMS) -> Plan:
    """Read and check a plan. Raises UserError with the line of the first mistake and the nearest valid word."""
    above = next((folder for folder in Path.cwd().parents if (folder / path).is_file()), None)
    deleted = f"git checkout {path} if it was deleted"
    return parse_plan(read_text(path, f"cd {above}" if above else f"cd into the repository; {deleted}"), path)


def parse_plan(text: str, path: Path = PARAMS, paper: Paper = PAPER) -> Plan:
    """Check the text of a plan of a paper, as `load` does; `path` only names it."""
    values = yaml_mapping(text, path, f"fix the YAML there; its keys are {', '.join(Plan.model_fields)}")
    try:
        plan = Plan.model_validate(values)
    except ValidationError as error:
        # An unknown key first: where it is a misspelt one, the right one is reported missing as well.
        problem = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")[0]
        raise _mistake(path, text, problem) from None
    for keys, what, remedy in _misfits(plan, paper):
        place = ".".join(key for key in keys if isinstance(key, str))
        raise UserError(f"{path}:{line_of(text, *keys)}: {place}: {what}", remedy)
    return plan


def line_of(text: str, *keys: Any) -> int:
    """Line (from 1) of the deepest of `keys` that the text of a plan has."""
    return _place(text, keys)[1]


def _place(text: str, loc: Sequence[Any]) -> tuple[list[Any], int, set[str]]:
    """The keys of `loc` that the text of a plan has or should have (a union's tag does not stand there), the line of
    the deepest that it has, and all keys beside the last. Slow: only a mistake pays for it."""
    keys: list[Any] = []
    line, siblings, node = 1, set[str](), YAML().load(text)
    for number, key in enumerate(loc):
        in_map = isinstance(node, CommentedMap)
        here = key in node if in_map else isinstance(node, CommentedSeq) and isinstance(key, int) and key < len(node)
        if here or number == len(loc) - 1:
            keys.append(key)
            siblings = set(node) if in_map else set()
        if here:
            line = (node.lc.key(key) if in_map else node.lc.item(key))[0] + 1
            node = node[key]
    return keys, line, siblings


def _mistake(path: Path, text: str, problem: Any) -> UserError:
    """What pydantic says of a value, with its place and a remedy."""
    keys, line, siblings = _place(text, problem["loc"])
    where = f"{path}:{line}: {'.'.join(map(str, keys))}"
    word = next((key for key in reversed(keys) if isinstance(key, str)), "")
    if problem["type"] == "extra_forbidden":
        # Of the model that has most of the keys beside it.
        fields = max((set(m.model_fields) for m in Strict.__subclasses__()), key=lambda known: len(known & siblings))
        return UserError(f"{where}: unknown key", nearest(word, fields, "key"))
    said, remedy = _SAID.get(problem["type"], (_AS_IS, "correct {word}"))
    message = problem["msg"][0].lower() + problem["msg"][1:]
    known = {**problem.get("ctx", {}), "word": word, "input": problem["input"], "message": message}
    return UserError(f"{where}: {said.format(**known)}", remedy.format(**known))


_AS_IS = "{message} (is {input!r})"
_SAID = {
    "missing": ("missing", "add {word} there; params.yaml in git has an example"),
    "literal_error": ("invalid choice {input!r}", "choose {expected}"),
    "union_tag_invalid": ("invalid kind {tag!r}", "choose {expected_tags}"),
    "value_error": ("{error}", "change one of the two"),
    "int_type": (_AS_IS, "write a whole number, without quotes or a point"),
    "float_type": (_AS_IS, "write a number without quotes; with an exponent it needs a point and a sign: 5.0e-4"),
    "string_type": (_AS_IS, "put it into quotes"),
    "bool_type": (_AS_IS, "write true or false, without quotes"),
    "tuple_type": (_AS_IS, "write a list: [a, b]"),
    "dict_type": (_AS_IS, "write a mapping: a key to a line, further in"),
    "model_type": (_AS_IS, "write a mapping: a key to a line, further in"),
}
"""By pydantic's kind of error: what is wrong, and a remedy."""


_Misfit = tuple[Sequence[Any], str, str]
"""A value that does not fit what it refers to: its keys, what is wrong, a remedy."""


def _unknown(keys: Sequence[Any], word: str, names: Any, noun: str) -> Iterator[_Misfit]:
    if word not in names:
        yield keys, f"no {noun} {word!r}", nearest(word, set(names), noun)


def _misfits(plan: Plan, paper: Paper) -> Iterator[_Misfit]:
    """Only the first may be taken: what is checked later relies on what was checked before."""
    for section in ("datasets", "protocols"):
        for name in getattr(plan, section):
            if "." in name:
                # Stages depend on `protocols.<name>`, where DVC takes every dot for a step into the mapping.
                yield [section, name], "a name has no dots", f"rename it {name.replace('.', '-')}"
    for name in plan.comparison.margins:  # those of datasets that are not planned yet stand there as well
        yield from _unknown(["comparison", "margins", name], name, paper.datasets | plan.datasets, "dataset")
    for number, table in enumerate(plan.tables):
        if table not in paper.tables:
            what = f"the paper has no table {table!r} with numbers"
            yield ["tables", number], what, nearest(table, set(paper.tables), "table")
    for name, stored in plan.representations.items():
        at = ["representations", name]
        yield from _unknown([*at, "dataset"], stored.dataset, plan.datasets, "dataset")
        if name != (expected := f"{stored.dataset}-{stored.kind}"):
            yield at, "must be named <dataset>-<kind>", f"rename it {expected}"
        jpeg, one_shape = stored.kind == "jpeg", plan.datasets[stored.dataset].shape is not None
        if jpeg == one_shape:
            shapes, kinds = ("one shape", "rgb or zca") if one_shape else ("many shapes", "jpeg")
            what = f"{stored.dataset} has images of {shapes}"
            yield [*at, "kind"], what, f"choose {kinds}, and the name that goes with it"
        for key, usual in (("max_side", 500), ("quality", 90)):
            if (getattr(stored, key) is not None) != jpeg:
                what = f"jpeg needs a {key}" if jpeg else f"only jpeg has a {key}"
                yield at, what, f"add {key}: {usual}" if jpeg else f"remove {key}"
    for run_id, run in plan.runs.items():
        at = ["runs", run_id]
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", run_id):
            yield at, "a run id has lower-case letters, digits and hyphens", f"e.g. {run.dataset}-wrn-40-1-quick-s1"
        yield from _unknown([*at, "dataset"], run.dataset, plan.datasets, "dataset")
        yield from _unknown([*at, "protocol"], run.protocol, plan.protocols, "protocol")
        name = f"{run.dataset}-{run.representation}"
        yield from _unknown([*at, "representation"], name, plan.representations, "representation")
        protocol, dataset = plan.protocols[run.protocol], plan.datasets[run.dataset]
        if protocol.holdout >= dataset.splits["train"]:
            yield ["protocols", run.protocol, "holdout"], f"{run.dataset} has no more training images", "lower it"
        many = dataset.shape is None
        if (protocol.crop == "random-resized") != many:
            crops = "does not crop at random sizes" if many else "crops at random sizes"
            what = f"{run.protocol} {crops}, {run.dataset} has images of {'many sizes' if many else 'one size'}"
            yield [*at, "protocol"], what, "choose another protocol"
        if run.representation != (needs := "jpeg" if many else protocol.representation):
            what = f"protocol {run.protocol} needs {needs}"
            yield [*at, "representation"], what, f"write representation: {needs}"
        try:
            parse(run.network)
        except UserError as error:
            yield [*at, "network"], error.what, error.remedy
