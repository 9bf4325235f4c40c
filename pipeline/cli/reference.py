"""The pages of docs/reference made from the code: `make docs` writes them, tests/test_docs.py compares them."""

import ast
import inspect
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

FOLDER = Path("docs/reference")
_MADE = "<!-- Made by `make docs` from {}. Edit there. -->\n\n"


def pages() -> dict[str, str]:
    """File name -> Markdown."""
    return {"commands.md": _commands(), "params.md": _params(), "protocols.md": _protocols()}


def _commands() -> str:
    import typer
    from typer.cli import get_docs_for_click

    from pipeline.cli.main import app

    command = typer.main.get_command(app)
    text = get_docs_for_click(
        obj=command, ctx=typer.Context(command), name="wrn-pipe", title="Commands: wrn-pipe and its options"
    )
    return _MADE.format("the commands' own --help") + text.rstrip() + "\n"


def _params() -> str:
    from pipeline.dataset_config import Strict
    from pipeline.params import Plan

    schema = Plan.model_json_schema(ref_template="{model}")
    models = {model.__name__: model for model in Strict.__subclasses__()}
    text = """# params.yaml

What to reproduce, and how. A key that is not listed here is refused with its line, and so is a value of
another type; nothing is converted. Every value is an input of the DVC stages that need it.
"""
    for name, model in {"Plan": schema, **schema["$defs"]}.items():
        title = "params.yaml itself" if name == "Plan" else name
        text += f"\n## {title}\n\n{' '.join(model.get('description', '').splitlines())}\n\n"
        text += _row("key", "value", "meaning") + _row(*["---"] * 3)
        meanings = _docstrings(models[name])
        for key, field in model["properties"].items():
            optional = "" if key in model["required"] else "; may be left out"
            text += _row(f"`{key}`", _type(field) + optional, meanings.get(key, ""))
    return _MADE.format("pipeline/params.py and pipeline/dataset_config.py") + text


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


def _type(field: dict[str, Any]) -> str:
    """A JSON schema in words."""
    match field:
        case {"$ref": name}:
            return f"[{name}](#{name.lower()})"
        case {"const": value}:
            return f"`{str(value).lower() if isinstance(value, bool) else value}`"
        case {"enum": values}:
            return ", ".join(f"`{value}`" for value in values)
        case {"anyOf": options} | {"oneOf": options}:
            return " or ".join(map(_type, options))
        case {"type": "object", "additionalProperties": item}:
            return f"name: {_type(item)}, ..."
        case {"type": "array", "prefixItems": items}:
            return f"list of {len(items)}: {_type(items[0])}"
        case {"type": "array", "items": item}:
            return f"list of {_type(item)}"
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true` or `false`"}
    bounds = {"exclusiveMinimum": "above", "minimum": "from", "exclusiveMaximum": "below", "maximum": "to"}
    said = [f"{word} {field[key]:g}" for key, word in bounds.items() if key in field]
    return " ".join([words.get(field["type"], "`null`"), *said])


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |\n"


def _protocols() -> str:
    from pipeline.publication.wide_resnet import PAPER

    text = """# The paper's protocols and footnotes

What a run is measured against, field by field, and where each value is said. 2016-05 and 2016-11 are the
months of the authors' code. A run that differs in an *unstated* value stays comparable and gets a footnote.
"""
    for recipe in PAPER.protocols.values():
        text += f"\n## {recipe.name}\n\n" + _row("field", "value", "source") + _row(*["---"] * 3)
        for field, value in recipe.protocol.model_dump(mode="json").items():
            shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
            text += _row(f"`{field}`", shown, recipe.sources[field])
    text += "\n## Footnotes\n\nNumbered as `wrn-pipe compare` numbers them.\n\n"
    text += "".join(f"{caveat.number}. {caveat.text.strip()}\n" for caveat in PAPER.caveats)
    return _MADE.format("pipeline/publication/protocols.yaml and caveats.yaml") + text


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8", newline="\n")
        print(f"wrote {FOLDER / name}", file=sys.stderr)
