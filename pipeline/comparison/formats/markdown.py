"""Comparisons in GitHub's Markdown."""

from collections.abc import Sequence

from pipeline.comparison.formats import cell_text
from pipeline.comparison.formats.grid import grid
from pipeline.comparison.tables import Table


def render(tables: Sequence[Table]) -> str:
    return "\n".join(_table(table) for table in tables)


def _table(table: Table) -> str:
    letters = cell_text.letters_of(table)
    laid = grid(table, letters)
    names = ["network"]
    for group in laid.groups:
        names.extend(f"{group.heading}: {name}" if name == "paper" else name for name in group.names)
    lines = [f"# {table.title}", "", cell_text.summary(table), "", _row(names), _row(["---"] * len(names))]
    lines.extend(_row(row) for row in laid.rows)
    for title, items in (
        ("Runs", [f"- {_escape(line)}" for line in cell_text.all_evidence(table, letters)]),
        ("Deviations from the paper's protocol", [f"- [{mark}] {_escape(text)}" for mark, text in letters.legend()]),
        ("Footnotes", [f"- [{caveat.number}] {_escape(caveat.text)}" for caveat in table.caveats]),
        ("Words", [f"- {word}: {_escape(meaning)}" for word, meaning in cell_text.meanings(table)]),
    ):
        if items:
            lines.extend(["", f"## {title}", "", *items])
    return "\n".join(lines) + "\n"


def _row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escape, texts))} |"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")
