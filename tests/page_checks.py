"""What an HTML page must have to be valid, whole in one file, and usable by keyboard and screen reader."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise

VOID = {"meta", "link", "br", "hr", "img", "input", "col", "wbr", "area", "base", "embed", "source", "track"}
LOADS = {"src", "srcset", "poster", "data", "action", "formaction", "background", "cite", "manifest", "ping"}
HEADINGS = ("h1", "h2", "h3", "h4")


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    parent: "Element | None"
    children: list["Element"] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def iter(self) -> Iterator["Element"]:
        """It and the elements below it, in the page's order."""
        yield self
        for child in self.children:
            yield from child.iter()

    def all(self, *tags: str) -> list["Element"]:
        return [element for element in self.iter() if element.tag in tags]

    @property
    def text(self) -> str:
        """All text in it, with single blanks."""
        return " ".join(" ".join(piece for element in self.iter() for piece in element.texts).split())

    def within(self, tag: str) -> bool:
        return self.parent is not None and (self.parent.tag == tag or self.parent.within(tag))


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {}, None)
        self.at = self.root

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        element = Element(tag, {name: value or "" for name, value in attrs}, self.at)
        self.at.children.append(element)
        if tag not in VOID:
            self.at = element

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            assert self.at.within("svg") or tag == "svg", f"<{tag}/> closes nothing in HTML"
            self.at = self.at.parent or self.root

    def handle_endtag(self, tag: str) -> None:
        assert self.at.tag == tag, f"line {self.getpos()[0]}: </{tag}> ends <{self.at.tag}>"
        self.at = self.at.parent or self.root

    def handle_data(self, data: str) -> None:
        self.at.texts.append(data)


def read(text: str) -> Element:
    """The page as a tree. Fails where a tag is not closed in its place."""
    assert text.startswith("<!doctype html>")
    builder = _Builder()
    builder.feed(text)
    builder.close()
    assert builder.at is builder.root, f"<{builder.at.tag}> is not closed"
    return builder.root


def check_whole(page: Element, text: str) -> None:
    """It loads nothing: every reference leads into the page itself."""
    ids = [element.attributes["id"] for element in page.iter() if "id" in element.attributes]
    assert len(ids) == len(set(ids)), "an id stands twice"
    for element in page.iter():
        assert element.tag not in ("script", "link", "iframe", "object", "embed", "base", "img"), element.tag
        assert not LOADS & set(element.attributes), element
        assert not any(name.startswith("on") for name in element.attributes), element
        to = element.attributes.get("href")
        assert to is None or (to.startswith("#") and to[1:] in ids), f"{to} leads nowhere"
        for name in ("aria-labelledby", "aria-describedby"):
            assert set(element.attributes.get(name, "").split()) <= set(ids)
        for value in element.attributes.values():
            assert "url(" not in value or value.split("url(#")[1].split(")")[0] in ids
    style = "".join(element.text for element in page.all("style"))
    assert not [word for word in ("url(", "@import", "http:") if word in style]
    assert "default-src 'none'" in text


def check_usable(page: Element) -> None:
    """The part of axe's rules that can be read off the page."""
    (html,) = page.all("html")
    assert html.attributes["lang"] == "en"
    assert page.all("title")[0].text
    assert "width=device-width" in str([element.attributes for element in page.all("meta")])
    (main,) = page.all("main")
    (body,) = page.all("body")
    skip = body.all("a")[0]
    assert skip.attributes["href"] == f"#{main.attributes['id']}", "the first link skips to the content"
    levels = [int(heading.tag[1]) for heading in page.all(*HEADINGS)]
    assert (levels[0], levels.count(1)) == (1, 1)
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    assert all(element.text for element in page.all(*HEADINGS, "a", "summary", "button", "th", "caption"))
    for table in page.all("table"):
        assert table.children[0].tag == "caption"
        assert all("scope" in cell.attributes for cell in table.all("th"))
        assert table.all("th")
        box = table.parent
        assert box is not None
        assert (box.attributes["class"], box.attributes["tabindex"]) == ("wide", "0"), "it scrolls, by keyboard too"
        assert box.attributes["aria-label"]
        rows = [row.all("td", "th") for row in table.all("tr")]
        widths = {sum(int(cell.attributes.get("colspan", 1)) for cell in row) for row in rows}
        assert len(widths) == 1, "rows of different widths"
    for figure in page.all("figure"):
        (picture,) = figure.all("svg")
        assert picture.attributes["role"] == "img"
        assert len(picture.attributes["aria-label"]) > 20
        assert figure.all("figcaption")[0].text
    for details in page.all("details"):
        assert details.children[0].tag == "summary"
    for landmark in page.all("section", "nav"):
        assert {"aria-label", "aria-labelledby"} & set(landmark.attributes)
