"""Comparisons as one HTML page that needs nothing beside it, legible in light and dark, by eye, ear and keyboard."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.comparison.cells import Cell
from pipeline.comparison.formats import cell_text
from pipeline.comparison.formats.grid import grid
from pipeline.comparison.tables import Table
from pipeline.publication.paper import Paper

if TYPE_CHECKING:
    import jinja2

FOLDER = Path(__file__).parent


def render(tables: Sequence[Table], paper: Paper) -> str:
    page = environment().get_template("page.html.jinja")
    return page.render(paper=paper, tables=[section(table) for table in tables]).rstrip("\n") + "\n"


def environment(*folders: Path) -> "jinja2.Environment":
    """Templates of `folders`, then those here: comparison.css and the macro `comparison` of table.html.jinja."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, FOLDER]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def section(table: Table, link: Callable[[Cell], str] | None = None) -> dict[str, Any]:
    """What the macro `comparison` prints. `link` names the id in the page that tells more about a cell; "" for none."""
    letters = cell_text.letters_of(table)
    laid = grid(table, letters)
    rows = []
    for texts, cells in zip(laid.rows, laid.cells, strict=True):
        rest = iter(texts[1:])
        places = []
        for group, cell in zip(laid.groups, cells, strict=True):
            own = [next(rest) for _ in group.names]
            # The last text of what is judged or counted is its verdict; the paper's own number never is.
            styles = [""] * (len(own) - 1) + [style(cell) if cell and len(own) > 1 else ""]
            to = link(cell) if link and cell else ""
            links = [to if name == "verdict" else "" for name in group.names]
            places += [
                {"text": t, "style": s, "link": to, "wide": name == "verdict"}
                for t, s, to, name in zip(own, styles, links, group.names, strict=True)
            ]
        rows.append({"model": texts[0], "places": places})
    return {
        "id": table.stem,
        "title": table.title,
        "summary": cell_text.summary(table),
        "groups": laid.groups,
        "rows": rows,
        "notes": [
            ("Runs", [("", line) for line in cell_text.all_evidence(table, letters)]),
            ("Deviations from the paper's protocol", [(f"[{mark}]", text) for mark, text in letters.legend()]),
            ("Footnotes", [(f"[{caveat.number}]", caveat.text) for caveat in table.caveats]),
            ("Words", [(f"{word}:", text) for word, text in cell_text.meanings(table)]),
        ],
    }


def style(cell: Cell) -> str:
    """The CSS class of a cell's verdict. Colour repeats what the words say, so nothing is lost without it."""
    return cell_text.verdict(cell).partition(",")[0].replace(" ", "-")
