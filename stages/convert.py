"""convert: data/raw/<dataset> -> data/beton/<dataset>-<kind>/{train,test}.beton, card.json."""

from pathlib import Path

from pipeline.datasets.catalogue import SPLITS
from pipeline.errors import UserError, run_stage
from pipeline.loading.convert import convert
from pipeline.params import PARAMS, load, nearest


def main(name: str) -> None:
    """Convert representation `name` of params.yaml, e.g. cifar10-rgb or cifar10-zca."""
    plan = load(PARAMS)
    if name not in plan.representations:
        raise UserError(
            f"{PARAMS} has no representation {name!r}", nearest(name, plan.representations, "representation")
        )
    dataset, kind = plan.representations[name].dataset, plan.representations[name].kind
    if kind == "jpeg":
        raise UserError(f"{name}: this version writes no compressed images", f"take {name} out of {PARAMS}")
    raw, classes = Path("data/raw") / dataset, plan.datasets[dataset].classes
    convert(raw, Path("data/beton") / name, list(SPLITS), classes, kind)


if __name__ == "__main__":
    run_stage(main)
