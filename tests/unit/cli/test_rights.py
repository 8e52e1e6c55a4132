"""What an operator gives and takes: grants with all their conditions, end users, organizations, administrators' keys; and who did it."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tos_guard.guard import Guard
from tos_guard.rights import hash_secret, parse_admin_key
from tos_guard.stores import SQLiteStore

Call = Callable[..., Any]
ISSUER = "https://api.example.com"
ME = f"cli:{pwd.getpwuid(os.getuid()).pw_name}"


def store(folder: Path) -> SQLiteStore:
    return SQLiteStore(folder / "tos-guard.db", issuer=ISSUER, clock=lambda: datetime.now(UTC))


@pytest.fixture
def acme(provider: Path, call: Call) -> Path:
    """A provider with the account acme."""
    assert call("accounts", "add", "acme", "--model", "small").code == 0
    return provider


def account(call: Call) -> dict[str, Any]:
    return call("accounts", "show", "acme", "--json").document["account"]


# Who did it


CHANGES = (
    ("accounts", "set", "acme", "--kind", "enterprise"),
    ("accounts", "suspend", "acme", "--reason", "r"),
    ("accounts", "reinstate", "acme"),
    ("accounts", "grant", "acme", "research", "--id", "g1", "--reason", "r"),
    ("accounts", "void-grant", "acme", "g1"),
    ("accounts", "block-end-user", "acme", "--named", "jane"),
    ("accounts", "unblock-end-user", "acme", "--named", "jane"),
    ("accounts", "key", "acme"),
)


def test_every_change_keeps_who_did_it(acme: Path, call: Call) -> None:
    """The operating system's user by default, and never nobody."""
    for command in CHANGES:
        assert call(*command, "--actor", "jane@ops").code == 0, command
    public_id = call("accounts", "show", "acme", "--json").document["keys"][0]["public_id"]
    assert call("accounts", "revoke-key", public_id).code == 0
    history = call("accounts", "show", "acme", "--json").document["history"]
    assert [change["actor"] for change in history] == [ME, *["jane@ops"] * len(CHANGES), ME]
    assert f"added  by {ME}" in call("accounts", "show", "acme").out


@pytest.mark.parametrize("actor", ["", "  "])
def test_nobody_is_no_actor(acme: Path, call: Call, actor: str) -> None:
    done = call("accounts", "reinstate", "acme", "--actor", actor)
    assert done.code == 2
    assert "--actor" in done.err


# Grants


def test_a_grant_says_all_it_is_for_and_who_gave_it(acme: Path, call: Call) -> None:
    done = call(
        "accounts", "grant", "acme", "research", "--id", "g1", "--reason", "study", "--purpose", "research", "--purpose", "teaching",
        "--region", "DE", "--limit", "tokens-per-minute=500_000", "--limit", "requests-per-day=7", "--evidence", "contract 7",
        "--model", "small", "--action", "embed", "--until", "2099-12-31",
    )  # fmt: skip
    assert done.code == 0, done.err
    (grant,) = account(call)["grants"]
    assert grant | {"id": "g1", "not_after": "2099-12-31T23:59:59Z"} == {
        "id": "g1", "type": "research", "models": ["small"], "actions": ["embed"], "purposes": ["research", "teaching"], "regions": ["DE"],
        "limits": {"tokens-per-minute": 500_000, "requests-per-day": 7}, "not_before": None, "not_after": "2099-12-31T23:59:59Z",
        "issuer": ME, "reason": "study", "evidence": "contract 7", "voided": None, "void_reason": "",
    }  # fmt: skip
    for words in (
        "purposes research, teaching",
        "regions DE",
        "requests-per-day=7, tokens-per-minute=500000",
        f"by {ME}",
        "evidence contract 7",
    ):
        assert words in call("accounts", "show", "acme").out


def test_a_grant_names_its_issuer_where_that_is_another(acme: Path, call: Call) -> None:
    assert call("accounts", "grant", "acme", "research", "--reason", "r", "--issuer", "legal department").code == 0
    assert account(call)["grants"][0]["issuer"] == "legal department"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--limit", "tokens"), ("--limit", "tokens="), ("--limit", "=5"), ("--limit", "t=-1"), ("--limit", "t=1e3"),
        ("--limit", "t=" + "9" * 99), ("--limit", "t=٣"), ("--purpose", "Research!"), ("--region", "Germany"), ("--issuer", "x" * 201),
        ("--evidence", "x" * 501),
    ],
)  # fmt: skip
def test_a_wrong_part_of_a_grant_is_named_and_nothing_given(acme: Path, call: Call, option: str, value: str) -> None:
    done = call("accounts", "grant", "acme", "research", "--reason", "r", option, value)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert option.removeprefix("--") in done.err
    assert account(call)["grants"] == []


def test_a_voided_grant_stays_with_its_mark(acme: Path, call: Call) -> None:
    call("accounts", "grant", "acme", "research", "--id", "g1", "--reason", "study")
    assert call("accounts", "void-grant", "acme", "g1", "--reason", "study over").code == 0
    (grant,) = account(call)["grants"]
    assert (grant["voided"] is not None, grant["void_reason"], grant["reason"]) == (True, "study over", "study")


def test_a_grant_that_only_a_contract_knows_can_be_given(acme: Path, call: Call, root: Path) -> None:
    """A contract is in the store, and not what the settings name."""
    before = call("accounts", "grant", "acme", "redistribution", "--reason", "contract 7")
    assert before.code == 2
    contract = (root / "examples" / "terms" / "contract-7-1.toml").read_text()
    (acme / "contract.toml").write_text(contract + '\n[[grant]]\nid = "redistribution"\n')
    (acme / "contract-7-1.md").write_text((root / "examples" / "terms" / "contract-7-1.md").read_text())
    assert call("terms", "publish", "contract.toml").code == 0
    assert call("accounts", "grant", "acme", "redistribution", "--reason", "contract 7").code == 0


