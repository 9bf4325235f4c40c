"""Which runs a table of the paper needs, and the params.yaml that has them."""

import functools
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML

from pipeline.comparison.training_cost import Cost, training_cost
from pipeline.dataset_config import Dataset
from pipeline.errors import UserError
from pipeline.params import PARAMS, Plan, Protocol, nearest
from pipeline.publication.claims import STATISTIC, Claim, canonical, load_claims
from pipeline.publication.paper import KNOWN_DATASETS, TITLES
from pipeline.publication.protocols import PROTOCOLS, paper_protocols, protocol_of
from pipeline.runner.params_file import parse_plan
from pipeline.runner.yaml_text import Document, Edit

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
    def name(self) -> str:
        """What its run ids start with. No dots: DVC reads a dot in `runs.<id>` as a step into the mapping."""
        network = re.sub(r"-b\(([0-9,]+)\)", lambda block: "-b" + block[1].replace(",", ""), self.network.lower())
        return f"{self.dataset}-{network.replace('.', '-')}-{self.protocol}"

    def run_id(self, seed: int) -> str:
        return f"{self.name}-s{seed}"


@dataclass(frozen=True)
class LeftOut:
    """Claims that no run is planned for."""

    claims: int
    reason: str

    def __str__(self) -> str:
        return f"{self.claims} {self.reason}"


@dataclass(frozen=True)
class Addition:
    """What planning changes."""

    before: str
    after: str
    """The whole text of params.yaml, checked."""
    plan: Plan
    """`after`, typed."""
    added: dict[Group, tuple[int, ...]]
    """Seeds of the runs that `after` has and `before` has not."""
    present: int
    """Planned runs that `before` has already."""


def groups_of(claims: Sequence[Claim], plan: Plan, protocol: str | None) -> tuple[list[Group], list[LeftOut]]:
    """The runs behind `claims`, one group for each network, dataset and protocol, and the claims that have none.

    `protocol` names one for all of them, of params.yaml or of the paper; None takes each claim's own.
    Raises UserError for an unknown protocol.
    """
    known = _protocols(plan)
    if protocol is not None and protocol not in known:
        raise UserError(f"{PARAMS} has no protocol {protocol!r}", nearest(protocol, known, "protocol"))
    groups: dict[tuple[str, str, str], Group] = {}
    reasons: dict[str, int] = {}
    for claim in claims:
        name = _protocol_name(claim, protocol)
        reason = _untrainable(claim) or (_misfit(name, known[name], claim.dataset, plan) if name else None)
        if reason or name is None:
            reasons[str(reason)] = reasons.get(str(reason), 0) + 1
            continue
        key = (claim.dataset, claim.network, name)
        if key not in groups:
            served = tuple(c for c in load_claims() if (c.dataset, c.network, _protocol_name(c, protocol)) == key)
            groups[key] = Group(*key, known[name].representation, served)
    return list(groups.values()), [LeftOut(count, reason) for reason, count in reasons.items()]


def extend(text: str, groups: Sequence[Group], tables: Sequence[str], seeds: int) -> Addition:
    """The text of params.yaml with `seeds` runs of each group, and the protocols, datasets and tables that they need.

    What is there already stays, to the byte. Raises UserError when params.yaml is invalid, has another protocol or
    another run by a name that is needed, or is laid out so that nothing can be added in place.
    """
    plan = parse_plan(text, PARAMS)
    document = Document(text, str(PARAMS))
    edits = [
        *_dataset_edits(document, plan, groups),
        *_representation_edits(document, plan, groups),
        *_protocol_edits(document, plan, groups),
    ]
    lacking = {group: _lacking_seeds(document, plan, group, seeds) for group in groups}
    fresh: list[str] = []
    for group in groups:
        entries = [_run_text(group, seed) for seed in lacking[group]]
        if not entries:
            continue
        if _title(group, plan) not in text:
            entries = ["", *_comments(group, plan), *entries]
        ours = [run_id for run_id in plan.runs if _identity(plan, run_id)[:-1] == _wanted(group, 0)[:-1]]
        if ours:
            edits += document.append("runs", entries, after=ours[-1])
        else:
            fresh += entries
    if fresh:
        edits += document.append("runs", fresh)
    if missing := [table for table in tables if table not in plan.tables]:
        edits += document.append_words("tables", missing)
    after = document.apply(edits)
    present = len(groups) * seeds - sum(map(len, lacking.values()))
    added = {group: seeds for group, seeds in lacking.items() if seeds}
    return Addition(text, after, parse_plan(after, PARAMS), added, present)


