"""The paper's claims, typed. `claims.csv` is the data; its schema stands here only.

It holds every number of Tables 2 to 9; of the text the SVHN error without dropout, a parameter count, and the gains and
speed-ups that it states; of Figure 4 the times and the labels. Figures 1 to 3 are curves, whose labels repeat
Tables 5 and 6 but for 2.07 of WRN-52-1 on SVHN, which stands in a caveat.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from pipeline.errors import UserError
from pipeline.models.names import parse

if TYPE_CHECKING:
    import pandera.pandas

Statistic = Literal["median5", "single", "unstated", "exact", "quoted", "derived"]
"""How the paper got the number."""
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
    metric: str
    """Key of `Paper.metrics`."""
    text: str
    """The number exactly as printed, in the metric's unit: 20.50 stays 20.50."""
    statistic: Statistic
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
    """The one spelling of a network's name; `model` itself for networks that the tool does not build."""
    try:
        return parse(model).name
    except UserError:
        return model


def read_claims(path: Path, tables: Iterable[str], datasets: Iterable[str], metrics: Iterable[str]) -> list[Claim]:
    """All claims in the order of a claims.csv. Raises UserError when the file does not fit its schema."""
    # these take most of a second to import, so only those who read claims pay for it
    import pandas as pd
    import pandera.errors
    from pydantic import TypeAdapter

    from pipeline.params import Normalisation

    frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    columns = {
        "table": one_of(*tables),
        "dataset": one_of(*datasets),
        "model": r"[A-Za-z0-9(),.-]+",
        "depth": r"[0-9]*",
        "widen": r"|[0-9]+(\.[0-9])?",
        "block": r"|basic|bottleneck|[13](-[13])*",
        "dropout": r"|0(\.[0-9])?",
        "preprocessing": one_of("", *get_args(Normalisation)),
        "metric": one_of(*metrics),
        "value": r"[0-9]+(\.[0-9]+)?",
        "statistic": one_of(*get_args(Statistic)),
        "note": ".*",
    }
    try:
        schema(columns, unique=["table", "dataset", "model", "metric"]).validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as error:
        first = error.failure_cases.iloc[0]
        where = f"{path.name}: {first['column'] or ''} {first['check']}: {first['failure_case']!r}"
        raise UserError(where, f"its columns are those of claims.py; to restore it: git checkout {path}") from None
    rows = frame.rename(columns={"value": "text"}).to_dict("records")
    told = [{name: text for name, text in row.items() if text} for row in rows]
    return TypeAdapter(list[Claim]).validate_python(told)


def schema(columns: Mapping[str, str], unique: list[str]) -> "pandera.pandas.DataFrameSchema":
    """Of a table that is all text: exactly these columns, in this order, each value as its column's pattern has it."""
    import pandera.pandas as pa

    checked = {name: pa.Column(str, pa.Check.str_matches(f"^(?:{pattern})$")) for name, pattern in columns.items()}
    return pa.DataFrameSchema(checked, strict=True, ordered=True, unique=unique)


def one_of(*words: str) -> str:
    """The pattern of a column that has no other words."""
    return "|".join(map(re.escape, words))
