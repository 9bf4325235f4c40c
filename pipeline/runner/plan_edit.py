"""Which runs a table of the paper needs, and the text of params.yaml with them: loading and dumping all of it would
move comments and change its layout."""

import json
import re
import textwrap
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, SequenceNode

from pipeline.atomic_write import new_file, writing
from pipeline.comparison.training_cost import Cost, training_cost
from pipeline.dataset_config import Dataset
from pipeline.errors import UserError
from pipeline.params import PARAMS, Plan, Protocol, entry
from pipeline.publication.claims import STATISTIC, Claim, canonical
from pipeline.publication.paper import Paper
from pipeline.runner.params_file import line_of, parse_plan

_METRIC = {"top1_error": "top-1 error", "top5_error": "top-5 error"}
_Edit = tuple[int, int, str]
"""From a place in a text to another: what stands there instead."""
_STORED = {"jpeg": ", max_side: 500, quality: 90"}
"""Further settings of a kind of representation: what FFCV's authors use for ImageNet."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only."""

    dataset: str
    network: str
    """Canonical name."""
    protocol: str
    representation: str
    claims: tuple[Claim, ...]
    """All of the paper's claims that these runs answer, or would but for the protocol."""

    @property
    def name(self) -> str:
        """What its run ids start with. No dots: DVC reads a dot in `runs.<id>` as a step into the mapping."""
        network = re.sub(r"-b\(([0-9,]+)\)", lambda block: "-b" + block[1].replace(",", ""), self.network.lower())
        return f"{self.dataset}-{network.replace('.', '-')}-{self.protocol}"

    def run_id(self, seed: int) -> str:
        return f"{self.name}-s{seed}"


@dataclass(frozen=True)
class Addition:
    """What planning changes."""

    before: str
    after: str
    """The whole text of params.yaml, checked."""
    plan: Plan
    added: dict[Group, tuple[int, ...]]
    """Seeds of the runs that `after` has and `before` has not."""
    present: int
    """Planned runs that `before` or evidence has already."""
    cost: Cost
    """Of all added runs, estimated."""


def groups_of(paper: Paper, claims: Sequence[Claim], plan: Plan, protocol: str | None) -> tuple[list[Group], list[str]]:
    """The runs behind `claims`, one group for each network, dataset and protocol; how many claims have none, and why.

    `protocol` names one for all of them, of params.yaml or of the paper; None takes each claim's own.
    Raises UserError for an unknown protocol.
    """
    known = {name: recipe.protocol for name, recipe in paper.protocols.items()} | plan.protocols
    if protocol is not None:
        entry(known, protocol, "protocol")
    answered: dict[tuple[str, str, str], list[Claim]] = {}
    for claim in paper.claims:
        if recipe := paper.protocol_of(claim):
            answered.setdefault((claim.dataset, claim.network, protocol or recipe.name), []).append(claim)
    groups: dict[tuple[str, str, str], Group] = {}
    reasons: Counter[str] = Counter()
    for claim in claims:
        if (recipe := paper.protocol_of(claim)) is None:
            reasons[_UNTRAINABLE.get(claim.kind, f"on {paper.datasets[claim.dataset]}, which has no recipe")] += 1
            continue
        name = protocol or recipe.name
        many_sizes = _dataset(claim.dataset, plan, paper).shape is None
        if many_sizes != (known[name].crop == "random-resized"):
            why = f"whose images {'vary in size' if many_sizes else 'have one size'}: {name} is not made for them"
            reasons[f"on {claim.dataset}, {why}"] += 1
            continue
        key = (claim.dataset, claim.network, name)
        groups[key] = Group(*key, known[name].representation, tuple(answered[key]))
    return list(groups.values()), [f"{count} {reason}" for reason, count in reasons.items()]


_UNTRAINABLE = {
    "quoted": "quoted from other papers",
    "derived": "derived from other numbers of the paper",
    "count": "parameter counts (counted, not trained)",
    "timing": "timings on the authors' machine",
}
"""Why no training of this tool answers a kind of claim, as the end of `3 ...`."""


