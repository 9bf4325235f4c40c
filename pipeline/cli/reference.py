"""The pages of docs/reference made from the code: `make docs` writes them, tests/test_docs.py compares them."""

import sys
from pathlib import Path
from typing import Any

FOLDER = Path("docs/reference")

_MADE = "<!-- Made by `make docs` from {source}. Edit there. -->\n\n"


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
    return _MADE.format(source="the commands' own --help") + text.rstrip() + "\n"


def _params() -> str:
    from pipeline.params import Plan

    schema = Plan.model_json_schema(ref_template="{model}")
    text = """# params.yaml

What to reproduce, and how. A key that is not listed here is refused with its line, and so is a value of
another type; nothing is converted. Every value is an input of the DVC stages that need it.
"""
    for name, model in {"Plan": schema, **schema["$defs"]}.items():
        text += f"\n## {'params.yaml itself' if name == 'Plan' else name}\n\n"
        text += model.get("description", "").replace("\n", " ") + "\n\n"
        text += _row("key", "value", "meaning") + _row(*["---"] * 3)
        for key, field in model["properties"].items():
            optional = "" if key in model["required"] else "; may be left out"
            text += _row(f"`{key}`", _type(field) + optional, field.get("description", ""))
    return _MADE.format(source="pipeline/params.py and pipeline/dataset_config.py") + text


def _type(field: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "$ref" in field:
        return f"[{field['$ref']}](#{field['$ref'].lower()})"
    if "const" in field:
        return f"`{str(field['const']).lower() if isinstance(field['const'], bool) else field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if options := field.get("anyOf") or field.get("oneOf"):
        return " or ".join(map(_type, options))
    kind = field.get("type")
    if kind == "object":
        return f"name: {_type(field['additionalProperties'])}, ..."
    if kind == "array":
        if "prefixItems" in field:
            return f"list of {len(field['prefixItems'])}: {_type(field['prefixItems'][0])}"
        return f"list of {_type(field['items'])}"
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true` or `false`"}
    bounds = (("exclusiveMinimum", "above"), ("minimum", "from"), ("exclusiveMaximum", "below"), ("maximum", "to"))
    said = " ".join(f"{word} {field[key]:g}" for key, word in bounds if key in field)
    return f"{words.get(str(kind), '`null`')} {said}".strip()


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
    return _MADE.format(source="pipeline/publication/protocols.yaml and caveats.yaml") + text


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8", newline="\n")
        print(f"wrote {FOLDER / name}", file=sys.stderr)
