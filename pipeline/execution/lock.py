"""dvc.lock, read: what DVC has recorded of each stage that ran."""

from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.params import PARAMS, read_text, yaml_mapping

LOCK = Path("dvc.lock")
_REMEDY = f"settle the conflict there, if it has one, or git checkout {LOCK}"


def locked(text: str) -> dict[str, Any]:
    """The stages of a dvc.lock, by their names. Raises UserError, with the line where it can be told, for another."""
    try:
        # In C: a thousand runs are four thousand stages.
        stages: dict[str, Any] = yaml_mapping(text, LOCK, _REMEDY, pure=False).get("stages", {}) if text else {}
        for stage in stages.values():
            for entry in (*stage.get("deps", ()), *stage.get("outs", ())):
                Path(entry["path"]), entry["md5"].split(".")
            stage.get("params", {}).get(str(PARAMS), {}).items()
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{LOCK} is no lock: {error!r}", _REMEDY) from None
    return stages


def read(root: Path = Path()) -> dict[str, Any]:
    """The stages of the repository at `root`; none where no stage has run yet. Raises UserError as `locked` does."""
    return locked(read_text(root / LOCK, _REMEDY)) if (root / LOCK).exists() else {}