# End users


def test_an_end_user_is_blocked_by_name_as_the_guard_hashes_it(acme: Path, call: Call) -> None:
    done = call("accounts", "block-end-user", "acme", "--named", "jane@acme.example", "--reason", "extraction")
    assert done.code == 0
    guard = Guard.from_file(acme / "tos-guard.toml")
    hashed = guard.end_user_hash("acme", "jane@acme.example")
    guard.close_stores()
    assert account(call)["blocked_end_users"] == [hashed]
    assert f"blocked       {hashed}" in call("accounts", "show", "acme").out
    assert call("accounts", "unblock-end-user", "acme", hashed).code == 0
    assert account(call)["blocked_end_users"] == []


@pytest.mark.parametrize("arguments", [(), ("eu_" + "a" * 22, "--named", "jane"), ("jane",), ("eu_short",)])
def test_an_end_user_is_named_once_and_by_a_hash(acme: Path, call: Call, arguments: tuple[str, ...]) -> None:
    done = call("accounts", "block-end-user", "acme", *arguments)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert account(call)["blocked_end_users"] == []


def test_unblocking_who_is_not_blocked_is_an_error(acme: Path, call: Call) -> None:
    assert call("accounts", "unblock-end-user", "acme", "--named", "jane").code == 2


# Organizations


def test_an_organization_knows_who_may_accept_for_it(acme: Path, call: Call) -> None:
    assert call("organizations", "add", "acme-corp", "--name", "Acme Corporation").code == 0
    assert call("organizations", "authorize", "acme-corp", "jane@acme.example").code == 2  # on whose authority?
    assert call("organizations", "authorize", "acme-corp", "jane@acme.example", "--authority", "clerk").code == 0
    assert call("organizations", "authorize", "acme-corp", "jane@acme.example", "--authority", "general counsel").code == 0
    assert call("organizations", "authorize", "acme-corp", "bob", "--authority", "power of attorney", "--reason", "letter").code == 0
    assert call("organizations", "deauthorize", "acme-corp", "bob", "--actor", "ops").code == 0
    again = call("organizations", "deauthorize", "acme-corp", "bob")
    assert (again.code, "jane@acme.example" in again.err) == (2, True)
    call("accounts", "set", "acme", "--organization", "acme-corp")
    shown = call("organizations", "show", "acme-corp", "--json").document
    assert shown.keys() == {"version", "organization", "accounts", "history"}
    assert shown["organization"] == {
        "id": "acme-corp", "version": 5, "name": "Acme Corporation", "limits": {},
        "authorized": [{"id": "jane@acme.example", "authority": "general counsel"}],
    }  # fmt: skip
    assert shown["accounts"] == ["acme"]
    assert [(change["reason"], change["actor"]) for change in shown["history"]][3:] == [
        ("authorized bob: letter", ME),
        ("deauthorized bob", "ops"),
    ]
    words = call("organizations", "show", "acme-corp").out
    assert "may accept    jane@acme.example: general counsel" in words
    assert "acme-corp  Acme Corporation  jane@acme.example" in call("organizations", "list").out


def test_an_organization_is_renamed_and_keeps_the_rest(provider: Path, call: Call) -> None:
    call("organizations", "add", "acme-corp")
    call("organizations", "authorize", "acme-corp", "jane", "--authority", "director")
    assert call("organizations", "set", "acme-corp", "--name", "Acme").code == 0
    (found,) = call("organizations", "list", "--json").document["organizations"]
    assert (found["name"], found["authorized"]) == ("Acme", [{"id": "jane", "authority": "director"}])
    assert call("organizations", "add", "acme-corp").code == 2


@pytest.mark.parametrize("command", [("set", "--name", "x"), ("show",), ("authorize", "p", "--authority", "a"), ("deauthorize", "p")])
def test_an_unknown_organization_is_named(provider: Path, call: Call, command: tuple[str, ...]) -> None:
    done = call("organizations", command[0], "nobody", *command[1:])
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert "nobody" in done.err


@pytest.mark.parametrize("arguments", [("",), ("x" * 129,), ("acme", "--name", "x" * 201)])
def test_an_organization_that_cannot_be_one_is_refused(provider: Path, call: Call, arguments: tuple[str, ...]) -> None:
    done = call("organizations", "add", *arguments)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert call("organizations", "list", "--json").document["organizations"] == []


# Administrators' keys


def test_an_administrators_key_is_shown_once_and_ends_when_revoked(provider: Path, call: Call) -> None:
    done = call("admin", "key", "jane")
    assert done.code == 0
    public_id, secret = parse_admin_key(done.out.strip())
    assert secret not in done.err
    with store(provider) as opened:
        hashed = hash_secret(secret, opened.pepper())
        assert opened.admin_by_key(public_id, hashed) == "jane"
    assert secret not in call("admin", "keys").out + call("admin", "keys", "--json").out
    assert call("admin", "revoke", public_id, "--actor", "bob").code == 0
    with store(provider) as opened:
        assert opened.admin_by_key(public_id, hashed) is None
    (key,) = call("admin", "keys", "--json").document["keys"]
    assert key.keys() == {"public_id", "name", "created", "created_by", "revoked", "revoked_by"}
    assert (key["public_id"], key["name"], key["created_by"], key["revoked_by"]) == (public_id, "jane", ME, "bob")


def test_an_administrator_has_a_name_and_a_revoked_key_is_known(provider: Path, call: Call) -> None:
    assert call("admin", "key", "").code == 2
    done = call("admin", "revoke", "0123456789ab")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "no keys of administrators" in call("admin", "keys").err
