"""What an HTML page must have to be valid, whole in one file, and usable by keyboard and screen reader."""

import re
from itertools import pairwise
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

LOADS = {"src", "srcset", "poster", "data", "action", "formaction", "background", "cite", "manifest", "ping"}
HEADINGS = ("h1", "h2", "h3", "h4")


def read(text: str) -> Element:
    """The page as a tree. Fails where a tag is not closed in its place, or has an attribute twice."""
    doctype, _, html = text.partition("\n")
    assert doctype == "<!doctype html>"
    return ElementTree.fromstring(re.sub("(<meta[^>]*)>", r"\1/>", html))


def all_of(page: Element, *tags: str) -> list[Element]:
    """Itself and the elements below it that have one of these tags, in the page's order."""
    return [element for element in page.iter() if element.tag in tags]


def words(element: Element) -> str:
    """All text in it, with single blanks."""
    return " ".join(" ".join(element.itertext()).split())


def check_whole(page: Element, text: str) -> None:
    """It loads nothing: every reference leads into the page itself."""
    ids = [element.attrib["id"] for element in page.iter() if "id" in element.attrib]
    assert len(ids) == len(set(ids)), "an id stands twice"
    for element in page.iter():
        assert element.tag not in ("script", "link", "iframe", "object", "embed", "base", "img"), element.tag
        assert not LOADS & set(element.attrib), element
        assert not any(name.startswith("on") for name in element.attrib), element
        to = element.get("href")
        assert to is None or (to.startswith("#") and to[1:] in ids), f"{to} leads nowhere"
        for name in ("aria-labelledby", "aria-describedby"):
            assert set(element.get(name, "").split()) <= set(ids)
        for value in element.attrib.values():
            assert "url(" not in value or value.split("url(#")[1].split(")")[0] in ids
    style = "".join(map(words, page.iter("style")))
    assert not [word for word in ("url(", "@import", "http:") if word in style]
    assert "default-src 'none'" in text


def check_usable(page: Element) -> None:
    """The part of axe's rules that can be read off the page."""
    assert (page.tag, page.get("lang")) == ("html", "en")
    assert words(next(page.iter("title")))
    assert "width=device-width" in str([element.attrib for element in page.iter("meta")])
    (main,) = page.iter("main")
    assert next(page.iter("a")).get("href") == f"#{main.get('id')}", "the first link skips to the content"
    levels = [int(heading.tag[1]) for heading in all_of(page, *HEADINGS)]
    assert (levels[0], levels.count(1)) == (1, 1)
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    assert all(map(words, all_of(page, *HEADINGS, "a", "summary", "button", "th", "caption")))
    for box in page.findall(".//table/.."):
        assert (box.get("class"), box.get("tabindex")) == ("wide", "0"), "it scrolls, by keyboard too"
        assert box.get("aria-label")
        (table,) = box
        assert table[0].tag == "caption"
        heads = list(table.iter("th"))
        assert heads
        assert all("scope" in cell.attrib for cell in heads)
        rows = [all_of(row, "td", "th") for row in table.iter("tr")]
        assert len({sum(int(cell.get("colspan", 1)) for cell in row) for row in rows}) == 1, "rows of different widths"
    for figure in page.iter("figure"):
        (picture,) = figure.iter("svg")
        assert picture.get("role") == "img"
        assert len(picture.get("aria-label", "")) > 20
        assert words(next(figure.iter("figcaption")))
    assert all(details[0].tag == "summary" for details in page.iter("details"))
    for landmark in all_of(page, "section", "nav"):
        assert {"aria-label", "aria-labelledby"} & set(landmark.attrib)
