"""The administration of accounts, keys, terms and usage policies, over every store of ours."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta

import pytest

from tos_guard._canonical import sha256_b64url
from tos_guard.errors import AccountError, ConfigurationError, StoreError, TermsError
from tos_guard.rights import Organization
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
        lambda: store.set_limit("acme", "tokens", 5),
        lambda: store.block_end_user("acme", "eu_" + "A" * 22),
        lambda: store.unblock_end_user("acme", "eu_" + "A" * 22),
        lambda: store.put_organization(Organization(id="acme-corp")),
        lambda: store.set_organization_limit("acme-corp", "tokens", 5),
        lambda: store.organization_history("acme-corp"),
    ):
        with pytest.raises(AccountError):
            step()


@pytest.mark.parametrize("name", ["", "\ud800", "a\0b"])
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


def test_grants_are_voided_by_a_mark(case, account, grant):
    """A grant's id is held once and for ever; a voided one stays, with when and why, and cannot be voided again."""
    case.store.add_account(account())
    case.store.add_grant("acme", grant("g1"))
    case.store.add_grant("acme", grant("g2"))
    case.clock.move(timedelta(hours=1))
    first, second = case.store.void_grant("acme", "g1", "contract ended").grants
    assert (first.unvoided(), first.voided, first.void_reason) == (grant("g1"), case.clock(), "contract ended")
    assert not first.is_active(case.clock())
    assert second == grant("g2")
    for step in (lambda: case.store.add_grant("acme", grant("g1")), lambda: case.store.void_grant("acme", "g1", "again")):
        with pytest.raises(AccountError, match="g1"):
            step()
    case.a_second_passes()
    assert case.peer.by_id("acme").grants == (first, second)


def test_put_account_leaves_grants_as_they_were_given(store, account, grant):
    """Replacing an account may add grants and void them; whatever else befalls a grant is refused, and nothing changes."""
    store.add_account(account())
    store.add_grant("acme", grant("g1", reason="contract 7"))
    store.add_grant("acme", grant("g2"))
    read = store.void_grant("acme", "g2", "ended")
    kept, voided = read.grants
    for grants in (
        (),
        (kept,),
        (voided,),
        (kept.model_copy(update={"reason": "contract 8"}), voided),
        (kept.model_copy(update={"models": frozenset({"large"})}), voided),
        (kept, voided.unvoided()),
        (kept, voided.model_copy(update={"void_reason": "another"})),
        (kept, grant("g2", type="research", voided=voided.voided)),
    ):
        with pytest.raises(AccountError, match="grant g"):
            store.put_account(read.model_copy(update={"grants": grants}))
    assert store.by_id("acme") == read
    marked = kept.model_copy(update={"voided": voided.voided, "void_reason": "all over"})
    changed = store.put_account(read.model_copy(update={"grants": (grant("g3"), voided, marked)}))
    assert changed.grants == (grant("g3"), voided, marked)


def test_history_tells_every_step(case, account, grant):
    """What was done to an account, when, why and by whom."""
    end_user = "eu_" + "A" * 22
    case.store.add_account(account(), actor="ann")
    case.clock.move(timedelta(hours=1))
    case.store.set_standing("acme", Standing.SUSPENDED, "scraping", actor="bob")
    case.store.add_grant("acme", grant(), actor="ann")
    case.store.void_grant("acme", "g1", "contract ended", actor="cli")
    case.store.set_limit("acme", "tokens-per-minute", 500, "asked for", actor="ann")
    case.store.set_limit("acme", "tokens-per-minute", None, "over", actor="ann")
    case.store.block_end_user("acme", end_user, "abuse", actor="bob")
    case.store.block_end_user("acme", end_user, "again", actor="bob")
    case.store.unblock_end_user("acme", end_user, "appeal", actor="ann")
    case.store.put_account(case.store.by_id("acme"), reason="tidy", actor="ann")
    case.store.add_api_key("acme", "AAAAAAAAAAAA", HASH, actor="cli")
    case.store.revoke_api_key("AAAAAAAAAAAA", "leaked", actor="bob")
    case.store.revoke_api_key("AAAAAAAAAAAA", "again")
    history = case.peer.history("acme")
    assert [(each.version, each.what, each.detail, each.reason, each.actor) for each in history] == [
        (1, "added", "", "", "ann"),
        (2, "standing", "suspended", "scraping", "bob"),
        (3, "grant_added", "g1", "", "ann"),
        (4, "grant_voided", "g1", "contract ended", "cli"),
        (5, "limit_set", "tokens-per-minute=500", "asked for", "ann"),
        (6, "limit_cleared", "tokens-per-minute", "over", "ann"),
        (7, "end_user_blocked", end_user, "abuse", "bob"),
        (8, "end_user_unblocked", end_user, "appeal", "ann"),
        (9, "changed", "", "tidy", "ann"),
        (9, "key_added", "AAAAAAAAAAAA", "", "cli"),
        (9, "key_revoked", "AAAAAAAAAAAA", "leaked", "bob"),
    ]
    assert history[1].at - history[0].at == timedelta(hours=1)