def extend(
    paper: Paper,
    text: str,
    groups: Sequence[Group],
    tables: Sequence[str],
    seeds: int,
    known_seeds: Mapping[Group, Collection[int]] | None = None,
) -> Addition:
    """The text of params.yaml with `seeds` runs of each group, and the protocols, datasets and tables that they need.

    `known_seeds`: of each group those of which comparable runs are in evidence; they are not trained again.

    What is there already stays, to the byte. Raises UserError when params.yaml is invalid, has another protocol or
    another run by a name that is needed, or is laid out so that nothing can be added in place.
    """
    plan = parse_plan(text, PARAMS)
    present: dict[tuple[str, ...], dict[int, str]] = {}
    """dataset, representation, network, protocol -> seed -> run id, by whatever id."""
    for run_id, run in plan.runs.items():
        same = run.dataset, run.representation, canonical(run.network), run.protocol
        present.setdefault(same, {})[run.seed] = run_id
    ours = {g: present.get((g.dataset, g.representation, g.network, g.protocol), {}) for g in groups}
    has = {group: {*ours[group], *(known_seeds or {}).get(group, ())} for group in groups}
    missing = {group: tuple(seed for seed in range(1, seeds + 1) if seed not in has[group]) for group in groups}
    added = {group: lacking for group, lacking in missing.items() if lacking}
    there = len(groups) * seeds - sum(map(len, added.values()))
    groups = [group for group in groups if group in added or ours[group]]  # of the others nothing is needed
    # Blank lines separate the entries in the list of the paper's datasets.
    known = paper.known_datasets.read_text(encoding="utf-8").split("\ndatasets:\n")[1].split("\n\n")
    lacked = {f"  {group.dataset}:" for group in groups if group.dataset not in plan.datasets}
    datasets = [f"\n{textwrap.dedent(entry)}" for entry in known if lacked.intersection(entry.splitlines())]
    stored = {f"{group.dataset}-{group.representation}": group for group in groups}
    representations = [
        f"{name}: {{dataset: {group.dataset}, kind: {group.representation}{_STORED.get(group.representation, '')}}}"
        for name, group in stored.items()
        if name not in plan.representations
    ]
    edits = [
        *_appended(text, "datasets", datasets),
        *_appended(text, "representations", representations),
        *_appended(text, "protocols", _protocol_texts(text, plan, groups, paper)),
    ]
    fresh: list[str] = []
    for group, lacking in added.items():
        entries = [_run_text(text, plan, group, seed) for seed in lacking]
        comments = _comments(group, plan, paper)
        if comments[0] not in text:
            entries = ["", *comments, *entries]
        if ours[group]:
            edits += _appended(text, "runs", entries, after=list(ours[group].values())[-1])
        else:
            fresh += entries
    edits += _appended(text, "runs", fresh)
    edits += _appended_tables(text, [table for table in tables if table not in plan.tables])
    after = text
    for start, end, new in reversed(sorted(edits, key=lambda edit: edit[0])):
        after = after[:start] + new + after[end:]
    cost = sum((_cost(group, plan, paper) * len(lacking) for group, lacking in added.items()), Cost(0.0, 0.0))
    return Addition(text, after, parse_plan(after, PARAMS), added, there, cost)


@cache
def known_datasets(paper: Paper) -> dict[str, Dataset]:
    """All datasets of the paper, whose entries can be copied into params.yaml."""
    entries = YAML(typ="safe").load(paper.known_datasets)["datasets"]
    return {name: Dataset.model_validate(entry) for name, entry in entries.items()}


def _dataset(name: str, plan: Plan, paper: Paper) -> Dataset:
    return plan.datasets[name] if name in plan.datasets else known_datasets(paper)[name]


def _protocol_texts(text: str, plan: Plan, groups: Sequence[Group], paper: Paper) -> list[str]:
    """The paper's protocols that the plan lacks. Raises UserError where it has another one of such a name."""
    source = (paper.folder / "protocols.yaml").relative_to(Path(__file__).parents[2]).as_posix()
    blocks = []
    for name in dict.fromkeys(group.protocol for group in groups):
        papers = _values(paper.protocols[name].protocol) if name in paper.protocols else {}
        if name not in plan.protocols:
            needing = {claim.table for claim in paper.claims if (of := paper.protocol_of(claim)) and of.name == name}
            tables = _listed([table for table in paper.tables if table in needing])
            blocks += [f"\n# The paper's recipe of {tables}. The source of each value: {source}.\n{name}:"]
            blocks += [f"  {field}: {value}" for field, value in papers.items()]
            continue
        ours = _values(plan.protocols[name])
        for field in (field for field, value in papers.items() if ours[field] != value):
            place = f"{PARAMS}:{line_of(text, 'protocols', name, field)}: protocols.{name}.{field}"
            what = f"{place} is {ours[field]}, the paper's is {papers[field]}"
            raise UserError(what, "rename your protocol there and in its runs, or restore the paper's value")
    return blocks


def _values(protocol: Protocol) -> dict[str, str]:
    """By field, as YAML on one line: strings are of a vocabulary and need no quotes."""
    return {field: json.dumps(value).replace('"', "") for field, value in protocol.model_dump(mode="json").items()}


def _listed(tables: Sequence[str]) -> str:
    return ", ".join(f"Table {table}" if table.isdigit() else "the text" for table in tables)


