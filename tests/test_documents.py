import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.services.documents import (
    CHUNK_CHARS,
    Chunk,
    chunk,
    clean,
    extract,
    is_supported,
)
from tailrace.services.errors import DocumentError


def html(page: str) -> str:
    return extract("page.html", page.encode())


@pytest.mark.parametrize("name", ["a.txt", "a.text", "a.md", "A.MARKDOWN", "a.html", "a.HTM"])
def test_text_markdown_and_html_are_supported(name: str) -> None:
    assert is_supported(name)


@pytest.mark.parametrize("name", ["a.pdf", "a", ".md", "md", "a.md.zip", ""])
def test_other_names_are_not_supported(name: str) -> None:
    assert not is_supported(name)


def test_markdown_is_kept_as_text() -> None:
    assert extract("a.md", b"# One\n\n*two* `three`\n") == "# One\n\n*two* `three`"


def test_byte_order_mark_is_dropped() -> None:
    assert extract("a.txt", b"\xef\xbb\xbftext") == "text"


def test_nul_bytes_are_refused_as_binary() -> None:
    with pytest.raises(DocumentError, match=r"^a\.md is a binary file: it holds NUL bytes$"):
        extract("a.md", b"PK\x03\x04\x00\x00")


def test_bytes_that_are_not_utf8_are_refused_with_their_place() -> None:
    with pytest.raises(DocumentError, match=r"^a\.txt is not UTF-8 text: byte 3 is invalid$"):
        extract("a.txt", b"caf\xe9")


@pytest.mark.parametrize("data", [b"", b" \r\n\t\n", b"\xef\xbb\xbf"])
def test_document_without_text_is_refused(data: bytes) -> None:
    with pytest.raises(DocumentError, match="holds no text"):
        extract("a.txt", data)


def test_page_of_scripts_only_is_refused() -> None:
    with pytest.raises(DocumentError, match="holds no text"):
        html("<script>let a = '<p>not text</p>'</script><style>p { color: red }</style>")


def test_clean_refuses_nul_characters() -> None:
    with pytest.raises(DocumentError, match="NUL"):
        clean("a\0b")


def test_clean_unifies_line_ends_and_blank_lines() -> None:
    assert clean("\r\n a  \r\rb\r\n \n\t\n\nc\n\n") == "a\n\nb\n\nc"


def test_html_scripts_and_styles_are_dropped() -> None:
    page = "<p>one<script>two()</script> <style>p{}</style>three</p>"
    assert html(page) == "one three"


def test_html_text_after_a_stray_script_end_is_kept() -> None:
    assert html("</script><p>text</p>") == "text"


def test_html_headings_are_written_the_markdown_way() -> None:
    page = "<head><title>A page</title></head><h1>One</h1>a<h3>Two</h3><p>b"
    assert html(page) == "# A page\n\n# One\n\na\n\n### Two\n\nb"


def test_html_blocks_lists_and_cells_stay_apart() -> None:
    page = "<div>a</div><div>b<br>c</div><ul><li>d<li>e</ul><tr><td>f<td>g"
    assert html(page) == "a\n\nb\nc\n\n- d\n- e\n\nf g"


def test_html_white_space_collapses_except_in_pre() -> None:
    assert html("<p>a\n   b</p><pre>c\n   d</pre>") == "a b\n\nc\n   d"


def test_html_references_become_characters() -> None:
    assert html("<p>a &amp; b &#8364; &lt;p&gt;</p>") == "a & b € <p>"


@pytest.mark.parametrize(
    "page",
    [
        "<p>text<!-- open",
        "<p>text<a href='",
        "<p>text</p",
        "<p>text<?x",
        "<p>text<!",
        "<!DOCTYPE html><p>text",
        "<![endif]><![unknown[ x ]]><?php x ?><!-- a > b --><!--><p>text",
        "<p>text<script>never closed",
    ],
)
def test_broken_html_keeps_the_text_before_the_break(page: str) -> None:
    assert html(page).startswith("text")


