"""convert: data/raw/<dataset> -> data/beton/<dataset>-<kind>/{train,test}.beton, card.json."""

from pathlib import Path

from pipeline.data.conversion import convert, convert_jpegs
from pipeline.params import entry
from pipeline.runner.attempts import run_stage
from pipeline.runner.params_file import load


def main(name: str) -> None:
    """Convert representation `name` of params.yaml, e.g. cifar10-rgb, cifar10-zca or imagenet-jpeg."""
    plan = load()
    stored = entry(plan.representations, name, "representation")
    raw, to = Path("data/raw") / stored.dataset, Path("data/beton") / name
    classes = plan.datasets[stored.dataset].classes
    if stored.kind != "jpeg":
        convert(raw, to, classes, stored.kind)
        return
    assert stored.max_side, "params.py requires it of jpeg"
    assert stored.quality, "params.py requires it of jpeg"
    convert_jpegs(raw, to, classes, stored.max_side, stored.quality)


if __name__ == "__main__":
    run_stage(main)
