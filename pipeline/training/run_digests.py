"""What one evaluation was made of and what it gave, by sha256: a table can then vouch for files that are elsewhere."""

from pathlib import Path
from typing import Any

from pipeline.data.beton import open_card, sha256
from pipeline.dataset_config import SPLITS

MODEL_FILES = ("model.safetensors", "history.csv", "run.json")
EVALUATION_FILES = ("predictions.parquet", "metrics.json", "run.json")


def digests(run_id: str, trained: Path, evaluated: Path, data: Path, device: dict[str, str | int]) -> dict[str, Any]:
    """The content of evaluations/<run>/digests.json, from the folders where a run's files lie.

    `files` has each file's place in the repository with its sha256. `data` has the sha256 of card.json, which pins the
    bytes of the .beton files, and the digest of each split's content.
    `device` is what it was evaluated on, as pipeline.training.device.facts says it.
    Raises UserError when the card is missing or no JSON.
    """
    card = open_card(data)
    places = [(trained, f"models/{run_id}", name) for name in MODEL_FILES]
    places += [(evaluated, f"evaluations/{run_id}", name) for name in EVALUATION_FILES]
    return {
        "data": {
            "name": data.name,
            "card": sha256(data / "card.json"),
            **{split: content(card, split) for split in SPLITS},
        },
        "device": device,
        "files": {f"{place}/{name}": sha256(folder / name) for folder, place, name in places},
    }


def content(card: dict[str, Any], split: str) -> str:
    """The digest of a split: of its decoded pixels and labels, or of the files as published for JPEGs, which are stored
    re-encoded."""
    entry: dict[str, str] = card["splits"][split]
    return entry["source_digest"] if "source_digest" in entry else entry["digest"]