def _protocols(plan: Plan) -> dict[str, Protocol]:
    return {**{name: paper.protocol for name, paper in paper_protocols().items()}, **plan.protocols}


def _protocol_name(claim: Claim, protocol: str | None) -> str | None:
    """The protocol for a claim's runs; None where the claim can not be trained."""
    paper = protocol_of(claim)
    return None if paper is None else protocol or paper.name


def _untrainable(claim: Claim) -> str | None:
    """Why no training of this tool answers a claim, as the end of `3 ...`; None where one does."""
    if claim.kind == "quoted":
        return "quoted from other papers"
    if claim.kind == "count":
        return "parameter counts (counted, not trained)"
    if claim.kind == "timing":
        return "timings on the authors' machine"
    return None if protocol_of(claim) else "COCO detection (another system)"


def _misfit(name: str, protocol: Protocol, dataset: str, plan: Plan) -> str | None:
    many_sizes = _dataset(dataset, plan).shape is None
    if many_sizes == (protocol.crop == "random-resized"):
        return None
    return (
        f"on {dataset}, whose images {'vary in size' if many_sizes else 'have one size'}: {name} is not made for them"
    )


@functools.cache
def _known_datasets() -> Document:
    return Document(KNOWN_DATASETS.read_text(encoding="utf-8"), KNOWN_DATASETS.name)


def _dataset(name: str, plan: Plan) -> Dataset:
    return plan.datasets[name] if name in plan.datasets else _known_dataset(name)


@functools.cache
def _known_dataset(name: str) -> Dataset:
    entries = YAML(typ="safe", pure=True).load(_known_datasets().block("datasets", name))
    return Dataset.model_validate(entries[name])


def _dataset_edits(document: Document, plan: Plan, groups: Sequence[Group]) -> list[Edit]:
    names = dict.fromkeys(group.dataset for group in groups if group.dataset not in plan.datasets)
    blocks = [f"\n{_known_datasets().block('datasets', name)}" for name in names]
    return document.append("datasets", blocks) if blocks else []


def _representation_edits(document: Document, plan: Plan, groups: Sequence[Group]) -> list[Edit]:
    lines = dict.fromkeys(
        f"{group.dataset}-{group.representation}: "
        f"{{dataset: {group.dataset}, kind: {group.representation}{_STORED.get(group.representation, '')}}}"
        for group in groups
        if f"{group.dataset}-{group.representation}" not in plan.representations
    )
    return document.append("representations", list(lines)) if lines else []


def _protocol_edits(document: Document, plan: Plan, groups: Sequence[Group]) -> list[Edit]:
    blocks = []
    for name in dict.fromkeys(group.protocol for group in groups):
        if name not in plan.protocols:
            blocks.append(f"\n{_protocol_text(name)}")
        elif name in paper_protocols():
            _refuse_another(document, name, plan.protocols[name], paper_protocols()[name].protocol)
    return document.append("protocols", blocks) if blocks else []


def _refuse_another(document: Document, name: str, ours: Protocol, papers: Protocol) -> None:
    for field in Protocol.model_fields:
        mine, theirs = getattr(ours, field), getattr(papers, field)
        if mine != theirs:
            raise UserError(
                f"{PARAMS}:{document.line('protocols', name, field)}: protocols.{name}.{field} is {_flow(mine)}, "
                f"the paper's is {_flow(theirs)}",
                "rename your protocol there and in its runs, or restore the paper's value",
            )


def _protocol_text(name: str) -> str:
    paper = paper_protocols()[name]
    tables = [
        table
        for table in TITLES
        if any((of := protocol_of(claim)) and of.name == name for claim in load_claims() if claim.table == table)
    ]
    source = PROTOCOLS.relative_to(Path(__file__).parents[2]).as_posix()
    lines = [
        f"# The paper's recipe of {_listed(tables)}. The source of each value: {source}.",
        f"{name}:",
        *(f"  {field}: {_flow(getattr(paper.protocol, field))}" for field in Protocol.model_fields),
    ]
    return "\n".join(lines)