@pytest.mark.parametrize("bad", ["\ud800", "a\0b"])
def test_a_text_that_cannot_be_stored_is_refused(store, account, grant, bad):
    """Reasons, labels and names of administrators with half of a UTF-16 pair or U+0000 are our error, and nothing changes."""
    added = store.add_account(account())
    store.add_api_key("acme", "AAAAAAAAAAAA", HASH)
    for step in (
        lambda: store.set_standing("acme", Standing.SUSPENDED, bad),
        lambda: store.put_account(added, actor=bad),
        lambda: store.add_grant("acme", grant(), actor=bad),
        lambda: store.block_end_user("acme", bad),
        lambda: store.set_limit("acme", bad, 5),
        lambda: store.revoke_api_key("AAAAAAAAAAAA", bad),
        lambda: store.add_api_key("acme", "BBBBBBBBBBBB", HASH, label=bad),
    ):
        with pytest.raises(AccountError):
            step()
    assert store.by_id("acme") == added
    assert [key.revoked for key in store.api_keys("acme")] == [None]


def test_limits_of_an_account_are_set_and_cleared(store, account):
    """An own amount holds until it is cleared; what is no amount, and clearing what is not there, is refused."""
    store.add_account(account())
    assert store.set_limit("acme", "tokens", 5).limits == {"tokens": 5}
    assert store.set_limit("acme", "requests", 0).limits == {"tokens": 5, "requests": 0}
    assert store.set_limit("acme", "tokens", None).limits == {"requests": 0}
    for limit_id, amount in (("tokens", None), ("Tokens", 1), ("tokens", -1), ("tokens", 2**53)):
        with pytest.raises(AccountError):
            store.set_limit("acme", limit_id, amount)


def test_end_users_are_blocked_one_by_one(store, account):
    """Blocking one again is nothing new; one that is not blocked cannot be unblocked, and a name that is no keyed hash is refused."""
    one, other = "eu_" + "A" * 22, "eu_" + "B" * 22
    store.add_account(account())
    blocked = store.block_end_user("acme", one, "abuse")
    assert store.block_end_user("acme", one, "again") == blocked
    assert store.block_end_user("acme", other).blocked_end_users == {one, other}
    assert store.unblock_end_user("acme", one).blocked_end_users == {other}
    for step in (lambda: store.unblock_end_user("acme", one), lambda: store.block_end_user("acme", "customer@example.com")):
        with pytest.raises(AccountError):
            step()


def test_every_version_of_an_account_is_kept(case, account):
    """What an account was in a version, and at a moment, can still be told; before it was there, and of a version to come, nothing."""
    start = case.clock()
    versions = [case.store.add_account(account())]
    for standing in (Standing.SUSPENDED, Standing.GOOD):
        case.clock.move(timedelta(hours=1))
        versions.append(case.store.set_standing("acme", standing, "why"))
    for source in (case.store, case.peer):
        assert [source.account_version("acme", number) for number in (1, 2, 3, 4, 0)] == [*versions, None, None]
        moments = [start - timedelta(milliseconds=1), start, *(start + timedelta(minutes=minutes) for minutes in (59, 60, 119, 120, 9999))]
        first, second, third = versions
        assert [source.account_at("acme", moment) for moment in moments] == [None, first, first, second, second, third, third]
        assert source.account_at("nobody", start) is source.account_version("\ud800", 1) is None


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


def test_deletion_takes_keys_history_and_versions(case, account):
    """A deleted account is gone with all that hangs on it, and its id is free."""
    store = case.store
    store.add_account(account())
    store.set_standing("acme", Standing.WARNED, "why")
    store.add_api_key("acme", "AAAAAAAAAAAA", HASH)
    store.delete_account("acme")
    assert store.by_api_key("AAAAAAAAAAAA", HASH) is None
    assert store.accounts() == ()
    assert store.account_version("acme", 1) is store.account_at("acme", case.clock()) is None
    again = store.add_account(account())
    assert store.api_keys("acme") == ()
    assert len(store.history("acme")) == 1
    assert [store.account_version("acme", version) for version in (1, 2)] == [again, None]


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


def test_terms_are_listed_by_the_day_they_take_effect(store, terms):
    """Of one day, in the order of publication."""
    for version, effective in (("b", date(2026, 12, 1)), ("a", date(2026, 11, 1)), ("c", date(2026, 12, 1))):
        store.publish_terms(terms(version, effective))
    assert [each.version for each in store.terms_versions()] == ["a", "b", "c"]


def test_who_published_terms_is_kept(case, terms):
    """Whoever publishes them again does not become the one."""
    case.store.publish_terms(terms("a"), actor="ann")
    case.peer.publish_terms(terms("a"))
    case.store.publish_terms(terms("b"))
    assert [each.published_by for each in case.peer.terms_versions()] == ["ann", ""]
    with pytest.raises(AccountError):
        case.store.publish_terms(terms("c"), actor="\ud800")


