"""Comparisons as one HTML page that needs nothing beside it, legible in light and dark, by eye, ear and keyboard."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.comparison.cells import Cell
from pipeline.comparison.formats import cell_text
from pipeline.comparison.formats.grid import Place, grid
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
    groups, rows = grid(table, letters)
    return {
        "id": table.stem,
        "title": table.title,
        "summary": cell_text.summary(table),
        "groups": groups,
        "rows": [(model, [text for place in places for text in _texts(place, link)]) for model, places in rows],
        "notes": cell_text.notes(table, letters),
    }


def _texts(place: Place, link: Callable[[Cell], str] | None) -> Iterator[dict[str, Any]]:
    last = [*place.texts][-1]
    for name, text in place.texts.items():
        # The last text of what is judged or counted is its verdict; the paper's own number never is.
        shown = style(place.cell) if place.cell and name == last != "paper" else ""
        wide = name == "verdict"
        to = link(place.cell) if wide and link and place.cell else ""
        yield {"text": text, "style": shown, "link": to, "wide": wide}


def style(cell: Cell) -> str:
    """The CSS class of a cell's verdict. Colour repeats what the words say, so nothing is lost without it."""
    return cell_text.verdict(cell).partition(",")[0].replace(" ", "-")
