"""Whatever stands in a page, it cannot break out of its place."""

from __future__ import annotations

import time
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tos_guard.web._html import Html, el, join, prose

NASTY = "<script>alert(1)</script>\"'&<!--</p>"


class Tags(HTMLParser):
    """The elements of a piece of HTML, and whether they are nested."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


def parsed(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    tags.close()
    assert tags.open == []
    return tags


def test_text_is_escaped_and_html_is_not() -> None:
    assert el("p", NASTY, Html("<b>x</b>"), None) == f"<p>{join((NASTY,))}<b>x</b></p>"
    assert parsed(el("p", NASTY)).seen == {"p"}
    assert parsed(el("p", NASTY)).text == NASTY


def test_attributes_are_escaped() -> None:
    html = el("input", name=NASTY, for_="a", aria_label='"', required=True, disabled=False, id=None)
    assert html.count("<") == 1
    assert "required" in html
    assert "disabled" not in html
    assert " for=" in html


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("# One\ntwo", "<h2>One</h2><p>two</p>"),
        ("###### Deep ##", "<h6>Deep</h6>"),
        ("a\nb\n\nc", "<p>a\nb</p><p>c</p>"),
        ("1. one\n   more\n2. two", '<ol start="1"><li>one\n   more</li><li>two</li></ol>'),
        ("3) three", '<ol start="3"><li>three</li></ol>'),
        ("- a\n* b", "<ul><li>a</li><li>b</li></ul>"),
        ("intro\n- a", "<p>intro</p><ul><li>a</li></ul>"),
        ("**Use.** it *well* with `x*y`", "<p><strong>Use.</strong> it <em>well</em> with <code>x*y</code></p>"),
        ("2 * 3 * 4 ** 5", "<p>2 * 3 * 4 ** 5</p>"),
        ("[here](javascript:alert(1)) <b>", "<p>[here](javascript:alert(1)) &lt;b&gt;</p>"),
        ("", ""),
    ],
)
def test_terms_are_shown_with_their_headings_and_lists(text: str, html: str) -> None:
    assert prose(text, level=2) == html


@given(st.text(alphabet="#*-`1.) \n<>&\"'ab[]()", max_size=200))
def test_no_text_makes_other_elements_than_prose_has(text: str) -> None:
    """Tags stay nested, and every character that is no mark is still there."""
    tags = parsed(prose(text, level=2))
    assert tags.seen <= {"h1", "h2", "h3", "h4", "h5", "h6", "p", "ul", "ol", "li", "strong", "em", "code"}
    assert [c for c in tags.text if c in "<>&\"'ab"] == [c for c in text if c in "<>&\"'ab"]


@pytest.mark.parametrize("unit", ["**", "*a ", "`", "# ", "<", "* *", "**a", "- ", "1. "])
def test_a_text_of_a_mebibyte_of_marks_takes_no_time(unit: str) -> None:
    text = unit * (1_048_576 // len(unit))
    began = time.process_time()
    prose(text, level=2)
    assert time.process_time() - began < 5
