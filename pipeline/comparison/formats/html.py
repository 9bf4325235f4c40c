"""Comparisons as one HTML page that needs nothing beside it, legible in light and dark."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.comparison.formats import words
from pipeline.comparison.formats.grid import grid
from pipeline.comparison.tables import Table

PAGE = Path(__file__).with_name("page.html.jinja")


def render(tables: Sequence[Table]) -> str:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(PAGE.read_text(encoding="utf-8"))
    return page.render(tables=[_table(table) for table in tables]).rstrip("\n") + "\n"


def _table(table: Table) -> dict[str, object]:
    letters = words.letters_of(table)
    laid = grid(table, letters)
    return {
        "id": table.stem,
        "title": table.title,
        "summary": words.summary(table),
        "groups": laid.groups,
        "names": [name for group in laid.groups for name in group.names],
        "rows": [[(text, _kind(text)) for text in row] for row in laid.rows],
        "notes": [
            ("Runs", [("", line) for line in words.all_evidence(table, letters)]),
            ("Deviations from the paper's protocol", [(f"[{mark}]", text) for mark, text in letters.legend()]),
            ("Footnotes", [(f"[{caveat.number}]", caveat.text) for caveat in table.caveats]),
            ("Words", [(f"{word}:", text) for word, text in words.meanings(table.cells)]),
        ],
    }


def _kind(text: str) -> str:
    """The CSS class of a cell: its verdict, so that colour repeats what the words say."""
    for word in words.MEANINGS:
        if text == word or text.startswith((f"{word} [", f"{word}, ")):
            return word.replace(" ", "-")
    return ""
