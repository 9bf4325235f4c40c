"""A table in words, cell by cell: what all formats for readers show, each in its own way."""

from collections import Counter
from typing import Any

from pipeline.comparison.cells import Cell
from pipeline.comparison.deviations import Deviation
from pipeline.comparison.tables import Table
from pipeline.comparison.verdict_rule import DIFFERS, OVERALL, SIDE, Verdict, summarise
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
}
"""First words of every verdict -> what they mean, for somebody who has never seen the tool."""

Letters = dict[Deviation, str]
"""The deviations of one table, each with a letter, material ones first."""


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
    if cell.verdict is None:
        return "not published" if cell.kind == "unpublished" else cell.kind
    if cell.verdict is Verdict.REPRODUCED:
        return f"{cell.verdict}, within {cell.margin:g} points"
    if cell.verdict is Verdict.INCONCLUSIVE and cell.judgement is not None:
        following = cell.judgement.next_look
        return f"{cell.verdict}, {f'next look at {following} seeds' if following else 'after the last look'}"
    return str(cell.verdict)


def texts(cell: Cell, letters: Letters) -> dict[str, str]:
    """Name of each column that stands for one of the paper's -> its text of a cell. The last one has the verdict, with
    the numbers of footnotes and letters of deviations, as in [2, 9, a]."""
    marks = [*map(str, cell.caveats), *sorted(letters[d] for d in cell.deviations)]
    printed, own, noted = published(cell), ours(cell), f"[{', '.join(marks)}]" if marks else ""
    said = f"{verdict(cell)} {noted}".strip()
    if cell.metric in ("top1_error", "top5_error", "map"):
        return {"paper": printed, "ours": own, "difference": difference(cell), "verdict": said}
    if cell.metric == "batch32_ms":
        return {"paper": printed, "ours, verdict": f"{own} {said}".strip()}
    told = {"paper": f"{printed} {noted}".strip()}
    if cell.metric == "params_millions":
        told["ours, exact"] = own if cell.verdict is Verdict.SAME_COUNT else said
    return told


def section(table: Table) -> dict[str, Any]:
    """What all formats print of a table.

    A column has by network: a text for each of its `names`, all empty where the paper's table has no such place; the
    first words of its verdict as its style, which a colour repeats; the first of our runs. A note is (mark, sentence),
    of which the mark may be empty.
    """
    found = {d for cell in table.cells for d in (*cell.deviations, *(d for e in cell.excluded for d in e.deviations))}
    ordered = sorted(found, key=lambda d: (not d.material, d))
    letters = {deviation: chr(ord("a") + i % 26) * (1 + i // 26) for i, deviation in enumerate(ordered)}
    columns = []
    for dataset, metric in dict.fromkeys((cell.dataset, cell.metric) for cell in table.cells):
        cells = {cell.model: cell for cell in table.cells if (cell.dataset, cell.metric) == (dataset, metric)}
        told = {model: texts(cell, letters) for model, cell in cells.items()}
        names = list(next(iter(told.values())))
        empty = dict.fromkeys(names, "")
        column = {
            "heading": f"{table.paper.datasets[dataset]}, {table.paper.metrics[metric]}",
            "names": names,
            "verdict": names[-1] if len(names) > 1 else None,
            "texts": {model: told.get(model, empty) for model in table.models},
            "styles": {model: verdict(cell).partition(",")[0] for model, cell in cells.items()},
            "runs": {model: cell.runs[0] for model, cell in cells.items() if cell.runs},
        }
        columns.append(column)
    notes = {
        "Runs": [("", _evidence(cell, letters, table.paper)) for cell in table.cells if cell.shown],
        "Deviations from the paper's protocol": [
            (f"[{letter}]", f"{deviation} ({'material' if deviation.material else 'minor'}: {deviation.reason})")
            for deviation, letter in letters.items()
        ],
        "Footnotes": [(f"[{caveat.number}]", caveat.text) for caveat in table.caveats],
        "Words": _meanings(table),
    }
    return {
        "id": table.stem,
        "title": table.title,
        "summary": summary(table),
        "models": table.models,
        "columns": columns,
        "notes": [(title, items) for title, items in notes.items() if items],
    }


def _evidence(cell: Cell, letters: Letters, paper: Paper) -> str:
    """One sentence on the runs behind a cell."""
    sample, judgement = summarise([run.error for run in cell.shown]), cell.judgement
    name = f"{cell.model}, {paper.datasets[cell.dataset]}" + (", top-5" if cell.metric == "top5_error" else "")
    runs = f"{sample.n} run{'s' if sample.n > 1 else ''}, mean {sample.mean:.2f}"
    if sample.sd is not None:
        runs += f", sd {sample.sd:.3f}, median {sample.median:.2f}, {sample.min:.2f} to {sample.max:.2f}"
    origins: dict[str, list[str]] = {}
    for run in cell.shown:
        origins.setdefault(run.result.origin, []).append(run.run)
    behind = "; ".join(f"{origin}: {', '.join(found)}" for origin, found in origins.items())
    parts = [f"{name}: {runs} ({behind})"]
    if judgement is not None:
        now, (low, high) = judgement.now, judgement.now.interval
        parts += [
            f"{1 - 2 * SIDE:.0%} interval of the distance to the printed number {low:+.2f} to {high:+.2f}, "
            f"margin {cell.margin:g}",
            f"{1 - DIFFERS:.1%} of numbers obtained as the paper's was lie within {now.reach:.2f} of our mean",
            f"sd between runs {judgement.spread:.3f}, {judgement.freedom} degrees of freedom",
        ]
        if (look := judgement.look) and look != now:
            low, high = look.interval
            parts.append(f"the verdict is that of the look at {look.n} seeds, the lowest: {low:+.2f} to {high:+.2f}")
    for run in cell.excluded:
        why = ", ".join(sorted(letters[d] for d in run.material))
        parts.append(f"also run: {run.run} {run.error:.2f} ({run.reason}{': ' + why if why else ''})")
    return "; ".join(parts)


def _meanings(table: Table) -> list[tuple[str, str]]:
    """What the verdicts of its cells mean."""
    used = {verdict(cell).partition(",")[0] for cell in table.cells}
    found = {word: meaning for word, meaning in MEANINGS.items() if word in used}
    reproduced = [cell for cell in table.cells if cell.verdict is Verdict.REPRODUCED]
    if reproduced:
        margins = dict.fromkeys(f"{cell.margin:g} points ({table.paper.datasets[cell.dataset]})" for cell in reproduced)
        found["reproduced"] = found["reproduced"].replace("within the margin", f"within {' and '.join(margins)}")
    return [(f"{word}:", meaning) for word, meaning in found.items()]


def summary(table: Table) -> str:
    """How many of the table's claims have which verdict, and what chance alone would give."""
    verdicts = Counter(cell.verdict for cell in table.cells if cell.claim and table.paper.protocol_of(cell.claim))
    if not verdicts:
        return "No claim of this table can be trained and judged."
    parts = [f"{verdicts[each]} {each}" for each in Verdict if each in verdicts]
    total = verdicts.total()
    said = f"{'1 claim' if total == 1 else f'{total} claims'} that can be run: {', '.join(parts)}."
    judged = sum(cell.judgement is not None and cell.judgement.look is not None for cell in table.cells)
    if judged:
        expected = f"{OVERALL * judged:.2g}"
        said += f" Were the {judged} judged true, chance would call at most {expected} better or worse, over all looks."
    return said
