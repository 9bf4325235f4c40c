"""A paper that is reproduced, as data: one object, made in one place and passed to whatever compares with it."""

import fnmatch
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import UserError, nearest
from pipeline.publication.claims import Claim, Kind, Statistic, read_claims

if TYPE_CHECKING:  # every command imports the paper for its help, few of them what a protocol is
    from pipeline.params import Protocol


@dataclass(frozen=True)
class PaperProtocol:
    """A protocol of the paper with its sources."""

    name: str
    protocol: "Protocol"
    sources: dict[str, str]
    """Field of `protocol` -> where it is said; "unstated" first where neither the paper nor its code gives a value."""


@dataclass(frozen=True)
class Weight:
    """What a difference in one field of a protocol weighs: an entry of deviations.yaml."""

    weight: Literal["material", "minor", "none"]
    reason: str
    evidence: str
    """What the weight rests on: the paper, the authors' code, or a measurement."""
    minor_among: Sequence[str] = ()
    """Values among which a difference is minor, whatever `weight` says."""
    minor_reason: str = ""
    minor_evidence: str = ""


@dataclass(frozen=True)
class Caveat:
    """A numbered footnote: a contradiction of the paper, or how the tool reads what it leaves unsaid."""

    number: int
    """The same in every table, so that it can be cited."""
    text: str
    claims: Sequence[str]
    """Patterns of claim ids, as fnmatch reads them."""
    statistic: Statistic | None = None
    kind: Kind | None = None
    """These two restrict it to claims of a statistic and of a kind."""

    def covers(self, claim: Claim) -> bool:
        if self.statistic not in (None, claim.statistic) or self.kind not in (None, claim.kind):
            return False
        return any(fnmatch.fnmatchcase(claim.id, pattern) for pattern in self.claims)


@dataclass(frozen=True)
class Ordering:
    """One statement of the paper about the order of errors."""

    name: str
    text: str
    source: str
    pairs: tuple[tuple[Claim, Claim], ...]
    """(lower error, higher error), as the paper has it."""


