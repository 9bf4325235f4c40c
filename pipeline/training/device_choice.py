"""Where a training was measured to be fastest, as a file beside its state. Light to import: drivers read it as well."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "device.json"


def read(scratch: Path) -> dict[str, Any] | None:
    """What `pipeline.training.device.choose_once` keeps in `scratch`; None where nothing was measured."""
    path = scratch / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def tags(rates: Mapping[str, float]) -> dict[str, str]:
    """MLflow's, of FLOP a second by device: what only the machine that trains knows, and no result keeps."""
    return {"device.measured": measured(rates)} if rates else {}


def measured(rates: Mapping[str, float]) -> str:
    """The fastest first: "cuda:0 512,000 GFLOP/s, cpu 409 GFLOP/s"."""
    ranked = sorted(rates.items(), key=lambda each: -each[1])
    return ", ".join(f"{device} {rate / 1e9:,.0f} GFLOP/s" for device, rate in ranked)
