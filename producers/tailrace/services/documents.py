"""Documents -> text -> chunks. Pure.

Text is UTF-8. Markdown stays as it is; HTML becomes text whose headings are written the Markdown
way, so that one rule finds the headings of all of them.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import PurePath
from types import MappingProxyType
from typing import NamedTuple

from tailrace.services.errors import DocumentError

__all__ = ["CHUNK_CHARS", "SUPPORTED", "Chunk", "chunk", "clean", "extract", "is_supported"]

CHUNK_CHARS = 1200
"""Longest chunk: some 200 words, about one screenful to quote."""

_HEADING_CHARS = 200
_BLANK_LINES = re.compile(r"\n{3,}")
_SPACES = re.compile(r"\s+")
_MARK = re.compile(r"^ {0,3}(?:(?P<fence>```|~~~)|#{1,6}[ \t]+(?P<title>.*))", re.MULTILINE)
_SEPARATORS = ("\n\n", "\n", ". ", " ")
"""Where a chunk may end, best first."""


class Chunk(NamedTuple):
    """A piece of a document, as it is indexed and quoted."""

    text: str
    heading: str
    """The nearest heading at or above its first character, at most 200 characters; may be empty."""


class _Heading(NamedTuple):
    start: int
    title: str


class _TextOfHtml(HTMLParser):
    """Collects the text of a page: blocks apart, scripts and styles dropped."""

    _SILENT = frozenset({"script", "style"})
    _BREAKS = frozenset({"br", "tr", "dt", "dd"})
    _CELLS = frozenset({"td", "th"})
    _HEADINGS = MappingProxyType({"title": 1, "h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6})
    _BLOCKS = frozenset(
        "address article aside blockquote body div dl fieldset figure footer form header hr main"  # noqa: SIM905 - the formatter would give each name a line
        " nav ol p pre section table ul".split(),
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._silent: str | None = None
        self._verbatim = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - the base class names it
        if tag in self._SILENT:
            self._silent = tag
        elif tag == "pre":
            self._verbatim = True
        self._append(self._opening(tag))

    def handle_endtag(self, tag: str) -> None:
        if tag == self._silent:
            self._silent = None
        elif tag == "pre":
            self._verbatim = False
        if tag in self._BLOCKS or tag in self._HEADINGS:
            self._append("\n\n")

    def handle_data(self, data: str) -> None:
        if self._silent is None:
            self._append(data if self._verbatim else _SPACES.sub(" ", data))

    # The page is fed in one piece: a construct without its end takes up the rest of the page, as it
    # does in WHATWG HTML §13.2.5. The library would look at that rest again, as text, for each one:
    # 8 MB of "<!--" never came to an end.

    def parse_starttag(self, i: int) -> int:
        return self._or_rest(super().parse_starttag(i))

    def parse_endtag(self, i: int) -> int:
        return self._or_rest(super().parse_endtag(i))

    def parse_comment(self, i: int, report: bool = True) -> int:  # noqa: ARG002, FBT001, FBT002 - the base class has it so
        return self._past("-->", i + len("<!"))

    def parse_html_declaration(self, i: int) -> int:
        return self._past(">", i)

    def parse_pi(self, i: int) -> int:
        return self._past(">", i)

    def _past(self, mark: str, start: int) -> int:
        found = self.rawdata.find(mark, start)
        return self._or_rest(found if found < 0 else found + len(mark))

    def _or_rest(self, end: int) -> int:
        return len(self.rawdata) if end < 0 else end

    def _append(self, text: str) -> None:
        if not self._verbatim and (not self.parts or self.parts[-1].endswith((" ", "\n"))):
            text = text.lstrip(" ")
        if text:
            self.parts.append(text)

    def _opening(self, tag: str) -> str:
        if tag in self._HEADINGS:
            return f"\n\n{'#' * self._HEADINGS[tag]} "
        if tag in self._BLOCKS:
            return "\n\n"
        if tag == "li":
            return "\n- "
        if tag in self._CELLS:
            return " "
        return "\n" if tag in self._BREAKS else ""


def _text_of_html(page: str) -> str:
    parser = _TextOfHtml()
    try:
        parser.feed(page)
        parser.close()
    except ValueError as exc:  # a character reference of thousands of digits
        raise DocumentError("the page cannot be read as HTML") from exc
    return "".join(parser.parts)


def _as_is(text: str) -> str:
    return text


_FORMATS: dict[str, Callable[[str], str]] = {
    ".txt": _as_is,
    ".text": _as_is,
    ".md": _as_is,
    ".markdown": _as_is,
    ".html": _text_of_html,
    ".htm": _text_of_html,
}

SUPPORTED = " ".join(_FORMATS)
"""The endings of file names that can be ingested, for people to read."""


def is_supported(name: str) -> bool:
    """Tell whether a file of this name can be ingested, whatever the case of its ending."""
    return PurePath(name).suffix.lower() in _FORMATS


def extract(name: str, data: bytes) -> str:
    """Return the text of a file.

    Args:
        name: The file's name; its ending, one of `SUPPORTED`, says how to read it.
        data: All of its bytes, in UTF-8, with or without a byte order mark.

    Raises:
        DocumentError: It is binary, is not UTF-8, or holds no text.
    """
    to_text = _FORMATS[PurePath(name).suffix.lower()]
    if b"\0" in data:
        raise DocumentError(f"{name} is a binary file: it holds NUL bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise DocumentError(f"{name} is not UTF-8 text: byte {exc.start} is invalid") from exc
    return clean(to_text(text))


def clean(text: str) -> str:
    r"""Return `text` with ``\n`` for line ends, no space before them and no row of blank lines.

    Raises:
        DocumentError: It holds NUL characters, or no text.
    """
    if "\0" in text:
        raise DocumentError("the text holds NUL characters")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    tidy = _BLANK_LINES.sub("\n\n", "\n".join(map(str.rstrip, lines))).strip()
    if not tidy:
        raise DocumentError("the document holds no text")
    return tidy


def chunk(text: str, max_chars: int = CHUNK_CHARS) -> list[Chunk]:
    """Cut `text` into chunks of 1 … `max_chars` characters; joined, they give it back.

    A chunk ends before the next heading; one that grows too long before it ends after a paragraph,
    else a line, a sentence, a word, else anywhere. Only the last one is shorter than a quarter of
    `max_chars`.
    """
    headings = _headings(text)
    starts = [heading.start for heading in headings]
    chunks: list[Chunk] = []
    start = 0
    while start < len(text):
        end = _border(text, start, max_chars, starts)
        above = bisect_right(starts, start)
        chunks.append(Chunk(text[start:end], headings[above - 1].title if above else ""))
        start = end
    return chunks


def _border(text: str, start: int, max_chars: int, headings: list[int]) -> int:
    """Return where the chunk that begins at `start` ends."""
    earliest, latest = start + max(1, max_chars // 4), start + max_chars
    following = bisect_left(headings, earliest)
    if following < len(headings) and headings[following] <= latest:
        return headings[following]
    if latest >= len(text):
        return len(text)
    for separator in _SEPARATORS:
        found = text.rfind(separator, earliest, latest)
        if found >= 0:
            return found + len(separator)
    return latest


def _headings(text: str) -> list[_Heading]:
    """Return the headings in order; lines inside fenced code are none."""
    found: list[_Heading] = []
    fence: str | None = None
    for mark in _MARK.finditer(text):
        opens = mark["fence"]
        if opens is not None:
            fence = None if fence == opens else fence or opens
        elif fence is None:
            title = mark["title"].strip().rstrip("#").rstrip()
            found.append(_Heading(mark.start(), title[:_HEADING_CHARS]))
    return found
