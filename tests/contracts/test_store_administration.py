"""The administration of accounts, keys and terms, over every store of ours."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from tos_guard.errors import AccountError, ConfigurationError, TermsError
from tos_guard.types import Standing

HASH = b"\x01" * 32


def test_an_account_is_added_once(store, account):
    """An id is taken once, and starts as version 1, whatever version the caller thinks of."""
    assert store.add_account(account(version=7)).version == 1
    with pytest.raises(AccountError, match="acme"):
        store.add_account(account())
    store.add_account(account("aaa"))
    assert [each.id for each in store.accounts()] == ["aaa", "acme"]


def test_the_unknown_cannot_be_changed(store, account, grant):
    """Each step that names an unknown account, grant or key says so."""
    store.add_account(account("other"))
    for step in (
        lambda: store.set_standing("acme", Standing.SUSPENDED, "test"),
        lambda: store.put_account(account()),
        lambda: store.add_grant("acme", grant()),
        lambda: store.void_grant("acme", "g1"),
        lambda: store.void_grant("other", "g1"),
        lambda: store.add_api_key("acme", "AAAAAAAAAAAA", HASH),
        lambda: store.api_keys("acme"),
        lambda: store.history("acme"),
        lambda: store.delete_account("acme"),
        lambda: store.revoke_api_key("AAAAAAAAAAAA"),
    ):
        with pytest.raises(AccountError):
            step()


@pytest.mark.parametrize("name", ["", "\ud800"])
def test_a_name_that_cannot_be_stored_is_refused(store, account, name):
    """Names that no request could ever carry are refused where they are given."""
    with pytest.raises(AccountError):
        store.add_account(account().model_copy(update={"id": name}))
    store.add_account(account())
    with pytest.raises(AccountError):
        store.add_api_key("acme", name, HASH)


def test_a_change_from_a_stale_reading_is_refused(store, account):
    """Two administrators cannot undo each other's change unknowingly."""
    read = store.add_account(account())
    store.set_standing("acme", Standing.SUSPENDED, "abuse")
    with pytest.raises(AccountError, match="version 2"):
        store.put_account(read)
    assert store.by_id("acme").standing is Standing.SUSPENDED


def test_put_replaces(store, account):
    """`put_account` sets models and actions as given."""
    store.add_account(account())
    changed = store.put_account(account(version=1, models={"large"}), reason="upgrade")
    assert changed == store.by_id("acme")
    assert (changed.version, changed.models) == (2, {"large"})


def test_grants_come_and_go(store, account, grant):
    """A grant's id is held once; a voided grant is gone."""
    store.add_account(account())
    store.add_grant("acme", grant("g1"))
    store.add_grant("acme", grant("g2"))
    with pytest.raises(AccountError, match="g1"):
        store.add_grant("acme", grant("g1"))
    assert store.void_grant("acme", "g1", "expired").grants == (grant("g2"),)


def test_history_tells_every_step(case, account, grant):
    """What was done to an account, when, and why."""
    case.store.add_account(account())
    case.clock.move(timedelta(hours=1))
    case.store.set_standing("acme", Standing.SUSPENDED, "scraping")
    case.store.add_grant("acme", grant())
    case.store.void_grant("acme", "g1", "contract ended")
    case.store.add_api_key("acme", "AAAAAAAAAAAA", HASH)
    case.store.revoke_api_key("AAAAAAAAAAAA", "leaked")
    case.store.revoke_api_key("AAAAAAAAAAAA", "again")
    history = case.peer.history("acme")
    assert [(each.version, each.what, each.detail, each.reason) for each in history] == [
        (1, "added", "", ""),
        (2, "standing", "suspended", "scraping"),
        (3, "grant_added", "g1", ""),
        (4, "grant_voided", "g1", "contract ended"),
        (4, "key_added", "AAAAAAAAAAAA", ""),
        (4, "key_revoked", "AAAAAAAAAAAA", "leaked"),
    ]
    assert history[1].at - history[0].at == timedelta(hours=1)


