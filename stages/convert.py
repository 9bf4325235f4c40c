"""convert: data/raw/<dataset> -> data/beton/<dataset>-<kind>/{train,test}.beton, card.json."""

from pathlib import Path

from pipeline.data.conversion import convert, convert_jpegs
from pipeline.errors import UserError
from pipeline.params import PARAMS, nearest
from pipeline.runner.params_file import load
from pipeline.runner.stage_entry import run_stage


def main(name: str) -> None:
    """Convert representation `name` of params.yaml, e.g. cifar10-rgb, cifar10-zca or imagenet-jpeg."""
    plan = load(PARAMS)
    if name not in plan.representations:
        raise UserError(
            f"{PARAMS} has no representation {name!r}", nearest(name, plan.representations, "representation")
        )
    representation = plan.representations[name]
    raw, to = Path("data/raw") / representation.dataset, Path("data/beton") / name
    classes = plan.datasets[representation.dataset].classes
    if representation.kind != "jpeg":
        convert(raw, to, classes, representation.kind)
        return
    assert representation.max_side, "params.py requires it of jpeg"
    assert representation.quality, "params.py requires it of jpeg"
    convert_jpegs(raw, to, classes, representation.max_side, representation.quality)


if __name__ == "__main__":
    run_stage(main)
