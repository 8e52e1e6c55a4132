"""API keys and administrators' keys: their form, and that nothing tells why one was refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tos_guard.errors import AuthenticationError
from tos_guard.rights import ApiKey, hash_secret, new_admin_key, new_api_key, parse_admin_key, parse_api_key
from tos_guard.testing import SeededEntropy

KEY = new_api_key(SeededEntropy())
ADMIN_KEY = new_admin_key(SeededEntropy())


def test_a_key_reads_back() -> None:
    assert KEY.text == f"tg-{KEY.public_id}-{KEY.secret}"
    assert (len(KEY.public_id), len(KEY.secret)) == (12, 43)
    assert parse_api_key(KEY.text) == (KEY.public_id, KEY.secret)


def test_a_secret_that_begins_with_a_dash_reads_back() -> None:
    key = ApiKey("abcdefghijk2", "-_" + "A" * 41)
    assert parse_api_key(key.text) == (key.public_id, key.secret)


def test_the_secret_is_not_in_what_gets_logged() -> None:
    assert KEY.secret not in repr(KEY)
    assert ADMIN_KEY.secret not in repr(ADMIN_KEY)


def test_the_key_of_an_administrator_is_none_of_an_account() -> None:
    assert ADMIN_KEY.text == f"tga-{ADMIN_KEY.public_id}-{ADMIN_KEY.secret}"
    assert parse_admin_key(ADMIN_KEY.text) == (ADMIN_KEY.public_id, ADMIN_KEY.secret)
    for parse, text in (
        (parse_api_key, ADMIN_KEY.text),
        (parse_admin_key, KEY.text),
        (parse_admin_key, "tga"),
        (parse_admin_key, "\ud800"),
    ):
        with pytest.raises(AuthenticationError) as caught:
            parse(text)
        assert text not in str(caught.value)


WRONG = [
    "",
    "tg",
    KEY.text[:-1],
    KEY.text + "A",
    KEY.text + "\n",
    " " + KEY.text,
    KEY.text.upper(),
    KEY.text.replace("tg-", "sk-"),
    "tg-é",
    "\ud800",
]


@pytest.mark.parametrize("text", WRONG)
def test_every_other_text_is_refused_in_the_same_words(text: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        parse_api_key(text)
    with pytest.raises(AuthenticationError) as other:
        parse_api_key("nothing like a key")
    assert str(caught.value) == str(other.value)
    assert text.strip() in ("", "tg") or text not in str(caught.value)


@given(st.text(max_size=80))
def test_any_text_is_a_key_or_refused(text: str) -> None:
    try:
        public_id, secret = parse_api_key(text)
    except AuthenticationError:
        return
    assert ApiKey(public_id, secret).text == text


def test_the_hash_depends_on_secret_and_pepper() -> None:
    hashes = {hash_secret(secret, pepper) for secret in (KEY.secret, "x") for pepper in (b"p" * 32, b"q" * 32)}
    assert len(hashes) == 4
    assert {len(value) for value in hashes} == {32}
