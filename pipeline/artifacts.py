"""Where each file of a run lies."""

SAVED_STATES = "epoch-*.safetensors"
"""Names of a training's saved states in its folder below scratch/, the later the further: training/checkpoints.py."""
