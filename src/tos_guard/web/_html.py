"""HTML that cannot be broken by what stands in it: whatever is not an `Html` is text, and is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from html import escape
from itertools import chain, groupby
from typing import Final

__all__ = ["Html", "el", "join", "prose"]

_VOID: Final = frozenset({"input", "link", "meta"})
_HEADING: Final = re.compile(r"(#{1,6})\s+(.*)$")
_BULLET: Final = re.compile(r"[-*+]\s+(.*)$")
_NUMBER: Final = re.compile(r"(\d{1,9})[.)]\s+(.*)$")
_STRONG: Final = re.compile(r"\*\*(?=\S)([^<]{1,500}?)(?<=\S)\*\*")  # bounded: a line of stars takes no time
_CODE: Final = re.compile(r"`([^`<]{1,200})`")
_EMPHASIS: Final = re.compile(r"\*(?=\S)([^*<]{1,500})(?<=\S)\*")  # within one element, so that tags stay nested


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = Html | str | None


def _escaped(content: Content) -> str:
    if content is None:
        return ""
    return content if isinstance(content, Html) else escape(content)


def join(contents: Iterable[Content]) -> Html:
    """One after the other."""
    return Html("".join(map(_escaped, contents)))


def el(tag: str, /, *contents: Content, **attributes: str | bool | None) -> Html:
    """An element.

    Args:
        tag: Its name.
        contents: What stands in it; None for nothing.
        attributes: Its attributes: ``class_`` for class, ``aria_label`` for aria-label; True stands for one without a value, None and False
            for none.
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{tag}{written}>" if tag in _VOID else f"<{tag}{written}>{join(contents)}</{tag}>")


@lru_cache(maxsize=64)
def prose(text: str, *, level: int) -> Html:
    """The text of terms for people to read: headings, lists and paragraphs of Markdown. What is more than that stands as it is written.

    Args:
        text: Markdown.
        level: Of its uppermost heading, 1 to 6.
    """
    return join(_blocks(text.splitlines(), level))


def _blocks(lines: Iterable[str], level: int) -> Iterator[Html]:
    """Headings stand alone; other lines go together until an empty one."""
    for is_empty, group in groupby(_separated(lines), key=lambda line: not line.strip()):
        if not is_empty:
            yield from _block(list(group), level)


def _separated(lines: Iterable[str]) -> Iterator[str]:
    """With an empty line around each heading."""
    return chain.from_iterable(("", line, "") if _HEADING.match(line) else (line,) for line in lines)


def _block(lines: list[str], level: int) -> Iterator[Html]:
    if (heading := _HEADING.match(lines[0])) is not None:
        yield el(f"h{min(level + len(heading[1]) - 1, 6)}", _inline(heading[2].rstrip("# ")))
        return
    paragraph: list[str] = []
    items: list[tuple[str, list[str]]] = []
    for line in lines:
        found = _BULLET.match(line) or _NUMBER.match(line)
        if found is not None:
            items.append((found[1] if found.re is _NUMBER else "", [found[found.re.groups]]))
        elif items:
            items[-1][1].append(line)
        else:
            paragraph.append(line)
    if paragraph:
        yield el("p", _inline("\n".join(paragraph)))
    for is_numbered, group in groupby(items, key=lambda item: bool(item[0])):
        listed = list(group)
        start = listed[0][0] if is_numbered else None
        entries = (el("li", _inline("\n".join(words))) for _, words in listed)
        yield el("ol", *entries, start=start) if is_numbered else el("ul", *entries)


def _inline(text: str) -> Html:
    """Strong and emphasized words, and code. No links: a reader should see where an address leads."""
    marked = _STRONG.sub(r"<strong>\1</strong>", _CODE.sub(r"<code>\1</code>", escape(text)))
    return Html(_EMPHASIS.sub(r"<em>\1</em>", marked))