def _run_text(text: str, plan: Plan, group: Group, seed: int) -> str:
    """Raises UserError where its id means something else."""
    run_id = group.run_id(seed)
    if run_id in plan.runs:
        what = f"{PARAMS}:{line_of(text, 'runs', run_id)}: runs.{run_id} is another run than its id says"
        raise UserError(what, "rename it there, or restore its settings")
    network = f'"{group.network}"' if "," in group.network else group.network
    return (
        f"{run_id}: {{dataset: {group.dataset}, representation: {group.representation}, "
        f"network: {network}, protocol: {group.protocol}, seed: {seed}}}"
    )


def _comments(group: Group, plan: Plan, paper: Paper) -> list[str]:
    lines = [f"# {group.network} on {_dataset(group.dataset, plan, paper).title} by {group.protocol}."]
    for claim in group.claims:
        recipe = paper.protocol_of(claim)
        printed = f"{claim.text} % ({_listed([claim.table])}, {STATISTIC[claim.statistic]})"
        if recipe is not None and recipe.name != group.protocol:
            lines.append(f"#   The paper's {_METRIC[claim.metric]} by {recipe.name}: {printed}; expect another.")
        else:
            lines.append(f"#   Expected {_METRIC[claim.metric]}: {printed}.")
    where = "estimated from multiply-adds (pipeline/comparison/training_cost.py)"
    lines.append(f"#   Cost of each: {_cost(group, plan, paper)}, {where}.")
    return [*lines, f"#   Train them: wrn-pipe repro '{group.name}-s*'"]


def _cost(group: Group, plan: Plan, paper: Paper) -> Cost:
    """Of one run of the group."""
    protocol = plan.protocols.get(group.protocol) or paper.protocols[group.protocol].protocol
    images = _dataset(group.dataset, plan, paper).splits["train"] - protocol.holdout
    return training_cost(group.network, images, protocol)


def _appended(text: str, section: str, blocks: Sequence[str], after: str | None = None) -> list[_Edit]:
    """Entries added to the mapping `section`: below its entry `after`, or else below its last one.

    A block is YAML without indentation, comments and blank lines included. Raises UserError for a section in braces,
    where no comment could stand.
    """
    if not blocks:
        return []
    value = _sections(text)[section]
    if value.flow_style and value.value:
        place = f"{PARAMS}:{value.start_mark.line + 1}"
        raise UserError(f"{place}: {section} stands in braces", "write it as a block, one entry to a line")
    lines = "\n".join(blocks).splitlines()
    if not value.value:
        start, end = value.start_mark.index, value.end_mark.index
        return [(start - (text[start - 1] == " "), end, ""), _lines_below(text, end, 2, lines)]
    entry = next((pair for pair in value.value if pair[0].value == after), value.value[-1])
    return [_lines_below(text, _end(entry[1]), value.value[0][0].start_mark.column, lines)]


def _appended_tables(text: str, tables: Sequence[str]) -> list[_Edit]:
    if not tables:
        return []
    value = _sections(text)["tables"]
    quoted = [f'"{table}"' for table in tables]
    if not value.flow_style:
        return [_lines_below(text, _end(value), value.start_mark.column, [f"- {word}" for word in quoted])]
    end = value.value[-1].end_mark.index if value.value else value.start_mark.index + 1
    return [(end, end, ", ".join(["", *quoted] if value.value else quoted))]


@lru_cache(maxsize=1)
def _sections(text: str) -> dict[str, Any]:
    return {key.value: value for key, value in YAML(typ="safe", pure=True).compose(text).value}


def _end(node: Any) -> int:
    """Behind the last character of a node. The end mark of a block lies behind the comments that follow it."""
    while isinstance(node, MappingNode | SequenceNode) and node.value and not node.flow_style:
        node = node.value[-1][1] if isinstance(node, MappingNode) else node.value[-1]
    return int(node.end_mark.index)


def _lines_below(text: str, index: int, column: int, lines: Sequence[str]) -> _Edit:
    """Whole lines below the line that holds the character before `index`."""
    newline = "\r\n" if "\r\n" in text else "\n"
    new = "".join((" " * column + line if line else "") + newline for line in lines)
    end = index if text[index - 1] == "\n" else text.find("\n", index) + 1
    return (end, end, new) if end else (len(text), len(text), newline + new)  # its last line has no line break


def write(path: Path, addition: Addition) -> None:
    """Replace the text of `path`, whole or not at all. Raises UserError when it was edited, or cannot be written."""
    target = path.resolve()  # a link stays one
    if target.read_bytes().decode() != addition.before:
        raise UserError(f"{path} was edited while its plan was shown", "run the same command again")
    with writing(path):
        mode = target.stat().st_mode
        new_file(target, addition.after.encode())
        target.chmod(mode)
