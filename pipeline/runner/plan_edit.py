"""Which runs a table of the paper needs, and the params.yaml that has them."""

import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML

from pipeline.atomic_write import new_file
from pipeline.comparison.training_cost import Cost, training_cost
from pipeline.dataset_config import Dataset
from pipeline.errors import UserError
from pipeline.params import PARAMS, Plan, nearest
from pipeline.publication.claims import STATISTIC, Claim, canonical
from pipeline.publication.paper import Paper
from pipeline.runner.params_file import line_of, parse_plan
from pipeline.runner.yaml_text import appended, appended_tables, edited

METRIC = {"top1_error": "top-1 error", "top5_error": "top-5 error"}
"""How a comment words a claim's metric."""
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
    def identity(self) -> tuple[str, str, str, str]:
        return self.dataset, self.representation, self.network, self.protocol

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
    """Planned runs that `before` has already."""


def groups_of(paper: Paper, claims: Sequence[Claim], plan: Plan, protocol: str | None) -> tuple[list[Group], list[str]]:
    """The runs behind `claims`, one group for each network, dataset and protocol; how many claims have none, and why.

    `protocol` names one for all of them, of params.yaml or of the paper; None takes each claim's own.
    Raises UserError for an unknown protocol.
    """
    known = {name: recipe.protocol for name, recipe in paper.protocols.items()} | plan.protocols
    if protocol is not None and protocol not in known:
        raise UserError(f"{PARAMS} has no protocol {protocol!r}", nearest(protocol, known, "protocol"))
    groups: dict[tuple[str, str, str], Group] = {}
    reasons: Counter[str] = Counter()
    for claim in claims:
        recipe = paper.protocol_of(claim)
        if recipe is None:
            reasons[_UNTRAINABLE.get(claim.kind, "COCO detection (another system)")] += 1
            continue
        name = protocol or recipe.name
        many_sizes = _dataset(claim.dataset, plan, paper).shape is None
        if many_sizes != (known[name].crop == "random-resized"):
            why = f"whose images {'vary in size' if many_sizes else 'have one size'}: {name} is not made for them"
            reasons[f"on {claim.dataset}, {why}"] += 1
            continue
        key = (claim.dataset, claim.network, name)
        if key not in groups:
            served = tuple(
                c
                for c in paper.claims
                if (c.dataset, c.network) == key[:2] and (of := paper.protocol_of(c)) and (protocol or of.name) == name
            )
            groups[key] = Group(*key, known[name].representation, served)
    return list(groups.values()), [f"{count} {reason}" for reason, count in reasons.items()]


_UNTRAINABLE = {
    "quoted": "quoted from other papers",
    "count": "parameter counts (counted, not trained)",
    "timing": "timings on the authors' machine",
}
"""Why no training of this tool answers a kind of claim, as the end of `3 ...`."""


def extend(paper: Paper, text: str, groups: Sequence[Group], tables: Sequence[str], seeds: int) -> Addition:
    """The text of params.yaml with `seeds` runs of each group, and the protocols, datasets and tables that they need.

    What is there already stays, to the byte. Raises UserError when params.yaml is invalid, has another protocol or
    another run by a name that is needed, or is laid out so that nothing can be added in place.
    """
    plan = parse_plan(text, PARAMS)
    datasets = dict.fromkeys(group.dataset for group in groups if group.dataset not in plan.datasets)
    stored = {f"{group.dataset}-{group.representation}": group for group in groups}
    representations = [
        f"{name}: {{dataset: {group.dataset}, kind: {group.representation}{_STORED.get(group.representation, '')}}}"
        for name, group in stored.items()
        if name not in plan.representations
    ]
    edits = [
        *appended(text, "datasets", [f"\n{_known_dataset(name, paper)[0]}" for name in datasets]),
        *appended(text, "representations", representations),
        *appended(text, "protocols", _protocol_texts(text, plan, groups, paper)),
    ]
    missing = {group: _lacking_seeds(text, plan, group, seeds) for group in groups}
    added = {group: lacking for group, lacking in missing.items() if lacking}
    fresh: list[str] = []
    for group, lacking in added.items():
        entries = [_run_text(group, seed) for seed in lacking]
        comments = _comments(group, plan, paper)
        if comments[0] not in text:
            entries = ["", *comments, *entries]
        if ours := [run_id for run_id in plan.runs if _identity(plan, run_id) == group.identity]:
            edits += appended(text, "runs", entries, after=ours[-1])
        else:
            fresh += entries
    edits += appended(text, "runs", fresh)
    edits += appended_tables(text, [table for table in tables if table not in plan.tables])
    after = edited(text, edits)
    present = len(groups) * seeds - sum(map(len, added.values()))
    return Addition(text, after, parse_plan(after, PARAMS), added, present)


@cache
def _known_dataset(name: str, paper: Paper) -> tuple[str, Dataset]:
    """Its entry in the list of the paper's datasets, where blank lines separate them, without indentation."""
    entries = paper.known_datasets.read_text(encoding="utf-8").split("\ndatasets:\n")[1].split("\n\n")
    text = textwrap.dedent(next(entry for entry in entries if re.search(f"^  {name}:$", entry, re.MULTILINE)))
    return text, Dataset.model_validate(YAML(typ="safe").load(text)[name])


def _dataset(name: str, plan: Plan, paper: Paper) -> Dataset:
    return plan.datasets[name] if name in plan.datasets else _known_dataset(name, paper)[1]


