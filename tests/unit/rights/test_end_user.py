"""End users are named by a keyed hash."""

from __future__ import annotations

import re

from tos_guard.rights import Account, end_user_key, hash_end_user

KEY = end_user_key(bytes(32))


def test_a_hash_can_stand_among_the_blocked_and_does_not_tell_the_name() -> None:
    named = hash_end_user("jane@acme.example", account_id="acme", key=KEY)
    assert Account(id="acme", blocked_end_users={named}).blocked_end_users == {named}
    assert re.fullmatch(r"eu_[A-Za-z0-9_-]{22}", named)


def test_one_name_means_another_end_user_in_each_account_and_under_each_key() -> None:
    hashes = {
        hash_end_user("1:a", account_id="b", key=KEY),
        hash_end_user("a", account_id="b1:", key=KEY),
        hash_end_user("1:a", account_id="c", key=KEY),
        hash_end_user("1:a", account_id="b", key=end_user_key(bytes(31) + b"\x01")),
    }
    assert len(hashes) == 4


def test_a_hash_stays_what_it_was_once_records_hold_it() -> None:
    assert hash_end_user("jane", account_id="acme", key=KEY) == "eu_itpYu2bk_HDRsUN6HZbgRQ"


def test_a_name_that_is_no_text_has_a_hash_all_the_same() -> None:
    assert hash_end_user("\ud800", account_id="acme", key=KEY).startswith("eu_")
