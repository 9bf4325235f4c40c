"""Where each file of a run lies."""

from pathlib import Path

SCRATCH = Path("scratch")
"""State of unfinished trainings, <fingerprint>/ each, jobs, failure records, downloads; no stage depends on it."""
SAVED_STATES = "epoch-*.safetensors"
"""Names of a training's saved states in its folder there, the later the further: training/checkpoints.py."""