def _protocol_texts(text: str, plan: Plan, groups: Sequence[Group], paper: Paper) -> list[str]:
    """The paper's protocols that the plan lacks. Raises UserError where it has another one of such a name."""
    blocks = []
    for name in dict.fromkeys(group.protocol for group in groups):
        if name not in plan.protocols:
            blocks.append(_protocol_text(name, paper))
        elif name in paper.protocols:
            for (field, ours), (_, papers) in zip(plan.protocols[name], paper.protocols[name].protocol, strict=True):
                if ours != papers:
                    raise UserError(
                        f"{PARAMS}:{line_of(text, 'protocols', name, field)}: protocols.{name}.{field} is "
                        f"{_flow(ours)}, the paper's is {_flow(papers)}",
                        "rename your protocol there and in its runs, or restore the paper's value",
                    )
    return blocks


def _protocol_text(name: str, paper: Paper) -> str:
    needing = {claim.table for claim in paper.claims if (of := paper.protocol_of(claim)) and of.name == name}
    tables = _listed([table for table in paper.tables if table in needing])
    source = (paper.folder / "protocols.yaml").relative_to(Path(__file__).parents[2]).as_posix()
    head = f"\n# The paper's recipe of {tables}. The source of each value: {source}.\n{name}:"
    return "\n".join([head, *(f"  {field}: {_flow(value)}" for field, value in paper.protocols[name].protocol)])


def _flow(value: Any) -> str:
    """A value as YAML on one line, strings of a vocabulary as they are."""
    if isinstance(value, BaseModel):
        return "{" + ", ".join(f"{field}: {_flow(inner)}" for field, inner in value) + "}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_flow, value))}]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _listed(tables: Sequence[str]) -> str:
    """`Table 4`; `Tables 2, 3 and 4`; `Tables 6, 9 and the text`."""
    words = ["the text" if table == "text" else table.replace("figure-", "Figure ") for table in tables]
    numbers = sum(table.isdigit() for table in tables)
    lead = {0: "", 1: "Table "}.get(numbers, "Tables ")
    return lead + (words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}")


def _identity(plan: Plan, run_id: str) -> tuple[str, str, str, str]:
    """As Group.identity."""
    run = plan.runs[run_id]
    return run.dataset, run.representation, canonical(run.network), run.protocol


def _lacking_seeds(text: str, plan: Plan, group: Group, seeds: int) -> tuple[int, ...]:
    """Seeds from 1 that no run of the plan has, by whatever id. Raises UserError when an id means something else."""
    present = {run.seed for run_id, run in plan.runs.items() if _identity(plan, run_id) == group.identity}
    lacking = tuple(seed for seed in range(1, seeds + 1) if seed not in present)
    for run_id in map(group.run_id, lacking):
        if run_id in plan.runs:
            raise UserError(
                f"{PARAMS}:{line_of(text, 'runs', run_id)}: runs.{run_id} is another run than its id says",
                "rename it there, or restore its settings",
            )
    return lacking


def _run_text(group: Group, seed: int) -> str:
    network = f'"{group.network}"' if "," in group.network else group.network
    return (
        f"{group.run_id(seed)}: {{dataset: {group.dataset}, representation: {group.representation}, "
        f"network: {network}, protocol: {group.protocol}, seed: {seed}}}"
    )


def _comments(group: Group, plan: Plan, paper: Paper) -> list[str]:
    lines = [f"# {group.network} on {_dataset(group.dataset, plan, paper).title} by {group.protocol}."]
    cost = _group_cost(group, plan, paper)
    for claim in group.claims:
        recipe = paper.protocol_of(claim)
        printed = f"{claim.text} % ({_listed([claim.table])}, {STATISTIC[claim.statistic]})"
        if recipe is not None and recipe.name != group.protocol:
            lines.append(f"#   The paper's {METRIC[claim.metric]} by {recipe.name}: {printed}; expect another.")
        else:
            lines.append(f"#   Expected {METRIC[claim.metric]}: {printed}.")
    return [
        *lines,
        f"#   Cost of each: {cost}, estimated from multiply-adds (pipeline/comparison/training_cost.py).",
        f"#   Train them: wrn-pipe repro '{group.name}-s*'",
    ]


def _group_cost(group: Group, plan: Plan, paper: Paper) -> Cost:
    """Estimated cost of one run of the group."""
    protocol = plan.protocols.get(group.protocol) or paper.protocols[group.protocol].protocol
    images = _dataset(group.dataset, plan, paper).splits["train"] - protocol.holdout
    return training_cost(group.network, images, protocol)


def cost_of(paper: Paper, addition: Addition) -> Cost:
    """Estimated cost of all added runs."""
    costs = (_group_cost(group, addition.plan, paper) * len(seeds) for group, seeds in addition.added.items())
    return sum(costs, start=Cost(0.0, 0.0))


def write(path: Path, addition: Addition) -> None:
    """Replace the text of `path`, whole or not at all.

    Raises UserError when the file is no longer what was planned on, or cannot be written.
    """
    target = path.resolve()  # a link stays one
    try:
        if target.read_bytes().decode() != addition.before:
            raise UserError(f"{path} was edited while its plan was shown", "run the same command again")
        mode = target.stat().st_mode
        new_file(target, addition.after.encode("utf-8"))
        target.chmod(mode)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}", "fix that; the file is as it was") from None
