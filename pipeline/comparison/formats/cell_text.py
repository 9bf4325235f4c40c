"""A cell in words: the pieces of text that all formats for readers share."""

from collections import Counter
from dataclasses import dataclass

from pipeline.comparison.cells import Cell, Excluded
from pipeline.comparison.deviations import Deviation
from pipeline.comparison.statistics import DIFFERS, OVERALL, SIDE, Judgement, Verdict
from pipeline.comparison.tables import Column, Table
from pipeline.publication.paper import Paper

MEANINGS = {
    "reproduced": "our mean is within the margin of the printed number, at 3 % a side; this is said of the number, "
    "not of the error that the authors would find on average",
    "better": "our mean is below the printed number by more than the margin, and by more than chance explains for a "
    "number obtained as the paper's was",
    "worse": "our mean is above the printed number by more than the margin, and by more than chance explains for a "
    "number obtained as the paper's was",
    "inconclusive": "no verdict so far; looks are at 3, 5 and 10 seeds, and runs in between change nothing",
    "not comparable": "our runs differ materially from the paper's protocol; the letters say in what",
    "not run": "no finished run of this network on this dataset",
    "quoted": "the paper cites this number from other work; it is not to be re-run",
    "derived": "follows from other numbers of the paper, or labels a figure; shown, not judged",
    "timing": "depends on the machine; shown, not judged (compare --timings judges the order of Figure 4)",
    "same order": "our time stands to the others measured here as the paper's does; no more carries over",
    "other order": "our time stands otherwise to the others measured here than the paper's does",
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


def heading(column: Column, paper: Paper) -> str:
    return f"{paper.datasets[column.dataset]}, {paper.metrics[column.metric]}"


def published(cell: Cell) -> str:
    """The number as printed; a dash where the paper has none."""
    return "-" if cell.claim is None else cell.claim.text


def ours(cell: Cell) -> str:
    """Our mean with the number of runs, our exact count or our time; empty where there is none."""
    if cell.time is not None:
        return f"{cell.time:,.1f}"
    if cell.count is not None:
        return f"{cell.count:,}"
    return "" if cell.ours is None else f"{cell.ours.mean:.2f} (n={cell.ours.n})"


def difference(cell: Cell) -> str:
    """Difference in points with half its interval; without one where nothing is judged."""
    if cell.judgement is not None:
        return f"{cell.judgement.now.difference:+.2f} ± {cell.judgement.now.half_width:.2f}"
    return "" if cell.difference is None else f"{cell.difference:+.2f}"


def verdict(cell: Cell) -> str:
    """The verdict in words; its beginning is a key of MEANINGS."""
    if cell.kind == "unpublished":
        return "not published"
    if cell.kind in ("quoted", "timing", "derived") and cell.verdict is None:
        return cell.kind
    if cell.kind == "count" and cell.count is None:
        return "not counted"
    if cell.verdict is Verdict.REPRODUCED:
        return f"{cell.verdict}, within {cell.margin:g} points"
    if cell.verdict is Verdict.INCONCLUSIVE and cell.judgement is not None:
        following = cell.judgement.next_look
        return f"{cell.verdict}, {f'next look at {following} seeds' if following else 'after the last look'}"
    return str(cell.verdict)


def marks(cell: Cell, letters: Letters) -> str:
    """Numbers of the footnotes and letters of the deviations, as in [2, 9, a]; empty where there are none."""
    found = [*map(str, cell.caveats), *sorted(letters.of(d) for d in cell.deviations)]
    return f"[{', '.join(found)}]" if found else ""


def evidence(cell: Cell, letters: Letters, paper: Paper) -> str:
    """One sentence on the runs behind a cell; empty where there are none."""
    sample = cell.ours
    if sample is None:
        return ""
    name = f"{cell.model}, {paper.datasets[cell.dataset]}" + (", top-5" if cell.metric == "top5_error" else "")
    runs = f"{sample.n} run{'s' if sample.n > 1 else ''}, mean {sample.mean:.2f}"
    if sample.sd is not None:
        spread = f"{sample.smallest:.2f} to {sample.largest:.2f}"
        runs += f", sd {sample.sd:.3f}, median {sample.median:.2f}, {spread}"
    parts = [f"{name}: {runs} ({'; '.join(_by_origin(cell))})"]
    if cell.judgement is not None:
        parts.append(_judged(cell.judgement, cell.margin))
    parts.extend(_also(excluded, letters) for excluded in cell.excluded)
    return "; ".join(parts)


def _by_origin(cell: Cell) -> list[str]:
    """`this plan: a, b`, or evidence of a commit: the runs behind a cell by where they come from."""
    pairs = list(zip(cell.origins, cell.runs, strict=True))
    return [
        f"{origin}: {', '.join(run for its, run in pairs if its == origin)}" for origin in dict.fromkeys(cell.origins)
    ]


def _judged(judgement: Judgement, margin: float | None) -> str:
    """What the verdict rests on."""
    low, high = judgement.now.interval
    text = (
        f"{1 - 2 * SIDE:.0%} interval of the distance to the printed number {low:+.2f} to {high:+.2f}, "
        f"margin {margin:g}; {1 - DIFFERS:.1%} of numbers obtained as the paper's was lie within "
        f"{judgement.now.reach:.2f} of our mean; "
        f"sd between runs {judgement.spread:.3f}, {judgement.freedom} degrees of freedom"
    )
    look = judgement.look
    if look is None or look.n == judgement.now.n:
        return text
    low, high = look.interval
    return f"{text}; the verdict is that of the look at {look.n} seeds, the lowest: {low:+.2f} to {high:+.2f}"


def _also(excluded: Excluded, letters: Letters) -> str:
    why = ", ".join(sorted(letters.of(d) for d in excluded.deviations if d.material))
    return f"also run: {excluded.run} {excluded.error:.2f} ({excluded.reason}{': ' + why if why else ''})"


def notes(table: Table, letters: Letters) -> list[tuple[str, list[tuple[str, str]]]]:
    """What stands below a table: (title, its (mark, sentence)), a mark may be empty; lists without any are left out."""
    lists = {
        "Runs": [("", line) for cell in table.cells if (line := evidence(cell, letters, table.paper))],
        "Deviations from the paper's protocol": [(f"[{mark}]", text) for mark, text in letters.legend()],
        "Footnotes": [(f"[{caveat.number}]", caveat.text) for caveat in table.caveats],
        "Words": [(f"{word}:", meaning) for word, meaning in meanings(table)],
    }
    return [(title, found) for title, found in lists.items() if found]


def meanings(table: Table) -> list[tuple[str, str]]:
    """What the verdicts of its cells mean."""
    cells = table.cells
    used = {verdict(cell).partition(",")[0] for cell in cells}
    by_dataset = {cell.dataset: cell.margin for cell in cells if cell.verdict is Verdict.REPRODUCED and cell.margin}
    margins = " and ".join(f"{margin:g} points ({table.paper.datasets[name]})" for name, margin in by_dataset.items())
    found = {word: meaning for word, meaning in MEANINGS.items() if word in used}
    if margins:
        found["reproduced"] = found["reproduced"].replace("within the margin", f"within {margins}")
    return list(found.items())


def summary(table: Table) -> str:
    """How many of the table's claims have which verdict, and what chance alone would give."""
    verdicts = Counter(str(cell.verdict) for cell in table.cells if cell.claim and table.paper.protocol_of(cell.claim))
    if not verdicts:
        return "No claim of this table can be trained and judged."
    parts = [f"{verdicts[verdict]} {verdict}" for verdict in map(str, Verdict) if verdict in verdicts]
    total = verdicts.total()
    said = f"{'1 claim' if total == 1 else f'{total} claims'} that can be run: {', '.join(parts)}."
    judged = sum(cell.judgement is not None and cell.judgement.look is not None for cell in table.cells)
    if judged:
        expected = f"{OVERALL * judged:.2g}"
        said += f" Were the {judged} judged true, chance would call at most {expected} better or worse, over all looks."
    return said
