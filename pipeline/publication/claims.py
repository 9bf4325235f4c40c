"""The paper's claims, typed. `claims.csv` is the data; its schema stands here only.

It holds every number of Tables 2 to 9; of the text the SVHN error without dropout, a parameter count, and the gains and
speed-ups that it states; of Figure 4 the times and the labels. Figures 1 to 3 are curves, whose labels repeat
Tables 5 and 6 but for 2.07 of WRN-52-1 on SVHN, which stands in a caveat.
"""

import functools
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from pydantic import TypeAdapter

from pipeline.errors import UserError
from pipeline.models.names import parse

if TYPE_CHECKING:
    import pandera.pandas

Metric = Literal[
    "top1_error",
    "top5_error",
    "map",
    "params_millions",
    "epoch_seconds",
    "batch16_ms",
    "batch32_ms",
    "gain_points",
    "times_faster",
    "figure_label",
]
"""Errors, labels and mAP in percent, parameters in millions, seconds an epoch, milliseconds a batch of 16 or 32, points
of error gained over another network, and how many times faster than it."""
Statistic = Literal["median5", "single", "unstated", "exact", "quoted", "derived"]
"""How the paper got the number: median of 5 runs, one run, not said, a count, another paper's result, or from other
numbers that it prints."""
STATISTIC: dict[Statistic, str] = {
    "median5": "median of 5 runs",
    "single": "single run",
    "unstated": "number of runs not stated",
    "exact": "a count",
    "quoted": "from another paper",
    "derived": "from other numbers of the paper",
}
"""How sentences word a claim's statistic."""
Kind = Literal["runnable", "count", "timing", "quoted", "derived"]
"""What can be done about a claim: train it, count it, time it, or only show it."""


@dataclass(frozen=True)
class Claim:
    """One number that the paper prints."""

    table: str
    """Key of `Paper.tables`."""
    dataset: str
    model: str
    """The network's name as printed, or as claims.csv completes it."""
    metric: Metric
    text: str
    """The number exactly as printed, in the metric's unit: 20.50 stays 20.50."""
    statistic: Statistic
    depth: int | None = None
    widen: float | None = None
    block: str | None = None
    """Kernels of a block as 3-1-3, or basic, or bottleneck."""
    dropout: float | None = None
    preprocessing: str | None = None
    note: str = ""

    @property
    def id(self) -> str:
        return f"{self.table}/{self.dataset}/{self.model}/{self.metric}"

    @property
    def value(self) -> float:
        return float(self.text)

    @property
    def decimals(self) -> int:
        return len(self.text.partition(".")[2])

    @property
    def rounding(self) -> float:
        """Half a unit of the last printed place: how far the printed number can lie from the measured one."""
        return 0.5 * 10.0**-self.decimals

    @property
    def kind(self) -> Kind:
        if self.statistic in ("quoted", "derived"):
            return self.statistic
        if self.metric == "params_millions":
            return "count"
        return "runnable" if self.metric in ("top1_error", "top5_error", "map") else "timing"

    @property
    def network(self) -> str:
        """The canonical name, equal for two spellings of one network; the printed one where it cannot be built here."""
        return canonical(self.model)


@functools.cache
def canonical(model: str) -> str:
    """`pipeline.models.names.parse(model).name`, or `model` itself for networks that the tool does not build."""
    try:
        return parse(model).name
    except UserError:
        return model


def read_claims(path: Path, tables: Collection[str], datasets: Collection[str]) -> tuple[Claim, ...]:
    """All claims in the order of a claims.csv. Raises UserError when the file does not fit its schema."""
    # pandas takes most of a second to import, so only those who read claims pay for it
    import pandas as pd
    import pandera.errors

    frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    try:
        schema(tables, datasets).validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as error:
        first = error.failure_cases.iloc[0]
        where = f"{path.name}: {first['column'] or ''} {first['check']}: {first['failure_case']!r}"
        raise UserError(where, f"restore the file: git checkout {path}") from None
    valid = TypeAdapter(Claim)
    rows = frame.rename(columns={"value": "text"}).to_dict("records")
    return tuple(valid.validate_python({name: text for name, text in row.items() if text}) for row in rows)


def schema(tables: Collection[str], datasets: Collection[str]) -> "pandera.pandas.DataFrameSchema":
    """claims.csv's columns, all text: exactly these, in this order, with these vocabularies; one row a number."""
    import pandera.pandas as pa

    def text(pattern: str) -> pa.Column:
        return pa.Column(str, pa.Check.str_matches(f"^(?:{pattern})$"))

    def words(*allowed: str) -> pa.Column:
        return pa.Column(str, pa.Check.isin(allowed))

    return pa.DataFrameSchema(
        {
            "table": words(*tables),
            "dataset": words(*datasets),
            "model": text(r"[A-Za-z0-9(),.-]+"),
            "depth": text(r"[0-9]*"),
            "widen": text(r"|[0-9]+(\.[0-9])?"),
            "block": text(r"|basic|bottleneck|[13](-[13])*"),
            "dropout": text(r"|0(\.[0-9])?"),
            "preprocessing": words("", "zca", "meanstd", "unit", "imagenet"),
            "metric": words(*get_args(Metric)),
            "value": text(r"[0-9]+(\.[0-9]+)?"),
            "statistic": words(*get_args(Statistic)),
            "note": pa.Column(str),
        },
        strict=True,
        ordered=True,
        unique=["table", "dataset", "model", "metric"],
    )
