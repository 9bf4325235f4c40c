"""Finished runs, of the plan and in evidence/, read from two files of each: metrics.json and run.json."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.artifacts import EVALUATIONS, EVIDENCE, HISTORY, METRICS, MODELS, ORIGIN, Origin
from pipeline.dvc_lock import LOCK
from pipeline.dvc_lock import read as read_lock
from pipeline.errors import UserError
from pipeline.params import Plan, Protocol
from pipeline.publication.claims import Metric, canonical


class _Record(BaseModel):
    # Other keys may stand in these files. What decides a comparison stands in Protocol, which refuses unknown ones.
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class Metrics(_Record):
    """evaluations/<run>/metrics.json."""

    run: str
    dataset: str
    network: str
    split: Literal["held-out", "test"]
    n: Annotated[int, Field(gt=0)]
    errors: Annotated[int, Field(ge=0)]
    top1_error: Annotated[float, Field(ge=0, le=100)]
    top5_error: Annotated[float, Field(ge=0, le=100)] | None = None

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if not math.isclose(self.top1_error, 100 * self.errors / self.n, abs_tol=0.0051):
            raise ValueError(f"top1_error {self.top1_error} is not 100 x {self.errors} errors / {self.n} images")
        return self


class Device(_Record):
    type: str
    name: str


class Record(_Record):
    """evaluations/<run>/run.json, the copy of models/<run>/run.json that travels without the weights."""

    run: str
    dataset: str
    representation: str
    network: str
    protocol_name: str
    protocol: Protocol
    seed: Annotated[int, Field(ge=0)]
    epochs: Annotated[int, Field(ge=0)]
    fingerprint: str
    parameters: Annotated[int, Field(gt=0)]
    device: Device
    versions: dict[str, str]


@dataclass(frozen=True)
class Result:
    """A finished run: what it was and how many test images it got wrong."""

    metrics: Metrics
    record: Record
    commit: str | None = None
    """Of evidence, whose code trained it; None for a run of this plan, which the code here would train."""

    @property
    def origin(self) -> str:
        """Where it is counted from."""
        return "this plan" if self.commit is None else f"evidence of commit {self.commit[:12]}"

    @property
    def folder(self) -> Path:
        """Of its records, below the root."""
        return (EVALUATIONS if self.commit is None else EVIDENCE) / self.run

    @property
    def history(self) -> Path:
        """Its training curve, below the root."""
        return (MODELS if self.commit is None else EVIDENCE) / self.run / HISTORY

    @property
    def run(self) -> str:
        return self.record.run

    @property
    def network(self) -> str:
        """Canonical name, as `Claim.network`."""
        return canonical(self.record.network)

    @property
    def top1_error(self) -> float:
        """Percent, from the counts, so that it does not depend on how the file rounds."""
        return 100 * self.metrics.errors / self.metrics.n

    def error(self, metric: Metric) -> float | None:
        """The run's value of a claim's metric, in percent; None where the run does not have it."""
        if metric == "top1_error":
            return self.top1_error
        return self.metrics.top5_error if metric == "top5_error" else None


def load_results(root: Path) -> list[Result]:
    """All finished runs below the repository's `root`: evidence, then those of evaluations/, each by run id.

    A training that is evidence and lies in evaluations/ as well, of one fingerprint, is evidence.
    Raises UserError that names the file when one is broken, or when the two files of a run contradict each other.
    """
    evidence = [
        _load(root, path, Origin.read(path.with_name(ORIGIN)).commit)
        for path in sorted((root / EVIDENCE).glob(f"[!.]*/{METRICS}"))
    ]
    known = {result.record.fingerprint for result in evidence}
    ours = [_load(root, path) for path in sorted((root / EVALUATIONS).glob(f"*/{METRICS}"))]
    return [*evidence, *(result for result in ours if result.record.fingerprint not in known)]


def counted(plan: Plan, results: Sequence[Result]) -> list[Result]:
    """Evidence and those that the plan names: a run that was taken out of it leaves its folder behind."""
    return [result for result in results if result.commit or result.run in plan.runs]


def planned_results(plan: Plan, root: Path) -> list[Result]:
    """Those of `load_results` that count. For stages, whose outputs git keeps.

    Raises UserError also for a run that dvc.lock has and that is not here: what would be written without it says "not
    run" where the committed file says its error.
    """
    results = counted(plan, load_results(root))
    absent = sorted(plan.runs.keys() - {result.run for result in results})
    if absent and (known := read_lock(root)):
        for run in absent:
            if f"evaluate@{run}" in known:
                raise UserError(
                    f"evaluations/{run} is not here, though {LOCK} has it",
                    f"git checkout evaluations/{run}, or wrn-pipe repro {run}",
                )
    return results


def _load(root: Path, path: Path, commit: str | None = None) -> Result:
    run = path.parent.name
    again = f"wrn-pipe repro evaluate@{run}" if commit is None else f"git checkout {path.parent}"
    metrics = _read(path, Metrics, root, again)
    record_path = path.with_name("run.json")
    if not record_path.exists():
        raise UserError(f"{path.relative_to(root)} has no run.json beside it", f"it is written by: {again}")
    record = _read(record_path, Record, root, again)
    for field in ("run", "dataset", "network"):
        theirs, ours = getattr(metrics, field), getattr(record, field)
        if theirs != ours:
            raise UserError(f"{path.relative_to(root)}: {field} is {theirs!r}, but run.json says {ours!r}", again)
    if record.run != run:
        raise UserError(f"{path.relative_to(root)}: run is {record.run!r}, but its folder is named {run!r}", again)
    return Result(metrics, record, commit)


_Model = TypeVar("_Model", bound=BaseModel)


def _read(path: Path, model: type[_Model], root: Path, again: str) -> _Model:
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        what = f"{path.relative_to(root)}: {field + ': ' if field else ''}{first['msg']}"
        raise UserError(what, f"it is written by: {again}") from None