def _flow(value: Any) -> str:
    """A value as YAML on one line, strings of a vocabulary as they are."""
    if isinstance(value, BaseModel):
        return "{" + ", ".join(f"{field}: {_flow(getattr(value, field))}" for field in type(value).model_fields) + "}"
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


def _identity(plan: Plan, run_id: str) -> tuple[str, str, str, str, int]:
    run = plan.runs[run_id]
    return run.dataset, run.representation, canonical(run.network), run.protocol, run.seed


def _wanted(group: Group, seed: int) -> tuple[str, str, str, str, int]:
    return group.dataset, group.representation, group.network, group.protocol, seed


def _lacking_seeds(document: Document, plan: Plan, group: Group, seeds: int) -> tuple[int, ...]:
    """Seeds from 1 that no run of the plan has, by whatever id. Raises UserError when an id means something else."""
    present = {_identity(plan, run_id) for run_id in plan.runs}
    lacking = tuple(seed for seed in range(1, seeds + 1) if _wanted(group, seed) not in present)
    for run_id in map(group.run_id, lacking):
        if run_id in plan.runs:
            raise UserError(
                f"{PARAMS}:{document.line('runs', run_id)}: runs.{run_id} is another run than its id says",
                "rename it there, or restore its settings",
            )
    return lacking


def _run_text(group: Group, seed: int) -> str:
    network = f'"{group.network}"' if "," in group.network else group.network
    return (
        f"{group.run_id(seed)}: {{dataset: {group.dataset}, representation: {group.representation}, "
        f"network: {network}, protocol: {group.protocol}, seed: {seed}}}"
    )


def _title(group: Group, plan: Plan) -> str:
    return f"# {group.network} on {_dataset(group.dataset, plan).title} by {group.protocol}."


def _comments(group: Group, plan: Plan) -> list[str]:
    cost = _group_cost(group, plan)
    lines = [_title(group, plan)]
    for claim in group.claims:
        paper = protocol_of(claim)
        printed = f"{claim.text} % ({_listed([claim.table])}, {STATISTIC[claim.statistic]})"
        if paper is not None and paper.name != group.protocol:
            lines.append(f"#   The paper's {METRIC[claim.metric]} by {paper.name}: {printed}; expect another.")
        else:
            lines.append(f"#   Expected {METRIC[claim.metric]}: {printed}.")
    lines.append(f"#   Cost of each: {cost}, estimated from multiply-adds (pipeline/comparison/training_cost.py).")
    lines.append(f"#   Train them: wrn-pipe repro '{group.name}-s*'")
    return lines


def _group_cost(group: Group, plan: Plan) -> Cost:
    """Estimated cost of one run of the group."""
    dataset, protocol = _dataset(group.dataset, plan), _protocols(plan)[group.protocol]
    return training_cost(group.network, dataset.splits["train"] - protocol.holdout, protocol)


def cost_of(addition: Addition) -> Cost:
    """Estimated cost of all added runs."""
    return sum(
        (_group_cost(group, addition.plan) * len(seeds) for group, seeds in addition.added.items()),
        start=Cost(0.0, 0.0),
    )


def read(path: Path) -> str:
    """The text of a file with its own line breaks, which Python's text mode would change."""
    return path.read_bytes().decode("utf-8")


def write(path: Path, addition: Addition) -> None:
    """Replace the text of `path`, whole or not at all.

    Raises UserError when the file is no longer what was planned on, or can not be written.
    """
    target = path.resolve()  # a link stays one
    aside = target.with_name(f".{target.name}.part")
    try:
        if read(target) != addition.before:
            raise UserError(f"{path} was edited while its plan was shown", "run the same command again")
        with aside.open("wb") as file:
            file.write(addition.after.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(target, aside)
        os.replace(aside, target)
    except OSError as error:
        raise UserError(f"can not write {path}: {error.strerror}", "mend that; the file is as it was") from None
    finally:
        with suppress(OSError):  # of a folder that is not to be written, where there is none
            aside.unlink()
