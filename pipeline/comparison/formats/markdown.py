"""Comparisons in GitHub's Markdown."""

from collections.abc import Sequence

from pipeline.comparison.formats import cell_text
from pipeline.comparison.formats.grid import grid, texts
from pipeline.comparison.tables import Table


def render(tables: Sequence[Table]) -> str:
    return "\n".join(_table(table) for table in tables)


def _table(table: Table) -> str:
    letters = cell_text.letters_of(table)
    groups, rows = grid(table, letters)
    names = ["network"]
    for heading, columns in groups:
        names.extend(f"{heading}: {name}" if name == "paper" else name for name in columns)
    lines = [f"# {table.title}", "", cell_text.summary(table), "", _row(names), _row(["---"] * len(names))]
    lines.extend(_row(texts(row)) for row in rows)
    for title, notes in cell_text.notes(table, letters):
        lines.extend(["", f"## {title}", ""])
        lines.extend(f"- {mark} {_escape(text)}" if mark else f"- {_escape(text)}" for mark, text in notes)
    return "\n".join(lines) + "\n"


def _row(columns: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escape, columns))} |"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")