@dataclass(frozen=True, eq=False)
class Paper:
    """Its title page, and what its `folder` says: claims, protocols, caveats, orderings, read when first asked for."""

    folder: Path
    """With claims.csv, protocols.yaml, caveats.yaml, orderings.yaml, deviations.yaml, spread.yaml, datasets.yaml."""
    title: str
    authors: tuple[str, ...]
    venue: str
    version: str
    url: str
    tables: dict[str, str]
    """Every table of claims.csv -> its title, in the paper's order."""
    datasets: dict[str, str]
    """Every dataset of claims.csv -> its name as the paper writes it."""
    metrics: dict[str, str]
    """Every metric of claims.csv -> its name and unit in words."""
    recipes: dict[str, str]
    """A claim's preprocessing -> the protocol that it was measured by."""
    series: str
    """Pattern of the start of those networks' names that figures tell apart; all others are one series."""

    @property
    def slug(self) -> str:
        """The title as a name for machines: wide-residual-networks."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")

    @property
    def citation(self) -> str:
        return f"{' and '.join(self.authors)}: {self.title}. {self.venue}."

    @property
    def known_datasets(self) -> Path:
        """Entries of all its datasets, ready to be copied into params.yaml."""
        return self.folder / "datasets.yaml"

    @cached_property
    def claims(self) -> tuple[Claim, ...]:
        """All numbers that it prints, in its order. Raises UserError when claims.csv is not what it should be."""
        return tuple(read_claims(self.folder / "claims.csv", self.tables, self.datasets, self.metrics))

    @cached_property
    def protocols(self) -> dict[str, PaperProtocol]:
        """By name. Raises UserError when one in protocols.yaml is no Protocol, or does not say all of it."""
        from pydantic import ValidationError

        from pipeline.params import Protocol

        found = {}
        for name, fields in self._measured["protocols"].items():
            _need(Protocol.model_fields, fields, f"protocols.yaml: {name} lacks")
            try:
                values = Protocol.model_validate({field: value for field, (value, _) in fields.items()})
            except ValidationError as error:
                what = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
                raise UserError(f"protocols.yaml: {name}: {what}", "its fields are Protocol's, in params.py") from None
            found[name] = PaperProtocol(name, values, {field: source for field, (_, source) in fields.items()})
        return found

    @cached_property
    def weights(self) -> dict[str, Weight]:
        """Field of Protocol -> what a deviation there weighs."""
        return {field: Weight(**entry) for field, entry in self._read("deviations.yaml").items()}

    @cached_property
    def caveats(self) -> tuple[Caveat, ...]:
        """By number."""
        return tuple(Caveat(number=n, **entry) for n, entry in sorted(self._read("caveats.yaml").items()))

    @cached_property
    def orderings(self) -> tuple[Ordering, ...]:
        """All that it says about which network is better, in its order. Raises UserError for an unknown claim."""
        claims = {claim.id.removesuffix("/top1_error"): claim for claim in self.claims}
        found = []
        for name, entry in self._read("orderings.yaml").items():
            _need([claim for pair in entry["pairs"] for claim in pair], claims, f"orderings.yaml: {name}: no error of")
            pairs = tuple((claims[low], claims[high]) for low, high in entry["pairs"])
            found.append(Ordering(name, entry["text"], entry["source"], pairs))
        return tuple(found)

    @cached_property
    def reruns(self) -> tuple[tuple[float, ...], int]:
        """Errors in percent of honest re-runs of one network, and the images of the test split: spread.yaml."""
        known = self._read("spread.yaml")
        return tuple(100 - accuracy for accuracy in known["accuracies"]), int(known["images"])

    @property
    def hardware(self) -> dict[str, str]:
        """The device and the library that its numbers were measured with."""
        return dict(self._measured["hardware"])

    def images(self, dataset: str, split: str) -> int:
        """Images in a split as the paper used it. Raises KeyError for datasets it did not train on."""
        return int(self._measured["images"][dataset][split])

    def classes(self, dataset: str) -> int:
        """Raises KeyError for datasets that the paper did not train on."""
        return int(self._measured["classes"][dataset])

    def protocol_of(self, claim: Claim) -> PaperProtocol | None:
        """The protocol behind a claim; None where no training of this tool can answer it.

        That is for counts, timings, numbers quoted from others, and datasets of which protocols.yaml has no images: of
        COCO, whose detector (MultiPathNet) is another system and whose training the paper does not describe.
        Raises UserError for a recipe that is not there.
        """
        if claim.kind != "runnable" or claim.dataset not in self._measured["images"]:
            return None
        recipe = self.recipes.get(claim.preprocessing or "", f"for preprocessing {claim.preprocessing}")
        _need([recipe], self.protocols, f"protocols.yaml: {claim.id}: no protocol")
        return self.protocols[recipe]

    def table_name(self, word: str) -> str:
        """A table's key from what a user writes: 4, table-4, figure-4. Raises UserError that names the nearest."""
        name = re.sub(r"^table[- ]?", "", word.strip().lower())
        if name not in self.tables:
            raise UserError(f"the paper has no table {word!r} with numbers", nearest(name, self.tables, "table"))
        return name

    def table_names(self, word: str) -> list[str]:
        """The keys of all tables for `all`, else the one that `word` names. Raises UserError that names the nearest."""
        return list(self.tables) if word == "all" else [self.table_name(word)]

    @property
    def trainable_tables(self) -> str:
        """In words: those with an error that the paper measured itself."""
        names = {claim.table for claim in self.claims if claim.kind == "runnable"}
        return f"{', '.join(name for name in self.tables if name in names)}, or all"

    def chosen(self, tables: Sequence[str], dataset: str | None = None, row: str | None = None) -> list[Claim]:
        """The claims of these tables in the paper's order, of one dataset and one network where they are given.

        Raises UserError for a dataset or a network that the tables do not have.
        """
        where = f"table {tables[0]}" if len(tables) == 1 else "the paper"
        found = [claim for claim in self.claims if claim.table in tables]
        for noun, word, fields in (("dataset", dataset, ("dataset",)), ("row", row, ("model", "network"))):
            known = {getattr(claim, fields[0]) for claim in found}
            found = [claim for claim in found if word in (None, *(getattr(claim, field) for field in fields))]
            if not found:
                raise UserError(f"{where} has no {noun} {word!r}", nearest(str(word), known, noun))
        return found

    @cached_property
    def _measured(self) -> dict[str, Any]:
        return self._read("protocols.yaml")

    def _read(self, name: str) -> dict[Any, Any]:
        from ruamel.yaml import YAML

        content: dict[Any, Any] = YAML(typ="safe", pure=True).load(self.folder / name)
        return content


def _need(wanted: Iterable[str], known: Collection[str], where: str) -> None:
    """Raise UserError for the first of `wanted` that is not `known`: a slip in one of the paper's files."""
    for name in wanted:
        if name not in known:
            raise UserError(f"{where} {name!r}", nearest(name, known, "name"))
