"""What one evaluation was made of and what it gave, by sha256: a table can then vouch for files that are elsewhere."""

from pathlib import Path
from typing import Any

from pipeline.artifacts import EVALUATION_FILES, EVALUATIONS, MODEL_FILES, MODELS, Digests
from pipeline.data.beton import open_card, sha256
from pipeline.dataset_config import SPLITS


def digests(run_id: str, trained: Path, evaluated: Path, data: Path, device: dict[str, str | int]) -> Digests:
    """The content of evaluations/<run>/digests.json, from the folders where a run's files lie.

    `device` is what it was evaluated on. Raises UserError when the data's card is missing or no JSON.
    """
    card = open_card(data)
    places = [(trained / name, MODELS / run_id / name) for name in MODEL_FILES]
    places += [(evaluated / name, EVALUATIONS / run_id / name) for name in EVALUATION_FILES]
    splits = {str(split): content(card, split) for split in SPLITS}
    return Digests(
        data={"name": data.name, "card": sha256(data / "card.json"), **splits},
        device=device,
        files={place.as_posix(): sha256(path) for path, place in places},
    )


def content(card: dict[str, Any], split: str) -> str:
    """The digest of a split: of its decoded pixels and labels, or of the files as published for JPEGs, which are stored
    re-encoded."""
    entry: dict[str, str] = card["splits"][split]
    return entry["source_digest"] if "source_digest" in entry else entry["digest"]
