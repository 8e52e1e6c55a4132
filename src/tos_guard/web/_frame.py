"""What the pages have in common: one self-contained document each, without scripts, that reads in light, in dark and on paper.

State is said by a sign and a word, never by colour alone. Nothing is fetched: the policy sent with each page allows its own style and
nothing else, and no other site may show it in a frame.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Final, Literal

from tos_guard.web._html import Html, el, join

__all__ = ["PAGE_HEADERS", "Frame", "chip", "day", "facts", "notice", "page", "table", "time"]

State = Literal["good", "wait", "bad", "none"]

_STYLE: Final = Path(__file__).with_name("pages.css").read_text(encoding="utf-8")
_STYLE_DIGEST: Final = base64.b64encode(hashlib.sha256(_STYLE.encode("utf-8")).digest()).decode("ascii")

PAGE_HEADERS: Final = (
    (
        b"content-security-policy",
        (
            f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; img-src data:; form-action 'self'; base-uri 'none'; "
            "frame-ancestors 'none'"
        ).encode("ascii"),
    ),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"vary", b"accept, authorization, cookie"),
)
"""Header fields of every page."""

_ROUND: Final = "M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1Z"
_SIGNS: Final[dict[State, str]] = {
    "good": f"{_ROUND}M4.9 8.3l2.2 2.2L11.2 6",
    "wait": "M8 1.8 15 14H1ZM8 6.3v3.4M8 11.9v.1",
    "bad": f"{_ROUND}M5.6 5.6l4.8 4.8M10.4 5.6l-4.8 4.8",
    "none": f"{_ROUND}M8 4.4V8l2.4 1.5",
}
"""A tick, a warning, a cross, a clock."""

_MONTHS: Final = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December")
_NAVIGATION: Final = (
    ("", "Overview"),
    ("terms", "Terms"),
    ("standing", "Standing"),
    ("rights", "Rights"),
    ("usage", "Usage"),
    ("receipts", "Receipts"),
)


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around the content of a page.

    Attributes:
        here: Path of the account routes, with what the app is mounted under.
        site: Whose pages they are.
        account: Whose account it is, or None where nobody knows.
        twin: Path of the same as JSON, or None.
    """

    here: str
    site: str
    account: str | None = None
    twin: str | None = None


def page(frame: Frame, title: str, *contents: Html | None, current: str | None = None) -> bytes:
    """A whole page.

    Args:
        frame: What stands around it.
        title: Its heading.
        contents: What stands below.
        current: The entry of the navigation that it belongs to.
    """
    links = (
        el("li", el("a", words, href=f"{frame.here}/{path}" if path else frame.here, aria_current="page" if path == current else None))
        for path, words in _NAVIGATION
    )
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="robots", content="noindex"),
        el("title", f"{title} · {frame.site}"),
        el("link", rel="icon", href="data:,"),
        el("style", Html(_STYLE)),
    )
    who = el("p", "Account ", el("b", frame.account), class_="who") if frame.account is not None else None
    bar = el("div", el("p", frame.site, class_="site"), who, class_="bar")
    navigation = el("nav", el("ul", *links), aria_label="Account") if frame.account is not None else None
    header = el("header", el("div", bar, navigation, class_="in"))
    twin = el("p", el("a", "The same as JSON", href=frame.twin)) if frame.twin is not None else None
    footer = el("footer", el("p", "All times are UTC."), twin)
    body = el(
        "body",
        el("a", "Skip to content", href="#main", class_="skip"),
        header,
        el("div", el("main", el("h1", title), *contents, id="main"), footer, class_="in"),
    )
    return f"<!doctype html>\n{el('html', head, body, lang='en')}\n".encode("utf-8", "replace")


def _sign(state: State, size: str) -> Html:
    return el("svg", el("path", d=_SIGNS[state]), width=size, height=size, viewBox="0 0 16 16", aria_hidden="true", focusable="false")


def chip(state: State, words: str) -> Html:
    """A state, as a sign and words."""
    return el("span", _sign(state, "14"), words, class_=f"chip {state}")


def notice(state: State, *paragraphs: Html | str) -> Html:
    """What one should not overlook."""
    said = (el("p", paragraph) for paragraph in paragraphs)
    return el("div", _sign(state, "20"), el("div", *said), class_=f"note {state}", role="status")


def facts(*rows: tuple[str, Html | str | None]) -> Html:
    """Names and values; those without a value are left out."""
    return el("dl", *(join((el("dt", name), el("dd", value))) for name, value in rows if value))


def table(headings: tuple[str, ...], rows: list[tuple[Html | str, ...]], *, caption: str) -> Html:
    """A table whose first column names the rows; on a narrow screen each row is a block."""
    head = el("thead", el("tr", *(el("th", heading, scope="col") for heading in headings)))

    def row(cells: tuple[Html | str, ...]) -> Html:
        others = (el("td", cell, data_label=heading) for heading, cell in zip(headings[1:], cells[1:], strict=True))
        return el("tr", el("th", cells[0], scope="row"), *others)

    return el("table", head, el("tbody", *map(row, rows)), aria_label=caption)


def day(text: str) -> str:
    """A day of a document as people write it."""
    at = date.fromisoformat(text[:10])
    return f"{at.day} {_MONTHS[at.month - 1]} {at.year}"


def time(text: str | None) -> Html | None:
    """A moment of a document as people write it, or None."""
    if text is None:
        return None
    at = datetime.fromisoformat(text)
    return el("time", f"{day(text)}, {at:%H:%M}", datetime=text)
