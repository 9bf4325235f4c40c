"""ro-crate-metadata.json: what an archive holds, in the words of RO-Crate 1.2, which other tools read.

https://w3id.org/ro/crate/1.2: a flat JSON-LD graph with the archive as root Dataset, a File with size and sha256 for
each member, a CreateAction for each run, and the paper, the datasets and the software that they refer to.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pipeline.params import Plan
from pipeline.publication.paper import PAPER

NAME = "ro-crate-metadata.json"
LICENCES = "LICENCES.md"
_SPECIFICATION = "https://w3id.org/ro/crate/1.2"
_FORMATS = {
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".safetensors": "application/octet-stream",
    ".yaml": "application/yaml",
}
_SOFTWARE = "#wrn-pipe"
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


def metadata(plan: Plan, manifest: dict[str, Any], members: list[Member], checkout: Checkout) -> dict[str, Any]:
    """The graph. `manifest` is results/manifest.json; `members` are all other files of the archive."""
    runs = [_action(run_id, told, members) for run_id, told in manifest["runs"].items()]
    versions = {(name, each) for told in manifest["runs"].values() for name, each in told["versions"].items()}
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"Reproduction of {PAPER.title}",
        "description": f"Tables, predictions, weights and provenance, made by wrn-pipe at {checkout}. "
        "wrn-pipe verify --bundle checks it.",
        "datePublished": checkout.date,
        "version": checkout.commit,
        "creativeWorkStatus": checkout.state,
        "license": {"@id": LICENCES},
        "citation": {"@id": PAPER.url},
        "hasPart": [{"@id": member.name} for member in members],
        "mentions": [{"@id": action["@id"]} for action in runs],
    }
    descriptor = {
        "@id": NAME,
        "@type": "CreativeWork",
        "conformsTo": {"@id": _SPECIFICATION},
        "about": {"@id": "./"},
    }
    software = {
        "@id": _SOFTWARE,
        "@type": "SoftwareApplication",
        "name": "wrn-pipe",
        "softwareVersion": str(checkout),
        "softwareRequirements": {"@id": "environment/requirements.lock"},
    }
    libraries = [
        {"@id": f"#{name}-{each}", "@type": "SoftwareApplication", "name": name, "softwareVersion": each}
        for name, each in sorted(versions)
    ]
    files = [_file(member) for member in members]
    graph = [descriptor, root, *files, *runs, *_paper(), *_datasets(plan), software, *libraries]
    return {"@context": [f"{_SPECIFICATION}/context", {"sha256": "https://schema.org/sha256"}], "@graph": graph}


def checkout_of(graph: list[dict[str, Any]]) -> Checkout:
    """What a graph says of where it was made, which nothing else in the archive knows. Raises KeyError without it."""
    root = next((entity for entity in graph if entity.get("@id") == "./"), {})
    return Checkout(root["version"], root["datePublished"], root["creativeWorkStatus"] == _EDITED)


def _file(member: Member) -> dict[str, Any]:
    form = _FORMATS.get(PurePosixPath(member.name).suffix, "text/plain")
    return {
        "@id": member.name,
        "@type": "File",
        "name": PurePosixPath(member.name).name,
        "contentSize": str(member.size),
        "encodingFormat": form,
        "sha256": member.sha256,
    }


def _action(run_id: str, told: dict[str, Any], members: list[Member]) -> dict[str, Any]:
    made = [m.name for m in members if m.name.startswith((f"models/{run_id}/", f"evaluations/{run_id}/"))]
    device = ", ".join(each["name"] for each in told["devices"])
    return {
        "@id": f"#run-{run_id}",
        "@type": "CreateAction",
        "name": f"Training and evaluation of {run_id}",
        "description": f"{told['command']} on {device}; fingerprint {told['fingerprint']}",
        "instrument": [
            {"@id": _SOFTWARE},
            *({"@id": f"#{name}-{version}"} for name, version in sorted(told["versions"].items())),
        ],
        "object": [{"@id": name} for name in ("params.yaml", "dvc.yaml", f"#dataset-{told['dataset']}")],
        "result": [{"@id": name} for name in made],
    }


def _paper() -> list[dict[str, Any]]:
    authors = [{"@id": f"#{name.replace(' ', '-').lower()}", "@type": "Person", "name": name} for name in PAPER.authors]
    article = {
        "@id": PAPER.url,
        "@type": "ScholarlyArticle",
        "name": PAPER.title,
        "author": [{"@id": author["@id"]} for author in authors],
        "isPartOf": PAPER.venue,
        "version": PAPER.version,
    }
    return [article, *authors]


def _datasets(plan: Plan) -> list[dict[str, Any]]:
    """What was trained on. It is described and not contained, so it has no place in the archive."""
    return [
        {
            "@id": f"#dataset-{name}",
            "@type": "CreativeWork",
            "name": dataset.title,
            "url": dataset.homepage,
            "license": dataset.licence,
            "creditText": dataset.citation,
            **({"identifier": sorted(dataset.digests.values())} if dataset.digests else {}),
        }
        for name, dataset in plan.datasets.items()
    ]


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
