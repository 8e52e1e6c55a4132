"""The account pages in a real browser: they load, read, fit and work, by keyboard alone, and whatever stands in them stays text.

Without Chromium these tests are skipped, which under CI is a failure. The screenshots of a run are in pytest's folder for temporary files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from browser import Browser, Tab, chromium, open_browser
from desk import ISSUER, JANE, Desk, contract, terms
from serving import Serve
from tos_guard.guard import AsyncGuard, Meter, RequestView
from tos_guard.limits import Calendar, Dimension, Limit, Quantity, Sliding
from tos_guard.rights import Grant, Measure
from tos_guard.stores import MemoryLimits
from tos_guard.testing import FixedClock
from tos_guard.types import Standing, SubjectKind
from tos_guard.web import AccountRoutes
from tos_guard.web.asgi import TosGuardMiddleware

PAGES = ("", "/terms", "/terms/2026-11", "/standing", "/rights", "/usage", "/receipts", "/nothing")
WIDTHS = {"desktop": 1_100, "phone": 390, "narrow": 320}
NASTY = "</p><script>window.hit=1</script><img src=x onerror=window.hit=1><svg onload=window.hit=1>\"'&"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium, or a test that says loudly that it did not run."""
    program = chromium()
    if program is None:
        reason = "chromium is absent: the account pages were NOT checked in a browser. apt-get install chromium"
        if os.environ.get("CI", "").lower() in {"1", "true", "yes"}:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with open_browser(program, tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def tab(browser: Browser) -> Tab:
    return browser.tab()


def who(view: RequestView) -> tuple[str | None, str | None]:
    """A host that knows its people by a cookie: ``account:person``."""
    account, _, person = (view.header("cookie") or "").removeprefix("who=").partition(":")
    return account or None, person or None


def desk(**more: Any) -> Desk:
    """A provider with limits, a contract, and people who sign in."""
    clock = FixedClock()
    limits = (
        Limit(id="requests-per-minute", quantity=Quantity.REQUESTS, amount=60, per=(Dimension.ACCOUNT,), window=Sliding(60)),
        Limit(id="spend", quantity=Quantity.COST, amount=5_000_000, per=(Dimension.ACCOUNT,), window=Calendar("month", "Europe/Berlin")),
        Limit(id="slots", quantity=Quantity.CONCURRENCY, amount=4, per=(Dimension.ACCOUNT,), window=None),
    )
    overrides = {
        "meter": Meter(limits),
        "limits": MemoryLimits(clock=clock),
        "identify": lambda view: who(view)[0],
        "acceptor": lambda view, account: who(view)[1],
    }
    return Desk(clock=clock, overrides=overrides, published=(contract(),), **more)


def warning(made: Desk, measure_id: str, words: str = "prompts that only vary one word") -> Measure:
    """A measure with all that a page may show."""
    return Measure(
        id=measure_id,
        step=Standing.WARNED,
        reason=words,
        notice=words,
        clauses=("no-competing-model",),
        begins=made.clock(),
        requires="contact",
        deadline=made.clock() + timedelta(days=7),
        then=Standing.SUSPENDED,
        expires=made.clock() + timedelta(days=30),
    )


def guarded(made: Desk) -> TosGuardMiddleware:
    guard = AsyncGuard(made.given, **made.parts)
    return TosGuardMiddleware(FastAPI(), guard=guard, routes=[AccountRoutes(guard)])


def focused(tab: Tab) -> str:
    return str(tab.says("document.activeElement.name || document.activeElement.textContent"))


def go_to(tab: Tab, name: str) -> None:
    """Tab on until a field or button has the focus."""
    for _ in range(60):
        if focused(tab) == name:
            return
        tab.press("Tab")
    raise AssertionError(f"{name} cannot be reached by keyboard")


def test_pages_load_fit_and_fetch_nothing(tab: Tab, serve: Serve, tmp_path: Path) -> None:
    """At three widths, in light and dark: no complaint of the browser, nothing fetched, nothing wider than the screen."""
    made = desk()
    made.store.add_grant("acme", Grant(id="res-1", type="research", purposes=frozenset({"benchmark"}), reason="a paper"))
    made.guard.run(made.guard.record_acceptance(SubjectKind.ORGANIZATION, "acme-corp", "2026-11", accepted_by=JANE.id))
    made.store.take_measure("acme", warning(made, "answered"))
    made.store.take_measure("acme", warning(made, "new"))
    appeal = made.store.file_appeal("acme", "answered", "It was a benchmark.\n\nSee the paper.", actor=JANE.id)
    made.store.decide_appeal(appeal.id, upheld=False, answer="Which paper?")
    with serve(guarded(made)) as base_url:
        tab.cookie(base_url, "who", f"acme:{JANE.id}")
        for name, width in WIDTHS.items():
            for dark in (False, True):
                tab.look(width=width, dark=dark)
                for page in PAGES:
                    tab.open(f"{base_url}/account{page}")
                    said = tab.complaints()
                    assert [text for text in said if "404" not in text] == []
                    assert len(said) == (1 if page == "/nothing" else 0)
                    assert tab.requests() == [f"{base_url}/account{page}"]
                    wide = tab.says("document.documentElement.scrollWidth")
                    assert wide <= width, f"{page} is {wide} wide at {width}"
                    back = tab.says("getComputedStyle(document.body).backgroundColor")
                    assert (back == "rgb(245, 246, 248)") is not dark
                    shot = tmp_path / f"{name}-{'dark' if dark else 'light'}{page.replace('/', '-')}.png"
                    assert tab.screenshot(shot).startswith(b"\x89PNG")


def test_a_person_accepts_with_the_keyboard_alone(tab: Tab, serve: Serve, tmp_path: Path) -> None:
    """And without scripts: tick, button, receipt. The form does not go without the tick."""
    made = desk()
    with serve(guarded(made)) as base_url:
        tab.cookie(base_url, "who", f"acme:{JANE.id}")
        tab.call("Emulation.setScriptExecutionDisabled", value=True)
        tab.look(width=1_100)
        tab.open(f"{base_url}/account/terms")
        assert tab.says("document.querySelectorAll('form').length") == 2
        go_to(tab, "Accept")
        tab.press("Enter")
        assert made.store.acceptances(SubjectKind.ORGANIZATION, "acme-corp") == ()
        assert focused(tab) == "agree", "the browser leads to what is missing"
        tab.press(" ")
        go_to(tab, "Accept")
        tab.press("Enter", loads=True)
        assert tab.says("document.querySelector('h1').textContent") == "Accepted"
        tab.screenshot(tmp_path / "accepted.png")
        (acceptance,) = made.store.acceptances(SubjectKind.ORGANIZATION, "acme-corp")
        assert (acceptance.accepted_by, acceptance.identified_by, acceptance.version) == (JANE.id, "host", "2026-11")
        go_to(tab, "Back to the terms")
        tab.press("Enter", loads=True)
        chips = tab.says("[...document.querySelectorAll('.chip')].map(chip => chip.textContent)")
        assert chips == ["Accepted", "To be accepted"]


def test_a_person_gives_a_name_and_takes_the_acceptance_back(tab: Tab, serve: Serve) -> None:
    made = desk()
    with serve(guarded(made)) as base_url:
        tab.cookie(base_url, "who", "solo")
        tab.look(width=390)
        tab.open(f"{base_url}/account/terms")
        go_to(tab, "accepted_by")
        tab.write("Sam Solo")
        tab.press("Tab")
        tab.press(" ")
        tab.press("Tab")
        tab.press("Enter", loads=True)
        (acceptance,) = made.store.acceptances(SubjectKind.ACCOUNT, "solo")
        assert acceptance.accepted_by == "Sam Solo"
        tab.open(f"{base_url}/account/terms")
        go_to(tab, "Take the acceptance of version 2026-11 back")
        tab.press("Enter")
        go_to(tab, "withdrawn_by")
        tab.write("Sam Solo")
        go_to(tab, "agree")
        tab.press(" ")
        tab.press("Tab")
        tab.press("Enter", loads=True)
        assert tab.says("document.querySelector('h1').textContent") == "Taken back"
        kept = made.store.acceptance(acceptance.id)
        assert kept is not None
        assert kept.withdrawal is not None


def test_what_stands_in_a_page_runs_nowhere(tab: Tab, serve: Serve) -> None:
    """Names, reasons and texts of others, on every page."""
    made = desk(
        general=terms("2026-11", title=NASTY.replace('"', "'"), text=f"# {NASTY}\n- {NASTY}\n"),
        settings={"appeal_url": f"{ISSUER}/?{NASTY}"},
    )
    grant = Grant(id="x", type="research", models=frozenset({NASTY[:120]}), reason=NASTY)
    made.store.add_grant("solo", grant)
    made.guard.run(made.guard.record_acceptance(SubjectKind.ACCOUNT, "solo", "2026-11", accepted_by=NASTY[:128]))
    made.store.set_standing("solo", Standing.SUSPENDED, NASTY)
    made.store.take_measure("solo", warning(made, "m-1", NASTY))
    appeal = made.store.file_appeal("solo", "m-1", NASTY, actor=NASTY[:128])
    made.store.decide_appeal(appeal.id, upheld=False, answer=NASTY)
    with serve(guarded(made)) as base_url:
        tab.cookie(base_url, "who", "solo")
        tab.look(width=1_100)
        for page in (*PAGES[:-1], "/%3Cscript%3Ewindow.hit=1%3C/script%3E"):
            tab.open(f"{base_url}/account{page}")
            assert tab.says("[window.hit, document.scripts.length, document.images.length]") == [None, 0, 0]
            assert [text for text in tab.complaints() if "404" not in text] == []


def test_on_paper_there_are_the_texts_and_no_controls(tab: Tab, serve: Serve) -> None:
    made = desk(general=terms("2026-11", text="\n\n".join(f"{n}. Clause {n}." for n in range(200))))
    with serve(guarded(made)) as base_url:
        tab.cookie(base_url, "who", f"acme:{JANE.id}")
        tab.look(width=1_100, media="print")
        tab.open(f"{base_url}/account/terms")
        assert tab.says("getComputedStyle(document.querySelector('nav')).display") == "none"
        assert tab.says("getComputedStyle(document.querySelector('form')).display") == "none"
        assert tab.says("(text => text.scrollHeight <= text.clientHeight)(document.querySelector('details[open] .text'))") is True
    made = desk()
    made.guard.run(made.guard.record_acceptance(SubjectKind.ACCOUNT, "solo", "2026-11", accepted_by="Sam"))
    with serve(guarded(made)) as base_url:
        tab.cookie(base_url, "who", "solo")
        tab.open(f"{base_url}/account/terms")
        assert tab.says("document.querySelectorAll('details[open]').length") == 0
        assert tab.says("document.querySelector('details .text').checkVisibility({contentVisibilityAuto: true})") is True


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(scheme: str, root: Path) -> None:
    """WCAG 2.2 AA: 4.5 to 1, for each colour of words on each ground that they stand on."""
    style = (root / "src" / "tos_guard" / "web" / "pages.css").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6});", light if scheme == "light" else dark))
    pairs = [(ink, ground) for ink in ("ink", "soft", "link") for ground in ("paper", "back")]
    pairs += [(state, f"{state}-back") for state in ("good", "wait", "bad", "none")] + [("ink", "none-back"), ("on-link", "link")]
    for ink, ground in pairs:
        assert contrast(colours[ink], colours[ground]) >= 4.5, (scheme, ink, ground)


def contrast(one: str, other: str) -> float:
    lights = sorted((luminance(one), luminance(other)), reverse=True)
    return (lights[0] + 0.05) / (lights[1] + 0.05)


def luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    parts = [int(digit * 2, 16) for digit in digits] if len(digits) == 3 else [int(digits[n : n + 2], 16) for n in (0, 2, 4)]
    linear = [part / 255 / 12.92 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
