"""docs/reference/fast.md: what the protocol `fast` was chosen from, and its error for the compute."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

CHOICE = Path("results/fast/choice.csv")
CURVE = Path("results/fast/curve.csv")
"""Files of wrn-pipe sweep."""
_NO_COLUMN = {"processes", "batch_norm", "test_every"}
"""Fields of a protocol that these files lack: one process trained each row, `kernels` says if it synchronised, and
looking at the test split changes nothing."""

_INTRODUCTION = """# The protocol fast

A one-cycle schedule, label smoothing and a weight decay on all parameters, for a small part of the paper's 200 epochs.
An error by it says nothing about the paper's claim: `wrn-pipe compare` lists the deviations. `quick`, which the default
plan trains, is `fast` in {quick}, so that `make reproduce` ends within 10 minutes on two CPU cores without
instructions for bfloat16 (AVX2 only), which train 200 to 255 images of WRN-40-1 a second.

## Choice

By the error on 5,000 training images that were kept from training (`holdout: 5000`; the same for every run); the test
split had no part in it. One run each, so two errors that lie within 1.5 points may be of equal settings: the standard
error of one is {error} points, and seeds differ as well. Each row changes `fast` where it says so.

| network | epochs | changed | held-out error, % |
| --- | --- | --- | --- |
{choice}

## Error against compute

On the whole training split, tested at the end on the test split. Compute is the multiply-adds of all forward and
backward passes (three times the forward ones); a run of the paper has 200 epochs.

| network | epochs | multiply-adds, 10^12 | of the paper's | seeds | test error, %: mean (lowest to highest) | paper |
| --- | --- | --- | --- | --- | --- | --- |
{curve}

The files are `{choice_file}` and `{curve_file}`: a row has its whole recipe, the processor, the number
of threads and the fingerprint. These commands made all rows, by the code of the commits that `git log results/fast`
names; by later code, with another file to fill, they make all anew:

```
{commands}
```

An interrupted training is continued, and one that the file has is not done again. Which it has is told by the
fingerprint, of the settings and of the code and data that a training depends on: when these have changed since, a
recipe that the file has is refused, so that no row stands beside another of the same recipe.
"""

_CHOSEN = f"wrn-pipe sweep fast --to {CHOICE} --set holdout=5000"
_HELD_OUT = f"{_CHOSEN} --set epochs=4"
_TESTED = f"wrn-pipe sweep fast --to {CURVE}"
COMMANDS = (
    f"{_HELD_OUT} --networks WRN-16-1,WRN-40-1 --set learning_rate=0.4,0.8",
    f"{_HELD_OUT} --networks WRN-16-1 --set learning_rate=1.6",
    f"{_HELD_OUT} --networks WRN-16-1 --set weight_decay=0.0002,0.001",
    f"{_HELD_OUT} --networks WRN-16-1 --set label_smoothing=0.0,0.05",
    f"{_HELD_OUT} --networks WRN-16-1 --set batch_size=64 --set learning_rate=0.2,0.4",
    f"{_HELD_OUT} --networks WRN-16-1 --set schedule.warmup_fraction=0.15",
    f"{_HELD_OUT} --networks WRN-16-1 --set learning_rate=0.8 --set 'weight_average={{decay: 0.9, every: 5}}'",
    f"{_CHOSEN} --networks WRN-40-1 --set epochs=6,8,5",
    f"{_TESTED} --networks WRN-16-1 --set epochs=2,4,16",
    f"{_TESTED} --networks WRN-16-1,WRN-40-1 --set epochs=8 --seeds 3",
    f"{_TESTED} --networks WRN-40-1 --set epochs=2,4,16",
    f"{_TESTED} --networks WRN-40-1 --set epochs=6 --seeds 3",
)
"""What made every row of the two files."""


def page() -> str:
    """Raises what opening the two files raises, and KeyError where params.yaml has no protocol fast."""
    from pipeline.progress import counted
    from pipeline.runner.params_file import load

    protocols = load().protocols
    choice = _rows(CHOICE)
    return _INTRODUCTION.format(
        quick=counted(protocols["quick"].epochs, "epoch"),
        error=f"{mean(float(row['standard_error']) for row in choice):.1f}",
        choice="\n".join(_choice(choice, protocols["fast"].model_dump(mode="json"))),
        curve="\n".join(_curve(_rows(CURVE))),
        choice_file=CHOICE,
        curve_file=CURVE,
        commands="\n".join(COMMANDS),
    )


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _choice(rows: list[dict[str, str]], fast: dict[str, Any]) -> Iterator[str]:
    for row in sorted(rows, key=lambda row: (row["network"], int(row["epochs"]), float(row["top1_error"]))):
        fields = [field for field in fast if field not in _NO_COLUMN]
        recipe = {field: row[field] if isinstance(fast[field], str) else json.loads(row[field]) for field in fields}
        changed = [
            f"{field}: {_flow(value)}"
            for field, value in recipe.items()
            if field not in ("epochs", "holdout") and value != fast[field]
        ]
        what = ", ".join(changed) or "nothing"
        yield f"| {row['network']} | {row['epochs']} | {what} | {float(row['top1_error']):.2f} |"


def _curve(rows: list[dict[str, str]]) -> Iterator[str]:
    from pipeline.publication.claims import load_claims

    published = {
        claim.network: f"{claim.value:.2f}"
        for claim in load_claims()
        if (claim.table, claim.dataset, claim.metric) == ("4", "cifar10", "top1_error")
    }
    groups: dict[tuple[str, int, int], list[float]] = {}
    for row in rows:
        key = (row["network"], int(row["epochs"]), int(row["training_multiply_adds"]))
        groups.setdefault(key, []).append(float(row["top1_error"]))
    for (network, epochs, compute), errors in sorted(groups.items()):
        spread = f" ({min(errors):.2f} to {max(errors):.2f})" if len(errors) > 1 else ""
        yield (
            f"| {network} | {epochs} | {compute / 1e12:,.0f} | {epochs / 200:.1%} | {len(errors)} "
            f"| {mean(errors):.2f}{spread} | {published.get(network, '')} |"
        )


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {inner}" for key, inner in value.items())
    return str(value)
