"""Finished runs, of the plan and in evidence/: what each was, and how many test images it got wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import NonNegativeInt, PositiveInt

from pipeline.artifacts import EVALUATIONS, EVIDENCE, METRICS, ORIGIN, RECORD, Evaluation, Origin, RunRecord
from pipeline.dvc_lock import LOCK
from pipeline.dvc_lock import read as read_lock
from pipeline.errors import UserError
from pipeline.params import Plan
from pipeline.publication.claims import canonical


class Metrics(Evaluation):
    """metrics.json of a classification."""

    n: PositiveInt
    errors: NonNegativeInt
    top5_error: float | None = None


@dataclass(frozen=True)
class Result:
    """A finished run."""

    metrics: Metrics
    record: RunRecord
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

    def error(self, metric: str) -> float | None:
        """The run's value of a claim's metric, in percent; None where the run does not have it."""
        return {"top1_error": self.top1_error, "top5_error": self.metrics.top5_error}.get(metric)


def load_results(root: Path) -> list[Result]:
    """All finished runs below the repository's `root`: evidence, then those of evaluations/, each by run id.

    A training that is evidence and lies in evaluations/ as well, of one fingerprint, is evidence.
    Raises UserError that names the file when one is broken, or when the two files of a run are of different runs.
    """
    evidence = [
        _load(path.parent, Origin.read(path.with_name(ORIGIN)).commit)
        for path in sorted((root / EVIDENCE).glob(f"[!.]*/{METRICS}"))
    ]
    known = {result.record.fingerprint for result in evidence}
    ours = [_load(path.parent) for path in sorted((root / EVALUATIONS).glob(f"*/{METRICS}"))]
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
    for run in sorted(plan.runs.keys() - {result.run for result in results}):
        if f"evaluate@{run}" in read_lock(root):
            remedy = f"git checkout evaluations/{run}, or wrn-pipe repro {run}"
            raise UserError(f"evaluations/{run} is not here, though {LOCK} has it", remedy)
    return results


def _load(folder: Path, commit: str | None = None) -> Result:
    again = f"wrn-pipe repro evaluate@{folder.name}" if commit is None else None
    metrics, record = Metrics.read(folder / METRICS, again), RunRecord.read(folder / RECORD, again)
    of_metrics, of_record = ((each.run, each.network, each.dataset) for each in (metrics, record))
    if of_metrics != of_record or record.run != folder.name:
        what = f"{folder}: {METRICS} is of {', '.join(of_metrics)}, and {RECORD} of {', '.join(of_record)}"
        raise UserError(what, f"git checkout {folder}")
    return Result(metrics, record, commit)