def test_accounts_and_organizations_are_read_page_by_page(store, account):
    """By id, from any place on, in bounded pages: a provider has more of them than one answer should hold."""
    names = ["Acme", "acme", "b", "zoë", "ünder"]
    for name in reversed(names):
        store.add_account(account(name))
        store.add_organization(Organization(id=name))
    for page in (store.accounts, store.organizations):
        assert [each.id for each in page()] == names
        assert [each.id for each in page(limit=2)] == names[:2]
        assert [each.id for each in page(after="acme", limit=2)] == names[2:4]
        assert [each.id for each in page(after="aname", limit=1)] == ["b"]
        assert page(after="ünder") == page(limit=0) == ()
        assert [each.id for each in page(after="\ud800", limit=1)] == names[:1]


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


def test_a_usage_policy_is_kept_under_its_digest(case):
    """Once and for ever, in every process, and nobody's rights change by it: `version` stays."""
    document = b'{"clauses":[]}'
    digest = sha256_b64url(document)
    before = case.store.version(), case.peer.version()
    for store in (case.store, case.store, case.peer):
        store.put_usage_policy(digest, document)
    assert case.store.usage_policy(digest) == case.peer.usage_policy(digest) == document
    assert case.store.usage_policy("x" * 43) is case.store.usage_policy("\ud800") is None
    for wrong in ("x" * 43, "\ud800", ""):
        with pytest.raises(StoreError, match="digest"):
            case.store.put_usage_policy(wrong, document)
    case.a_second_passes()
    assert (case.store.version(), case.peer.version()) == before


def test_a_domain_of_limits_is_new_once(case):
    """One of all processes is told that nothing was ever counted there; nobody's rights change by it: `version` stays."""
    before = case.store.version(), case.peer.version()
    with ThreadPoolExecutor(4) as threads:
        told = list(threads.map(lambda number: (case.store, case.peer)[number % 2].note_limits_domain("eu"), range(8)))
    assert sorted(told) == [False] * 7 + [True]
    assert [store.note_limits_domain("us") for store in (case.peer, case.store, case.peer)] == [True, False, False]
    case.a_second_passes()
    assert (case.store.version(), case.peer.version()) == before


def test_an_administrator_is_known_by_a_key(case):
    """Unknown, wrong and revoked look alike; a revoked key is refused in every process at once."""
    made = case.store.add_admin_key("ann", "AAAAAAAAAAAA", HASH, actor="cli")
    for store in (case.store, case.peer):
        assert store.admin_by_key("AAAAAAAAAAAA", HASH) == "ann"
        for public_id, secret_hash in (
            ("AAAAAAAAAAAA", b"\x02" * 32), ("BBBBBBBBBBBB", HASH), ("BBBBBBBBBBBB", bytes(32)), ("AAAAAAAAAAAA", b""), ("\ud800", HASH),
        ):  # fmt: skip
            assert store.admin_by_key(public_id, secret_hash) is None
    case.clock.move(timedelta(days=1))
    revoked = case.store.revoke_admin_key("AAAAAAAAAAAA", actor="bob")
    assert case.peer.admin_by_key("AAAAAAAAAAAA", HASH) is case.store.admin_by_key("AAAAAAAAAAAA", HASH) is None
    assert case.store.revoke_admin_key("AAAAAAAAAAAA", actor="ann") == revoked
    assert case.peer.admin_keys() == (revoked,)
    assert (revoked.name, revoked.created, revoked.created_by) == ("ann", made.created, "cli")
    assert (revoked.revoked, revoked.revoked_by) == (case.clock(), "bob")
    assert HASH.hex() not in repr(revoked)


def test_keys_of_administrators_open_no_account(store, account):
    """And keys of accounts administer nothing, whatever their public ids."""
    store.add_account(account())
    store.add_admin_key("ann", "AAAAAAAAAAAA", HASH)
    assert store.by_api_key("AAAAAAAAAAAA", HASH) is None
    store.add_api_key("acme", "BBBBBBBBBBBB", HASH)
    assert store.admin_by_key("BBBBBBBBBBBB", HASH) is None


def test_a_key_of_an_administrator_that_cannot_be_is_refused(store):
    """A taken public id, a hash of another length, a name that is none, an unknown key."""
    store.add_admin_key("ann", "AAAAAAAAAAAA", HASH)
    for step in (
        lambda: store.add_admin_key("bob", "AAAAAAAAAAAA", HASH),
        lambda: store.add_admin_key("bob", "BBBBBBBBBBBB", b"short"),
        lambda: store.add_admin_key("", "BBBBBBBBBBBB", HASH),
        lambda: store.add_admin_key("bob", "", HASH),
        lambda: store.add_admin_key("bob", "BBBBBBBBBBBB", HASH, actor="\ud800"),
        lambda: store.revoke_admin_key("BBBBBBBBBBBB"),
        lambda: store.revoke_admin_key("\ud800"),
        lambda: store.revoke_admin_key("AAAAAAAAAAAA", actor="\ud800"),
    ):
        with pytest.raises(AccountError):
            step()
    assert [(key.public_id, key.revoked) for key in store.admin_keys()] == [("AAAAAAAAAAAA", None)]
