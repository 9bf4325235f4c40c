"""A cell in words: the pieces of text that all formats for readers share."""

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.comparison.cells import Cell, Excluded
from pipeline.comparison.deviations import Deviation
from pipeline.comparison.statistics import MOST, Verdict
from pipeline.comparison.tables import Column, Table

DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "svhn": "SVHN", "imagenet": "ImageNet", "coco": "COCO"}
METRICS = {
    "top1_error": "test error, %",
    "top5_error": "top-5 error, %",
    "map": "mAP, %",
    "params_millions": "parameters, millions",
    "epoch_seconds": "seconds an epoch",
    "batch16_ms": "ms for a batch of 16",
    "batch32_ms": "ms for a batch of 32",
}
MEANINGS = {
    "reproduced": "the difference is within chance, and its whole interval within the margin",
    "better": "our error is lower than the paper's, by more than chance explains (5 % level)",
    "worse": "our error is higher than the paper's, by more than chance explains (5 % level)",
    "inconclusive": "the runs so far allow no verdict; the count says how many more should settle it",
    "not comparable": "our runs differ materially from the paper's protocol; the letters say in what",
    "not run": "no finished run of this network on this dataset",
    "quoted": "the paper cites this number from other work; it is not to be re-run",
    "timing": "depends on the machine; shown, not judged",
    "not published": "the paper's table has a dash here",
    "same count": "our exact number of parameters rounds to the printed one",
    "other count": "our network has another number of parameters than the paper's",
    "not counted": "the parameters of this network were not counted here",
}
"""First words of every verdict -> what they mean, for somebody who has never seen the tool."""


@dataclass(frozen=True)
class Letters:
    """The deviations of one table, each with a letter, material ones first."""

    deviations: tuple[Deviation, ...]

    def of(self, deviation: Deviation) -> str:
        index = self.deviations.index(deviation)
        return chr(ord("a") + index % 26) * (1 + index // 26)

    def legend(self) -> list[tuple[str, str]]:
        """(letter, sentence) of each deviation."""
        return [(self.of(d), f"{d} ({'material' if d.material else 'minor'}: {d.reason})") for d in self.deviations]


def letters_of(table: Table) -> Letters:
    found = {d for cell in table.cells for d in (*cell.deviations, *(d for e in cell.excluded for d in e.deviations))}
    return Letters(tuple(sorted(found, key=lambda d: (not d.material, d))))


def heading(column: Column) -> str:
    return f"{DATASETS[column.dataset]}, {METRICS[column.metric]}"


def published(cell: Cell) -> str:
    """The number as printed; a dash where the paper has none."""
    return "-" if cell.claim is None else cell.claim.text


def ours(cell: Cell) -> str:
    """Our median with the number of runs, or our exact count; empty where there is none."""
    if cell.count is not None:
        return f"{cell.count:,}"
    return "" if cell.ours is None else f"{cell.ours.median:.2f} (n={cell.ours.n})"


def difference(cell: Cell) -> str:
    """Difference in points with half its 95 % interval; without one where nothing is judged."""
    if cell.judgement is not None:
        return f"{cell.judgement.difference:+.2f} ± {cell.judgement.half_width:.2f}"
    return "" if cell.difference is None else f"{cell.difference:+.2f}"


def verdict(cell: Cell) -> str:
    """The verdict in words; its beginning is a key of MEANINGS."""
    if cell.kind == "unpublished":
        return "not published"
    if cell.kind == "quoted":
        return "quoted"
    if cell.kind == "timing":
        return "timing"
    if cell.kind == "count" and cell.count is None:
        return "not counted"
    if cell.judgement is not None and cell.verdict in (Verdict.BETTER, Verdict.WORSE) and cell.judgement.within_margin:
        return f"{cell.verdict}, within the margin"
    if cell.verdict is Verdict.INCONCLUSIVE and cell.judgement is not None and cell.ours is not None:
        settle = cell.judgement.runs_to_settle
        more = f"{settle - cell.ours.n} more" if settle else f"over {MOST} runs"
        return f"{cell.verdict}, {more}"
    return str(cell.verdict)


def marks(cell: Cell, letters: Letters) -> str:
    """Numbers of the footnotes and letters of the deviations, as in [2, 9, a]; empty where there are none."""
    found = [*map(str, cell.caveats), *sorted(letters.of(d) for d in cell.deviations)]
    return f"[{', '.join(found)}]" if found else ""


def evidence(cell: Cell, letters: Letters) -> str:
    """One sentence on the runs behind a cell; empty where there are none."""
    sample = cell.ours
    if sample is None:
        return ""
    name = f"{cell.model}, {DATASETS[cell.dataset]}" + (", top-5" if cell.metric == "top5_error" else "")
    spread = f"{sample.smallest:.2f} to {sample.largest:.2f}, sd {sample.sd:.3f}" if sample.sd is not None else ""
    runs = f"{sample.n} run{'s' if sample.n > 1 else ''}, median {sample.median:.2f}" + (
        f", {spread}" if spread else ""
    )
    parts = [f"{name}: {runs} ({', '.join(cell.runs)})"]
    if cell.judgement is not None and cell.interval is not None and cell.margin is not None:
        low, high = cell.interval
        parts.append(f"95 % interval of the difference {low:+.2f} to {high:+.2f}, margin {cell.margin:g}")
        if cell.judgement.spread_is_published:
            parts.append(f"too few runs to know their spread: published sd {cell.judgement.spread:.3f} used")
    parts.extend(_also(excluded, letters) for excluded in cell.excluded)
    return "; ".join(parts)


def _also(excluded: Excluded, letters: Letters) -> str:
    why = ", ".join(sorted(letters.of(d) for d in excluded.deviations if d.material))
    return f"also run: {excluded.run} {excluded.error:.2f} ({excluded.reason}{': ' + why if why else ''})"


def all_evidence(table: Table, letters: Letters) -> list[str]:
    return [line for cell in table.cells if (line := evidence(cell, letters))]


def meanings(cells: Iterable[Cell]) -> list[tuple[str, str]]:
    """What the verdicts among `cells` mean."""
    used = {verdict(cell).partition(",")[0] for cell in cells}
    return [(word, meaning) for word, meaning in MEANINGS.items() if word in used]


def summary(table: Table) -> str:
    """How many of the table's claims have which verdict, in one line."""
    counted: dict[str, int] = {}
    for cell in table.cells:
        if cell.kind == "runnable":
            counted[str(cell.verdict)] = counted.get(str(cell.verdict), 0) + 1
    if not counted:
        return "No claim of this table can be trained and judged."
    parts = [f"{counted[verdict]} {verdict}" for verdict in map(str, Verdict) if verdict in counted]
    total = sum(counted.values())
    claims = "1 claim" if total == 1 else f"{total} claims"
    return f"{claims} that can be run: {', '.join(parts)}."
