"""The text of a PDF that chromium printed, for which no package of the lock file has a reader."""

import re
import unicodedata
import zlib


def text(pdf: bytes) -> str:
    """What can be read on all pages, without blanks: a PDF places words and does not part them."""
    parts = dict(re.findall(rb"^(\d+) 0 obj\n(.*?)^endobj", pdf, re.M | re.S))
    fonts = {number: re.search(rb"/ToUnicode (\d+) 0 R", part) for number, part in parts.items()}
    letters = {number: _letters(_stream(parts[to[1]])) for number, to in fonts.items() if to}
    shown, font = "", dict[int, str]()
    pages = re.findall(rb"/Type /Page\n.*?/Contents (\d+) 0 R", pdf, re.S)
    for page in pages:
        for name, glyphs in re.findall(rb"/F(\d+) [\d.]+ Tf|<([0-9A-F]+)> Tj", _stream(parts[page])):
            font = letters[name] if name else font
            shown += "".join(font.get(int(glyphs[i : i + 4], 16), "") for i in range(0, len(glyphs), 4))
    return "".join(unicodedata.normalize("NFKC", shown).split())  # without ligatures


def _stream(part: bytes) -> bytes:
    return zlib.decompress(part.partition(b"stream\n")[2])


def _letters(cmap: bytes) -> dict[int, str]:
    """Glyph -> its character, from a font's ToUnicode."""
    found = {}
    for kind, lines in re.findall(rb"beginbf(char|range)\n(.*?)endbf", cmap, re.S):
        for line in lines.splitlines():
            numbers = [bytes.fromhex(number.decode()) for number in re.findall(rb"<(\w+)>", line)]
            first, last = (int.from_bytes(numbers[i]) for i in (0, -2 if kind == b"range" else 0))
            start = numbers[-1].decode("utf-16-be")
            for glyph in range(first, last + 1):
                found[glyph] = start[:-1] + chr(ord(start[-1]) + glyph - first)
    return found
