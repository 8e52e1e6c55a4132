"""A form counts only from a page that this person had for this account, a while ago at most."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tos_guard.errors import DeniedError
from tos_guard.web._forms import MAX_AGE_SECONDS, check_form_token, form_token

KEY = b"k" * 32
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def accepted(token: str, *, key: bytes = KEY, account: str = "acme", person: str = "jane", later: float = 0) -> bool:
    try:
        check_form_token(token, key, account=account, person=person, now=NOW + timedelta(seconds=later))
    except DeniedError as error:
        return error.reason != "tos_form_refused"
    return True


def test_a_token_holds_for_its_person_account_and_time() -> None:
    token = form_token(KEY, account="acme", person="jane", now=NOW)
    assert accepted(token)
    assert accepted(token, later=MAX_AGE_SECONDS)
    assert accepted(token, later=-60), "the clocks of two workers differ"
    assert not accepted(token, later=MAX_AGE_SECONDS + 1)
    assert not accepted(token, later=-61)
    assert not accepted(token, account="solo")
    assert not accepted(token, person="bob")
    assert not accepted(token, key=b"x" * 32)
    assert not accepted(form_token(KEY, account="acmej", person="ane", now=NOW)), "where one name ends and the next begins is told"


@pytest.mark.parametrize("token", ["", ".", "1.", "x", "9" * 13 + "." + "A" * 43, "1." + "é" * 43, "1." + "A" * 44, "\ud800"])
def test_what_is_no_token_is_refused(token: str) -> None:
    assert not accepted(token)


def test_any_changed_character_is_refused() -> None:
    token = form_token(KEY, account="acme", person="", now=NOW)
    for place in range(len(token)):
        other = "1" if token[place] != "1" else "2"
        assert not accepted(token[:place] + other + token[place + 1 :], person="")
