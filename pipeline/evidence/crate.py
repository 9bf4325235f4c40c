"""ro-crate-metadata.json: what an archive holds and where it was made, as RO-Crate 1.2, which other tools read.

https://w3id.org/ro/crate/1.2: a JSON-LD graph with the archive as root Dataset, a File with size and sha256 for each
member, and the paper. What made each run is in the archive's results/manifest.json.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from pipeline.params import Plan
from pipeline.publication.paper import PAPER

NAME = "ro-crate-metadata.json"
LICENCES = "LICENCES.md"
_SPECIFICATION = "https://w3id.org/ro/crate/1.2"
_CLEAN, _EDITED = "clean", "with edits that are not committed"


@dataclass(frozen=True)
class Member:
    """One file of the archive."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Checkout:
    """Where the archive was made."""

    commit: str
    date: str
    """Of the commit, ISO 8601: a clock would make every archive another one."""
    dirty: bool

    @property
    def state(self) -> str:
        return _EDITED if self.dirty else _CLEAN

    def __str__(self) -> str:
        return f"commit {self.commit} ({self.state})"


def metadata(members: list[Member], checkout: Checkout) -> dict[str, Any]:
    """The graph. `members` are all other files of the archive."""
    about = {"@id": NAME, "@type": "CreativeWork", "conformsTo": {"@id": _SPECIFICATION}, "about": {"@id": "./"}}
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"Reproduction of {PAPER.title}",
        "description": f"Made by wrn-pipe at {checkout}. wrn-pipe verify --bundle checks it.",
        "datePublished": checkout.date,
        "version": checkout.commit,
        "creativeWorkStatus": checkout.state,
        "license": {"@id": LICENCES},
        "citation": {"@id": PAPER.url},
        "hasPart": [{"@id": member.name} for member in members],
    }
    paper = {"@id": PAPER.url, "@type": "ScholarlyArticle", "name": PAPER.title}
    files = [
        {"@id": m.name, "@type": "File", "name": m.name, "contentSize": str(m.size), "sha256": m.sha256}
        for m in members
    ]
    context = [f"{_SPECIFICATION}/context", {"sha256": "https://schema.org/sha256"}]
    return {"@context": context, "@graph": [about, root, paper, *files]}


def read(text: str) -> tuple[dict[str, Member], Checkout]:
    """The members, by name, and the checkout that a graph tells of. Raises ValueError for a graph of another form."""
    try:
        graph = {entity["@id"]: entity for entity in json.loads(text)["@graph"]}
        files = [entity for entity in graph.values() if entity["@type"] == "File"]
        members = {file["@id"]: Member(file["@id"], int(file["contentSize"]), str(file["sha256"])) for file in files}
        root = graph["./"]
        if not re.fullmatch("[0-9a-f]{40,64}", root["version"]):
            raise ValueError("its version is not a commit")
        return members, Checkout(root["version"], root["datePublished"], root["creativeWorkStatus"] == _EDITED)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(repr(error)) from None


def licences(plan: Plan) -> str:
    """LICENCES.md: on what terms the data may be used, and why it is not here."""
    lines = [
        "# Licences and citations",
        "",
        f"The numbers compared with: {PAPER.citation}",
        PAPER.url,
        "",
        "The images are not in this archive: nobody gave leave to pass them on with it. The cards hold the digests of",
        "what was trained on, params.yaml says where it comes from, `wrn-pipe repro download` fetches and checks it.",
        "The predictions hold the labels of the test images and no pixel.",
        "",
    ]
    for name, dataset in plan.datasets.items():
        lines += [f"## {dataset.title} ({name})", "", f"- home page: {dataset.homepage}"]
        lines += [f"- licence: {dataset.licence}", f"- cite: {dataset.citation}", ""]
    return "\n".join(lines)
