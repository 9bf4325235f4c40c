"""Additions to the text of params.yaml: loading and dumping all of it would move comments and change its layout."""

from collections.abc import Sequence
from functools import lru_cache

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from pipeline.errors import UserError
from pipeline.params import PARAMS

Edit = tuple[int, int, str]
"""From a place in a text to another: what stands there instead."""


def edited(text: str, edits: Sequence[Edit]) -> str:
    """The text with all of these, which must not overlap; those at one place in their order."""
    for start, end, new in reversed(sorted(edits, key=lambda edit: edit[0])):
        text = text[:start] + new + text[end:]
    return text


def appended(text: str, section: str, blocks: Sequence[str], after: str | None = None) -> list[Edit]:
    """Entries added to the mapping `section`: below its entry `after`, or else below its last one.

    A block is YAML without indentation, comments and blank lines included. Raises UserError for a section in braces,
    where no comment could stand.
    """
    if not blocks:
        return []
    value = _sections(text)[section]
    if not isinstance(value, MappingNode) or (value.flow_style and value.value):
        raise UserError(
            f"{PARAMS}:{value.start_mark.line + 1}: {section} stands in braces",
            "write it as a block, one entry to a line",
        )
    lines = "\n".join(blocks).splitlines()
    if not value.value:
        end = value.end_mark.index
        return [(value.start_mark.index, end, ""), _lines_below(text, end, 2, lines)]
    entry = next((pair for pair in value.value if pair[0].value == after), value.value[-1])
    return [_lines_below(text, max(map(_end, entry)), value.value[0][0].start_mark.column, lines)]


def appended_tables(text: str, tables: Sequence[str]) -> list[Edit]:
    value = _sections(text)["tables"]
    quoted = [f'"{table}"' for table in tables]
    if not quoted or not isinstance(value, SequenceNode):
        return []
    end = max(map(_end, value.value), default=value.start_mark.index + 1)
    if value.flow_style:
        return [(end, end, ", ".join(["", *quoted] if value.value else quoted))]
    return [_lines_below(text, end, value.start_mark.column, [f"- {word}" for word in quoted])]


@lru_cache(maxsize=1)
def _sections(text: str) -> dict[str, Node]:
    root = YAML(typ="safe", pure=True).compose(text)
    return {key.value: value for key, value in root.value}


def _end(node: Node) -> int:
    """Behind the last character of a node. The end mark of a block lies behind the comments that follow it."""
    if not isinstance(node, MappingNode | SequenceNode) or node.flow_style or not node.value:
        return int(node.end_mark.index)
    below = node.value if isinstance(node, SequenceNode) else [part for pair in node.value for part in pair]
    return max(map(_end, below))


def _lines_below(text: str, index: int, column: int, lines: Sequence[str]) -> Edit:
    """Whole lines below the line that holds the character before `index`."""
    newline = "\r\n" if "\r\n" in text else "\n"
    new = "".join((" " * column + line if line else "") + newline for line in lines)
    end = index if text[index - 1] == "\n" else text.find("\n", index) + 1
    return (end, end, new) if end else (len(text), len(text), newline + new)  # its last line has no line break
