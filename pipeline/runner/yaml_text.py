"""Add entries to a YAML text and leave every other byte as it is, which no load and dump of the whole can promise."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from pipeline.errors import UserError


@dataclass(frozen=True)
class Edit:
    """Replaces text[start:end]."""

    start: int
    end: int
    text: str


class Document:
    """A YAML text whose top level is a mapping, with the places of its nodes. `name` is the file's, for messages."""

    def __init__(self, text: str, name: str) -> None:
        """Raises MarkedYAMLError for a text that is no YAML; `params_file.load` tells the user before."""
        self.text = text
        self.name = name
        self.newline = "\r\n" if "\r\n" in text else "\n"
        self._root = YAML(typ="safe", pure=True).compose(text)

    def append(self, section: str, blocks: Sequence[str], after: str | None = None) -> list[Edit]:
        """Edits that add entries to the mapping `section`: below its entry `after`, or else below its last one.

        A block is an entry as YAML text of block style without indentation, `key: value` and what belongs to it,
        comments and blank lines included. Raises UserError for a section in braces, where no comment could stand.
        """
        value = self._entry(section)
        if not isinstance(value, MappingNode) or (value.flow_style and value.value):
            raise UserError(
                f"{self._place(value)}: {section} stands in braces", "write it as a block, one entry to a line"
            )
        lines = "\n".join(blocks).splitlines()
        if not value.value:
            indented = self._indent(lines, 2)
            return [
                Edit(value.start_mark.index, value.end_mark.index, ""),
                self._insert_below(value.end_mark.index, indented),
            ]
        entry = next((pair for pair in value.value if pair[0].value == after), value.value[-1])
        return [self._insert_below(_end(*entry), self._indent(lines, value.value[0][0].start_mark.column))]

    def append_words(self, section: str, words: Sequence[str]) -> list[Edit]:
        """Edits that add quoted strings at the end of the sequence `section`."""
        value = self._entry(section)
        if not isinstance(value, SequenceNode):
            raise UserError(f"{self._place(value)}: {section} is not a list", f'write {section}: ["4"]')
        quoted = [f'"{word}"' for word in words]
        if not value.value:
            inside = value.start_mark.index + 1
            return [Edit(inside, inside, ", ".join(quoted))]
        last = max(_end(item) for item in value.value)
        if value.flow_style:
            return [Edit(last, last, "".join(f", {word}" for word in quoted))]
        return [self._insert_below(last, self._indent([f"- {word}" for word in quoted], value.start_mark.column))]

    def block(self, section: str, key: str) -> str:
        """One entry of the mapping `section` as it stands, its comments included, without indentation."""
        value = self._entry(section)
        lines = self.text.splitlines()
        entries = {pair[0].value: pair for pair in value.value}
        first = entries[key][0].start_mark.line
        last = self.text.count("\n", 0, _end(*entries[key]))
        column = entries[key][0].start_mark.column
        while first and lines[first - 1].startswith(" " * column + "#"):
            first -= 1
        return textwrap.dedent("\n".join(lines[first : last + 1]))

    def line(self, *keys: str) -> int:
        """Line, from 1, of the key that the path names. Raises KeyError where there is none."""
        node, line = self._root, 1
        for key in keys:
            found, node = {pair[0].value: pair for pair in node.value}[key]
            line = found.start_mark.line + 1
        return line

    def apply(self, edits: Sequence[Edit]) -> str:
        """The text with all edits; of two at one place the earlier stands first."""
        parts, at = [], 0
        for edit in sorted(edits, key=lambda edit: edit.start):
            parts += [self.text[at : edit.start], edit.text]
            at = edit.end
        return "".join([*parts, self.text[at:]])

    def _entry(self, section: str) -> Node:
        for key, value in self._root.value:
            # The value of an alias is the node that the anchor names: adding there would add to both.
            if key.value == section and value.start_mark.index > key.start_mark.index:
                found: Node = value
                return found
        raise UserError(f"{self.name}: {section} is written by an alias or a merge key", "write it out")

    def _place(self, node: Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}"

    def _insert_below(self, index: int, lines: Sequence[str]) -> Edit:
        """Whole lines below the line that holds the character before `index`."""
        end = index if self.text[index - 1] == "\n" else self.text.find("\n", index) + 1
        lead = ""
        if not end:  # the last line of the file has no line break
            end, lead = len(self.text), self.newline
        return Edit(end, end, lead + "".join(line + self.newline for line in lines))

    @staticmethod
    def _indent(lines: Sequence[str], columns: int) -> list[str]:
        return [" " * columns + line if line else "" for line in lines]


def _end(*nodes: Node) -> int:
    """Index behind the last character of the nodes. A block's own end mark lies behind the comments that follow it.

    The value of an alias is the node it names, which stands further up: max leaves it out.
    """
    ends = []
    for node in nodes:
        if isinstance(node, MappingNode) and not node.flow_style and node.value:
            ends += [_end(*pair) for pair in node.value]
        elif isinstance(node, SequenceNode) and not node.flow_style and node.value:
            ends.append(_end(*node.value))
        else:
            ends.append(node.end_mark.index)
    return max(ends)
