"""Comparisons as documents, by a template each: GitHub's Markdown, a LaTeX document that compiles as it is, and one
HTML page that needs nothing beside it, legible in light and dark, by eye, ear and keyboard."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.comparison.cells import Cell
from pipeline.comparison.formats import cell_text
from pipeline.comparison.tables import Table
from pipeline.publication.paper import Paper

if TYPE_CHECKING:
    import jinja2

FOLDER = Path(__file__).parent
Document = Literal["markdown", "latex", "html"]
ESCAPES: dict[Document, dict[int, str]] = {
    "markdown": str.maketrans({"\\": r"\\", "|": r"\|", "*": r"\*", "<": "&lt;"}),
    "latex": str.maketrans(
        {
            **{character: f"\\{character}" for character in "&%$#_{}"},
            **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
            **{"±": r"$\pm$", "<": "$<$", ">": "$>$", '"': "''"},
            # an opening bracket after the end of a row would be read as its optional argument
            **{"[": "{[}", "]": "{]}"},
        }
    ),
}
"""Of what is special in a format, what stands for it in a text. HTML has jinja2's own."""


def render(tables: Sequence[Table], form: Document, paper: Paper) -> str:
    page = environment(form).get_template(f"{form}.jinja")
    return page.render(paper=paper, tables=[section(table) for table in tables]).rstrip("\n") + "\n"


def environment(form: Document, *folders: Path) -> "jinja2.Environment":
    """Templates of `folders`, then those here: comparison.css and the macro `comparison` of table.html.jinja."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, FOLDER]),
        undefined=jinja2.StrictUndefined,
        autoescape=form == "html",
        trim_blocks=True,
        lstrip_blocks=True,
    )
    if form == "latex":  # which is full of braces
        made = made.overlay("<%", "%>", "<<", ">>")
    if form in ESCAPES:
        made.finalize = lambda value: str(value).translate(ESCAPES[form])
    return made


def section(table: Table) -> dict[str, Any]:
    """What a template prints of a table: one row a network, and for each of the paper's columns those of `texts`."""
    letters = cell_text.letters_of(table)
    rows = []
    for model in table.models:
        places = []
        for column in table.columns:
            cell = table.cell(model, column)
            for name, text in cell_text.texts(cell, column.metric, letters).items():
                # The last text of what is judged or counted is its verdict; the paper's own number never is.
                verdict = style(cell) if cell and name not in ("paper", "ours", "difference") else ""
                wide = name == "verdict"
                run = cell.runs[0] if wide and cell and cell.runs else ""
                places.append({"text": text, "style": verdict, "wide": wide, "run": run})
        rows.append((model, places))
    return {
        "id": table.stem,
        "title": table.title,
        "summary": cell_text.summary(table),
        "groups": [
            (cell_text.heading(column, table.paper), list(cell_text.texts(None, column.metric, letters)))
            for column in table.columns
        ],
        "rows": rows,
        "notes": cell_text.notes(table, letters),
    }


def style(cell: Cell) -> str:
    """The CSS class of a cell's verdict. Colour repeats what the words say, so nothing is lost without it."""
    return cell_text.verdict(cell).partition(",")[0].replace(" ", "-")