def test_short_text_is_one_chunk() -> None:
    assert chunk("one two") == [Chunk("one two", "")]


def test_empty_text_has_no_chunks() -> None:
    assert chunk("") == []


def test_chunk_ends_before_a_heading() -> None:
    text = "# One\nfirst section\n# Two\nsecond section"
    assert chunk(text, 60) == [
        Chunk("# One\nfirst section\n", "One"),
        Chunk("# Two\nsecond section", "Two"),
    ]


def test_tiny_sections_share_a_chunk() -> None:
    assert len(chunk("# A\nb\n# C\nd\n# E\nf", 100)) == 1


def test_long_section_keeps_its_heading_for_all_of_its_chunks() -> None:
    chunks = chunk("## Title ##\n" + "word " * 30, 50)
    assert len(chunks) > 2
    assert {piece.heading for piece in chunks} == {"Title"}


def test_heading_inside_fenced_code_steers_nothing() -> None:
    text = "intro, long enough\n```\n# a comment\n```\n"
    assert chunk(text, 60) == [Chunk(text, "")]


def test_heading_after_fenced_code_counts() -> None:
    text = "~~~\n# comment\n```\n# comment\n~~~\n# Title\ntext"
    assert chunk(text, 60)[-1] == Chunk("# Title\ntext", "Title")


def test_endless_heading_is_cut() -> None:
    assert len(chunk("# " + "x" * 1000)[0].heading) == 200


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("aaaa\n\nbb\ncc. dd ee", "aaaa\n\n"),
        ("aaaa\nbb cc. dd ee", "aaaa\n"),
        ("aaaa bb. cc dd ee", "aaaa bb. "),
        ("aaaa bb cc dd ee", "aaaa bb cc "),
        ("aaaabbccddeeff", "aaaabbccdde"),
    ],
)
def test_long_text_is_cut_at_the_best_border(text: str, first: str) -> None:
    assert chunk(text, 11)[0].text == first


_LINES = st.text(alphabet="ab #`~.\n\té€😀", max_size=400)


@given(text=st.one_of(_LINES, st.text(max_size=400)), max_chars=st.integers(1, 80))
def test_chunks_give_back_the_text_within_their_bounds(text: str, max_chars: int) -> None:
    chunks = chunk(text, max_chars)
    assert "".join(piece.text for piece in chunks) == text
    assert all(1 <= len(piece.text) <= max_chars for piece in chunks)
    assert all(len(piece.text) >= max_chars // 4 for piece in chunks[:-1])


@given(st.one_of(_LINES, st.text(alphabet="<>!-/&#x;ab='\"[? ", max_size=60)))
def test_any_page_gives_text_or_a_reason(page: str) -> None:
    try:
        text = html(page)
    except DocumentError:
        return
    assert text == text.strip()
    assert text


@pytest.mark.parametrize("piece", ["<!--", "<!--x>", "<a ", "<a x='", "</a", "<", "<![", "<?", "&"])
@pytest.mark.parametrize("start", ["text", "text<script>"])
@pytest.mark.parametrize("end", ["", " >"])
def test_hostile_page_is_read_in_linear_time(start: str, piece: str, end: str) -> None:
    # Quadratic work on these would run into the suite's time limit.
    assert html(start + piece * 300_000 + end).startswith("text")


def test_reference_of_thousands_of_digits_is_refused() -> None:
    with pytest.raises(DocumentError, match="cannot be read as HTML"):
        html("text &#" + "9" * 5000 + ";")


def test_a_million_spaces_and_lines_are_cleaned_in_linear_time() -> None:
    # Quadratic work on these would run into the suite's time limit.
    assert clean("a" + " " * 1_000_000 + "b" + "\n" * 1_000_000 + "c").endswith("b\n\nc")


def test_long_text_without_borders_is_cut_hard() -> None:
    assert [len(piece.text) for piece in chunk("x" * (2 * CHUNK_CHARS + 1))] == [1200, 1200, 1]
