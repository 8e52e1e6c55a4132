"""What keys are for, when they end, and how one takes the place of another: over every store of ours."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tos_guard.errors import AccountError
from tos_guard.rights import UNLIMITED_KEY, Binding, KeyTerms

HASH, OTHER, THIRD = (bytes([number]) * 32 for number in (1, 2, 3))
FIRST, SECOND, LAST = "AAAAAAAAAAAA", "BBBBBBBBBBBB", "CCCCCCCCCCCC"
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _acme(store: Any, account: Callable[..., Any]) -> None:
    store.add_account(account())


def test_what_a_key_is_for_is_found_with_it(case: Any) -> None:
    """In every process, and in the list of keys."""
    terms = KeyTerms(frozenset({"generate", "account"}), frozenset({"small"}), case.clock() + DAY, Binding("A" * 43, "B" * 43))
    case.store.add_api_key("acme", FIRST, HASH, terms=terms)
    case.store.add_api_key("acme", SECOND, OTHER)
    found = case.peer.keyed_holder(FIRST, HASH)
    assert (found.holder.account.id, found.terms) == ("acme", terms)
    assert case.peer.keyed_holder(SECOND, OTHER).terms == UNLIMITED_KEY
    assert [key.terms for key in case.peer.api_keys("acme")] == [terms, UNLIMITED_KEY]
    assert found.holder is case.peer.holder_by_id("acme")
    assert case.peer.keyed_holder(FIRST, OTHER) is None


@pytest.mark.parametrize(
    "changes", [{"actions": frozenset({"generate"})}, {"models": frozenset({"small"})}, {"binding": Binding("A" * 43)}]
)
def test_a_look_up_that_cannot_tell_what_a_key_is_for_does_not_find_it(store: Any, changes: dict[str, Any]) -> None:
    """Whoever asks as a host's own source of accounts is asked would take it for more than it is."""
    store.add_api_key("acme", FIRST, HASH, terms=KeyTerms(**changes))
    assert store.holder_by_api_key(FIRST, HASH) is None
    assert store.by_api_key(FIRST, HASH) is None
    assert store.keyed_holder(FIRST, HASH) is not None


def test_a_key_expires(case: Any) -> None:
    case.store.add_api_key("acme", FIRST, HASH, terms=KeyTerms(expires=case.clock() + DAY))
    case.clock.move(DAY - timedelta(milliseconds=1))
    assert case.store.by_api_key(FIRST, HASH) is not None
    case.clock.move(timedelta(milliseconds=1))
    assert case.store.by_api_key(FIRST, HASH) is None
    assert case.store.keyed_holder(FIRST, HASH).terms.has_expired(case.clock())


def test_a_key_is_replaced_by_another_for_the_same(case: Any) -> None:
    """Both are good for a while; then the old one expires."""
    terms = KeyTerms(actions=frozenset({"generate"}))
    case.store.add_api_key("acme", FIRST, HASH, label="batch", terms=terms)
    new = case.store.rotate_api_key(FIRST, SECOND, OTHER, overlap=DAY, actor="bob")
    assert (new.terms, new.label, new.replaces, new.account_id) == (terms, "batch", FIRST, "acme")
    assert case.peer.keyed_holder(SECOND, OTHER).terms == terms
    old = case.peer.keyed_holder(FIRST, HASH).terms
    assert old == KeyTerms(actions=frozenset({"generate"}), expires=case.clock() + DAY)
    assert [(key.public_id, key.replaces) for key in case.peer.api_keys("acme")] == [(FIRST, ""), (SECOND, FIRST)]
    last = case.store.history("acme")[-1]
    assert (last.what, last.detail, last.reason, last.actor) == ("key_rotated", SECOND, f"replaces {FIRST}", "bob")


def test_an_overlap_gives_no_key_a_longer_life(case: Any) -> None:
    case.store.add_api_key("acme", FIRST, HASH, terms=KeyTerms(expires=case.clock() + timedelta(hours=1)))
    longer = KeyTerms(expires=case.clock() + 90 * DAY)
    assert case.store.rotate_api_key(FIRST, SECOND, OTHER, overlap=DAY, terms=longer).terms == longer
    assert case.store.keyed_holder(FIRST, HASH).terms.expires == case.clock() + timedelta(hours=1)
    case.store.rotate_api_key(SECOND, LAST, THIRD, overlap=timedelta(0))
    assert case.store.by_api_key(SECOND, OTHER) is None


def test_what_cannot_be_rotated_stays_as_it_was(case: Any) -> None:
    """Both keys or neither."""
    for public_id, secret_hash in ((FIRST, HASH), (SECOND, OTHER)):
        case.store.add_api_key("acme", public_id, secret_hash)
    version, history = case.store.version(), case.store.history("acme")
    for step in (
        lambda: case.store.rotate_api_key("DDDDDDDDDDDD", LAST, THIRD, overlap=DAY),
        lambda: case.store.rotate_api_key(FIRST, SECOND, THIRD, overlap=DAY),
        lambda: case.store.rotate_api_key(FIRST, LAST, b"short", overlap=DAY),
        lambda: case.store.rotate_api_key(FIRST, "", THIRD, overlap=DAY),
        lambda: case.store.rotate_api_key(FIRST, LAST, THIRD, overlap=-DAY),
        lambda: case.store.rotate_api_key(FIRST, LAST, THIRD, overlap=DAY, terms=KeyTerms(expires=case.clock())),
        lambda: case.store.add_api_key("acme", LAST, THIRD, terms=KeyTerms(expires=case.clock())),
    ):
        with pytest.raises(AccountError):
            step()
    assert [key.terms for key in case.store.api_keys("acme")] == [UNLIMITED_KEY] * 2
    assert (case.store.version(), case.store.history("acme")) == (version, history)
    case.store.revoke_api_key(FIRST)
    with pytest.raises(AccountError, match="revoked or has expired"):
        case.store.rotate_api_key(FIRST, LAST, THIRD, overlap=DAY)


def test_a_key_that_was_replaced_is_not_replaced_again(case: Any) -> None:
    """The second new key would end with the first one's overlap; its successor is rotated instead."""
    case.store.add_api_key("acme", FIRST, HASH)
    case.store.rotate_api_key(FIRST, SECOND, OTHER, overlap=DAY)
    with pytest.raises(AccountError, match=f"key {SECOND} has replaced it already"):
        case.peer.rotate_api_key(FIRST, LAST, THIRD, overlap=DAY)
    assert case.store.rotate_api_key(SECOND, LAST, THIRD, overlap=DAY).terms == UNLIMITED_KEY
