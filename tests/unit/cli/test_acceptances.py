"""Acceptances that an administrator records, and their withdrawal: each with a receipt that verifies, and with who recorded it."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tos_guard.guard import Guard
from tos_guard.stores import KeyFolder
from tos_guard.types import SubjectKind
from tos_guard.verify import ExpectedReceipt, Trust, VerifiedReceipt, verify_receipt

Call = Callable[..., Any]
ISSUER = "https://api.example.com"
ME = f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
ACCEPTED = {
    "id", "subject", "terms", "accepted_by", "authority", "method", "identified_by", "at", "expires", "receipt", "withdrawal",
    "recorded_by", "withdrawal_recorded_by",
}  # fmt: skip


def publish(call: Call, folder: Path, version: str, *, header: str, effective: str = "2026-01-01") -> None:
    """Publish terms that ask to be accepted."""
    (folder / f"{version}.md").write_text(f"# Terms {version}\n")
    (folder / f"{version}.toml").write_text(
        f"""
[terms]
version = "{version}"
title = "Terms {version}"
uri = "{ISSUER}/.well-known/ai-provenance/terms/{version}"
text = "{version}.md"
effective = {effective}
acceptance = "required"
{header}

[[clause]]
id = "serve"
effect = "permit"
action = "generate"
text = "May use it."
"""
    )
    done = call("terms", "publish", f"{version}.toml")
    assert done.code == 0, done.err


@pytest.fixture
def acme(provider: Path, call: Call) -> Path:
    """A provider whose newest general terms must be accepted, with the account acme of acme-corp, which has a contract."""
    publish(call, provider, "v2", header="", effective="2026-11-02")
    call("accounts", "add", "acme", "--model", "small")
    call("organizations", "add", "acme-corp")
    return provider


def verified(receipt: str, folder: Path, **expected: Any) -> VerifiedReceipt:
    now = datetime.now(UTC)
    trust = Trust.of(KeyFolder(folder / "keys").public_set(now))
    return verify_receipt(receipt, trust=trust, now=now, expected=ExpectedReceipt(**expected))


def test_an_acceptance_on_paper_is_recorded_with_its_receipt(acme: Path, call: Call) -> None:
    """What the account owes by default; who, on what authority, and who recorded it."""
    done = call("accounts", "accept", "acme", "--by", "jane@acme.example", "--authority", "letter of 3 November", "--json")
    assert done.code == 0, done.err
    (made,) = done.document["acceptances"]
    assert made.keys() == ACCEPTED
    assert (made["terms"]["version"], made["method"], made["identified_by"], made["recorded_by"]) == ("v2", "cli", "administrator", ME)
    proven = verified(made["receipt"], acme, subject_kind=SubjectKind.ACCOUNT, subject_id="acme", person="jane@acme.example", version="v2")
    assert (proven.claims.authority, proven.claims.jti) == ("letter of 3 November", made["id"])
    listed = call("accounts", "acceptances", "acme", "--json").document
    assert listed == {"version": 1, "acceptances": [made], "to_accept": []}
    shown = call("accounts", "acceptances", "acme")
    assert f"{made['id']}  general v2  account acme  jane@acme.example  administrator  {ME}" in shown.out
    assert "Still" not in shown.err


def test_the_guard_serves_who_accepted_on_the_command_line(acme: Path, call: Call) -> None:
    assert "DENIED" in call("accounts", "explain", "acme", "--model", "small").out
    call("accounts", "accept", "acme", "--by", "jane")
    assert "ALLOWED" in call("accounts", "explain", "acme", "--model", "small").out


def test_what_is_still_to_be_accepted_is_told(acme: Path, call: Call) -> None:
    listed = call("accounts", "acceptances", "acme", "--json").document
    (owed,) = listed["to_accept"]
    assert (owed["version"], owed["grace_ends"], owed["refused"]) == ("v2", None, True)
    assert "general v2" in call("accounts", "acceptances", "acme").err


def test_accepting_again_changes_nothing_and_nothing_owed_is_said(acme: Path, call: Call) -> None:
    first = call("accounts", "accept", "acme", "--by", "jane", "--version", "v2", "--json").document["acceptances"]
    assert call("accounts", "accept", "acme", "--by", "bob", "--version", "v2", "--json").document["acceptances"] == first
    done = call("accounts", "accept", "acme", "--by", "jane")
    assert (done.code, "nothing is to be accepted" in done.err) == (2, True)


def test_an_acceptance_is_withdrawn_by_a_second_record(acme: Path, call: Call) -> None:
    made = call("accounts", "accept", "acme", "--by", "jane", "--json").document["acceptances"][0]
    wrong = call("accounts", "withdraw", "acme", "acc_" + "A" * 22, "--by", "jane")
    assert (wrong.code, len(wrong.err.splitlines())) == (2, 1)
    done = call("accounts", "withdraw", "acme", made["id"], "--by", "bob", "--reason", "we leave", "--actor", "ops", "--json")
    assert done.code == 0, done.err
    taken = done.document["acceptance"]
    assert (taken["id"], taken["receipt"]) == (made["id"], made["receipt"])
    assert (taken["recorded_by"], taken["withdrawal_recorded_by"]) == (ME, "ops")
    proven = verified(taken["withdrawal"]["receipt"], acme, event="withdrawal", person="bob")
    assert (proven.claims.acceptance, proven.claims.reason) == (made["id"], "we leave")
    assert "withdrawn 20" in call("accounts", "acceptances", "acme").out
    assert call("accounts", "acceptances", "acme", "--json").document["to_accept"][0]["refused"] is True


def test_an_acceptance_of_a_past_day_ends_on_its_last(acme: Path, call: Call) -> None:
    done = call("accounts", "accept", "acme", "--by", "jane", "--at", "2026-11-03", "--until", "2099-01-01", "--json")
    (made,) = done.document["acceptances"]
    assert (made["at"], made["expires"]) == ("2026-11-03T00:00:00+00:00", "2099-01-01T23:59:59+00:00")
    assert "until 2099-01-01" in call("accounts", "acceptances", "acme").out


@pytest.mark.parametrize(
    "options",
    [
        ("--by", ""), ("--by", "x" * 129), ("--by", "jane\x1b[2J"), ("--by", "jane", "--authority", "x" * 201),
        ("--by", "jane", "--version", "v9"),
        ("--by", "jane", "--at", "2099-01-01"), ("--by", "jane", "--at", "soon"), ("--by", "jane", "--until", "2020-01-01"),
        ("--by", "jane", "--version", "2026-11"),
    ],
)  # fmt: skip
def test_what_cannot_be_an_acceptance_is_one_line_and_none_is_kept(acme: Path, call: Call, options: tuple[str, ...]) -> None:
    done = call("accounts", "accept", "acme", *options)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1), done.err
    assert "\x1b" not in done.err
    assert call("accounts", "acceptances", "acme", "--json").document["acceptances"] == []


def test_for_an_organization_an_authorized_person_accepts_and_takes_back(acme: Path, call: Call) -> None:
    """A contract is accepted for its organization, and by no account for itself."""
    publish(call, acme, "contract-7", header='series = "contract-7"\norganization = "acme-corp"')
    call("accounts", "set", "acme", "--organization", "acme-corp")
    alone = call("accounts", "accept", "acme", "--by", "jane", "--version", "contract-7")
    assert (alone.code, len(alone.err.splitlines())) == (2, 1)
    refused = call("organizations", "accept", "acme-corp", "--by", "jane")
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    call("organizations", "authorize", "acme-corp", "jane", "--authority", "general counsel")
    done = call("organizations", "accept", "acme-corp", "--by", "jane", "--json")
    assert done.code == 0, done.err
    made = {one["terms"]["version"]: one for one in done.document["acceptances"]}
    assert made.keys() == {"v2", "contract-7"}
    proven = verified(made["contract-7"]["receipt"], acme, subject_kind=SubjectKind.ORGANIZATION, subject_id="acme-corp", person="jane")
    assert proven.claims.authority == "general counsel"
    of_account = call("accounts", "acceptances", "acme", "--json").document
    assert {one["id"] for one in of_account["acceptances"]} == {one["id"] for one in made.values()}
    assert of_account["to_accept"] == []
    assert "ALLOWED" in call("accounts", "explain", "acme", "--model", "small").out
    elsewhere = call("accounts", "withdraw", "acme", made["v2"]["id"], "--by", "jane")
    assert elsewhere.code == 2
    assert call("organizations", "withdraw", "acme-corp", made["v2"]["id"], "--by", "bob").code == 2
    assert call("organizations", "withdraw", "acme-corp", made["v2"]["id"], "--by", "jane").code == 0
    assert [one["version"] for one in call("organizations", "acceptances", "acme-corp", "--json").document["to_accept"]] == ["v2"]


def test_only_the_contract_is_left_to_the_organization(acme: Path, call: Call) -> None:
    publish(call, acme, "contract-7", header='series = "contract-7"\norganization = "acme-corp"')
    call("accounts", "set", "acme", "--organization", "acme-corp")
    call("accounts", "accept", "acme", "--by", "jane")
    done = call("accounts", "accept", "acme", "--by", "jane")
    assert (done.code, "contract-7 (only for organization acme-corp)" in done.err) == (2, True)


def test_facts_and_tokens_of_others_do_not_stand_in_the_way(acme: Path, call: Call) -> None:
    """Who asserts a region, and whose bearer tokens count, is asked of requests and not of an administrator."""
    settings = acme / "tos-guard.toml"
    settings.write_text(
        settings.read_text().replace('region = "account"', 'region = "host"')
        + '\n[[bearer]]\nissuer = "https://login.example"\njwks_uri = "https://login.example/jwks"\naudience = "api"\n'
    )
    assert call("accounts", "accept", "acme", "--by", "jane").code == 0


def test_an_export_holds_the_acceptances_and_erasing_keeps_them(acme: Path, call: Call) -> None:
    made = call("accounts", "accept", "acme", "--by", "jane", "--json").document["acceptances"][0]
    assert [one["id"] for one in call("accounts", "export", "acme").document["acceptances"]] == [made["id"]]
    assert call("accounts", "erase", "acme", "--yes").code == 0
    guard = Guard.from_file(acme / "tos-guard.toml")
    kept = guard.store.acceptance(made["id"]) if guard.store is not None else None
    guard.close_stores()
    assert kept is not None
    assert kept.receipt == made["receipt"]


@pytest.mark.parametrize("noun", ["accounts", "organizations"])
def test_nobody_unknown_accepts(acme: Path, call: Call, noun: str) -> None:
    for command in (
        ("accept", "nobody", "--by", "jane"),
        ("accept", "nobody", "--by", "jane", "--version", "v2"),
        ("acceptances", "nobody"),
    ):
        done = call(noun, *command)
        assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1), command
        assert "nobody" in done.err
