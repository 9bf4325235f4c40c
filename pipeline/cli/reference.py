"""The pages of docs/reference made from the code: `make docs` writes them, tests/test_docs.py compares them."""

import ast
import inspect
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

FOLDER = Path("docs/reference")


def pages() -> dict[str, str]:
    """File name -> Markdown."""
    from pipeline.comparison.formats import environment
    from pipeline.dataset_config import Strict
    from pipeline.params import Plan
    from pipeline.publication.wide_resnet import PAPER

    templates = environment("text", Path(__file__).parent)
    templates.filters["line"] = lambda text: " ".join(text.splitlines()).replace("|", "\\|")
    schema = Plan.model_json_schema(ref_template="{model}")
    meanings = {model.__name__: _docstrings(model) for model in Strict.__subclasses__()}
    known = {"models": {"Plan": schema, **schema["$defs"]}, "meanings": meanings, "words": _words, "paper": PAPER}
    made = {name: templates.get_template(f"{name}.jinja").render(known) for name in ("params.md", "protocols.md")}
    return {"commands.md": _commands()} | made


def _commands() -> str:
    import typer
    from typer.cli import get_docs_for_click

    from pipeline.cli.main import app

    command = typer.main.get_command(app)
    text = get_docs_for_click(
        obj=command, ctx=typer.Context(command), name="wrn-pipe", title="Commands: wrn-pipe and its options"
    )
    return f"<!-- Made by `make docs` from the commands' own --help. Edit there. -->\n\n{text.rstrip()}\n"


def _docstrings(model: type) -> dict[str, str]:
    """Field -> the docstring below it. pydantic reads them as well, at each start of each command."""
    (definition,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(str(text.value.value))
        for field, text in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def _words(field: dict[str, Any]) -> str:
    """A JSON schema in words."""
    match field:
        case {"$ref": name}:
            return f"[{name}](#{name.lower()})"
        case {"const": value}:
            return f"`{str(value).lower() if isinstance(value, bool) else value}`"
        case {"enum": values}:
            return ", ".join(f"`{value}`" for value in values)
        case {"anyOf": options} | {"oneOf": options}:
            return " or ".join(map(_words, options))
        case {"type": "object", "additionalProperties": item}:
            return f"name: {_words(item)}, ..."
        case {"type": "array", "prefixItems": items}:
            return f"list of {len(items)}: {_words(items[0])}"
        case {"type": "array", "items": item}:
            return f"list of {_words(item)}"
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true` or `false`"}
    bounds = {"exclusiveMinimum": "above", "minimum": "from", "exclusiveMaximum": "below", "maximum": "to"}
    said = [f"{word} {field[key]:g}" for key, word in bounds.items() if key in field]
    return " ".join([words.get(field["type"], "`null`"), *said])


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8", newline="\n")
        print(f"wrote {FOLDER / name}", file=sys.stderr)