def test_keys_are_listed_without_their_secret(case, account):
    """An administrator sees which keys there are, and never what opens them."""
    case.store.add_account(account())
    made = case.store.add_api_key("acme", "AAAAAAAAAAAA", HASH, label="laptop")
    case.clock.move(timedelta(days=1))
    revoked = case.store.revoke_api_key("AAAAAAAAAAAA")
    assert case.peer.api_keys("acme") == (revoked,)
    assert (revoked.public_id, revoked.account_id, revoked.label, revoked.created) == ("AAAAAAAAAAAA", "acme", "laptop", made.created)
    assert revoked.revoked == case.clock()
    assert case.store.revoke_api_key("AAAAAAAAAAAA") == revoked
    assert HASH.hex() not in repr(revoked)


def test_a_public_id_is_used_once(store, account):
    """A public id names one key for ever, a revoked one too."""
    store.add_account(account())
    store.add_account(account("other"))
    store.add_api_key("acme", "AAAAAAAAAAAA", HASH)
    store.revoke_api_key("AAAAAAAAAAAA")
    with pytest.raises(AccountError, match="taken"):
        store.add_api_key("other", "AAAAAAAAAAAA", HASH)
    with pytest.raises(AccountError, match="32"):
        store.add_api_key("other", "BBBBBBBBBBBB", b"short")


def test_deletion_takes_keys_and_history(store, account):
    """A deleted account is gone with all that hangs on it, and its id is free."""
    store.add_account(account())
    store.add_api_key("acme", "AAAAAAAAAAAA", HASH)
    store.delete_account("acme")
    assert store.by_api_key("AAAAAAAAAAAA", HASH) is None
    assert store.accounts() == ()
    store.add_account(account())
    assert store.api_keys("acme") == ()
    assert len(store.history("acme")) == 1


def test_the_pepper_is_made_once(case):
    """32 bytes, the same in every process."""
    assert len(case.store.pepper()) == 32
    assert case.store.pepper() == case.peer.pepper()


def test_terms_are_immutable(case, terms):
    """A version is one document and one text for ever; publishing it again is nothing."""
    case.store.publish_terms(terms())
    case.store.publish_terms(terms())
    with pytest.raises(TermsError, match="2026-11"):
        case.store.publish_terms(terms(text="Be unkind.\n"))
    kept = case.peer.terms("2026-11")
    published = terms()
    assert (kept.version, kept.uri, kept.effective) == (published.version, published.uri, published.effective)
    assert (kept.sha256, kept.document, kept.text) == (published.sha256, published.document_bytes, published.text)
    assert case.store.terms("2027-01") is None


def test_terms_take_effect_on_their_day(store, terms):
    """The terms in force are the newest whose day has come; of one day, the last published."""
    for version, effective in (("b", date(2026, 12, 1)), ("a", date(2026, 11, 1)), ("c", date(2026, 12, 1))):
        store.publish_terms(terms(version, effective))
    days = [datetime(2026, 10, 31, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)]
    assert [found and found.version for found in map(store.current_terms, days)] == [None, "a", "c"]


def test_public_keys_are_kept_for_ever(case):
    """A key's times may change, its material never, and private members are refused."""
    key = {"kid": "k1", "kty": "OKP", "crv": "Ed25519", "x": "AAAA"}
    case.store.put_public_key(key)
    case.store.put_public_key({"kid": "k2", "kty": "OKP", "crv": "Ed25519", "x": "BBBB"})
    case.store.put_public_key(key | {"revoked": 1})
    assert [each["kid"] for each in case.peer.public_keys()] == ["k1", "k2"]
    assert case.peer.public_keys()[0] == key | {"revoked": 1}
    for bad in (key | {"x": "CCCC"}, key | {"d": "secret"}, {"kty": "OKP"}, {"kid": 3}):
        with pytest.raises(ConfigurationError):
            case.store.put_public_key(bad)
    assert case.peer.public_keys()[0] == key | {"revoked": 1}
