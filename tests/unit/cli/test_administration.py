"""What an operator does: init, keys, accounts, terms, records."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tos_guard.errors import EXIT_CODES
from tos_guard.guard import Guard
from tos_guard.keys import parse_key_set
from tos_guard.ledger import ExchangeRecord, RecordType
from tos_guard.rights import hash_secret, parse_api_key
from tos_guard.stores import KeyFolder, SQLiteStore
from tos_guard.types import KeyPurpose
from tos_guard.verify import open_key_history

Call = Callable[..., Any]
ISSUER = "https://api.example.com"


def store(folder: Path) -> SQLiteStore:
    return SQLiteStore(folder / "tos-guard.db", issuer=ISSUER, clock=lambda: datetime.now(UTC))


def record(rid: str, account_id: str, *, finished: int = 1_795_000_000_000) -> ExchangeRecord:
    return ExchangeRecord(
        type=RecordType.EXCHANGE, issuer=ISSUER, rid=rid, sub="s", started=finished, finished=finished, status=200, action="generate",
        model="small", purpose="undeclared", decision="allow", reasons=("tos_clause:serve",), terms_version="1", terms_sha256="x" * 43,
        usage_sha256="x" * 43, jti=f"jti-{rid}", account_id=account_id,
    )  # fmt: skip


# init


@pytest.mark.parametrize("sample", ["minimal", "complete"])
def test_a_guard_starts_from_what_init_made(call: Call, tmp_path: Path, sample: str) -> None:
    done = call("init", "new/folder", "--issuer", ISSUER, "--terms", sample)
    assert (done.code, done.out.splitlines()[-1]) == (0, "guard.install(app)")
    guard = Guard.from_file(tmp_path / "new" / "folder" / "tos-guard.toml")
    assert guard.terms.uri.startswith(ISSUER)
    guard.close_stores()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new/folder/keys").glob("*.key")} == {0o600}


def test_what_init_comments_out_can_be_used(call: Call, tmp_path: Path) -> None:
    """A reader takes the signs away, and the settings still hold."""
    assert call("init", "--issuer", ISSUER).code == 0
    path = tmp_path / "tos-guard.toml"
    path.write_text(re.sub(r"^# (?=mode =|\[\[limits|id =|quantity =|amount =|window =)", "", path.read_text(), flags=re.MULTILINE))
    guard = Guard.from_file(path)
    assert (guard.settings.mode, [limit.id for limit in guard.settings.limits]) == ("monitor", ["tokens-per-minute"])
    guard.close_stores()


def test_init_puts_the_issuer_into_settings_and_terms(call: Call, tmp_path: Path) -> None:
    assert call("init", "--issuer", "http://localhost:8000").code == 0
    assert "api.example.com" not in (tmp_path / "tos-guard.toml").read_text() + (tmp_path / "terms" / "minimal.toml").read_text()


@pytest.mark.parametrize("taken", ["tos-guard.toml", "terms/minimal.toml", "terms/minimal.md", "keys/registry.json", "tos-guard.db"])
def test_init_overwrites_nothing(call: Call, tmp_path: Path, taken: str) -> None:
    path = tmp_path / taken
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    done = call("init", "--issuer", ISSUER)
    assert done.code == 2
    assert taken in done.err
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    "issuer", ["api.example.com", "https://x/", 'https://x"y', "https://x\ny", "http://example.com", "https://" + "a" * 99, ""]
)
def test_init_refuses_an_issuer_that_tokens_cannot_name_and_makes_nothing(call: Call, tmp_path: Path, issuer: str) -> None:
    done = call("init", "--issuer", issuer)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_samples_are_those_of_the_examples(root: Path) -> None:
    for path in (root / "src" / "tos_guard" / "cli" / "samples").iterdir():
        assert path.read_bytes() == (root / "examples" / "terms" / path.name).read_bytes(), path.name


# settings


def test_settings_are_found_by_option_then_environment_then_folder(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        assert call("init", name, "--issuer", f"https://{name}.example").code == 0
    assert call("keys", "list").code == 2
    monkeypatch.setenv("TOS_GUARD_CONFIG", "a/tos-guard.toml")
    assert call("keys", "list", "--json").document["issuer"] == "https://a.example"
    assert call("keys", "list", "--json", "--config", "b/tos-guard.toml").document["issuer"] == "https://b.example"
    monkeypatch.delenv("TOS_GUARD_CONFIG")
    monkeypatch.chdir(tmp_path / "b")
    assert call("keys", "list", "--json").document["issuer"] == "https://b.example"


# keys


def test_keys_are_made_once(provider: Path, call: Call) -> None:
    done = call("keys", "generate")
    assert done.code == 2
    assert "rotate" in done.err
    for path in (provider / "keys").iterdir():
        path.unlink()
    made = call("keys", "generate", "--json").document
    assert [(key["purpose"], key["state"]) for key in made["keys"]] == [
        ("provenance", "in force"),
        ("key-history", "in force"),
        ("receipt", "in force"),
    ]


def test_a_rotation_is_published_before_it_signs(provider: Path, call: Call) -> None:
    fresh = call("keys", "rotate", "--lead", "2h", "--json").document["key"]
    assert fresh["state"] == "next"
    assert 7_100 < fresh["not_before"] - datetime.now(UTC).timestamp() <= 7_200
    keys = parse_key_set(call("keys", "jwks").out.encode())
    assert fresh["kid"] in {key.kid for key in keys.keys}
    assert call("keys", "rotate").code == 2
    assert [key["state"] for key in call("keys", "list", "--json").document["keys"]] == ["in force", "in force", "in force", "next"]
    assert "next" in call("keys", "list").out


def test_the_key_of_receipts_is_rotated_by_its_name(provider: Path, call: Call) -> None:
    fresh = call("keys", "rotate", "--purpose", "receipt", "--json").document["key"]
    assert (fresh["purpose"], fresh["state"]) == ("receipt", "next")
    assert call("keys", "rotate").code == 0, "that of tokens is another"
    assert call("keys", "rotate", "--purpose", "key-history").code == 2


@pytest.mark.parametrize("command", ["list", "jwks", "history", "rotate"])
def test_keys_from_before_receipts_get_theirs_at_the_next_command(provider: Path, call: Call, command: str) -> None:
    folder = KeyFolder(provider / "keys")
    history = folder.history()
    folder._write(replace(history, keys=tuple(key for key in history.keys if key.purpose is not KeyPurpose.RECEIPT)))
    assert call("keys", command).code == 0
    assert {key.purpose for key in folder.history().keys} == set(KeyPurpose)


@pytest.mark.parametrize("lead", ["", "1w", "-1", "1.5h", "1h30m", "٣", "9999999999"])
def test_a_span_that_is_none_is_named(provider: Path, call: Call, lead: str) -> None:
    done = call("keys", "rotate", f"--lead={lead}")
    assert done.code == 2
    assert "--lead" in done.err


def test_a_revoked_key_stays_in_the_history(provider: Path, call: Call) -> None:
    kid = call("keys", "list", "--json").document["keys"][0]["kid"]
    done = call("keys", "revoke", kid, "--reason", "compromised", "--json")
    assert (done.code, done.document["key"]["state"]) == (0, "revoked")
    trusted = parse_key_set(call("keys", "jwks").out.encode())
    history = open_key_history(call("keys", "history").out.strip(), trusted=trusted, expected_issuer=ISSUER)
    assert {key.kid: key.reason for key in history.keys}[kid] == "compromised"
    assert call("keys", "history", "--json").document["sequence"] == history.sequence


def test_a_key_id_may_begin_with_a_dash(provider: Path, call: Call) -> None:
    done = call("keys", "revoke", "-abc", "--reason", "superseded")
    assert done.code == 2
    assert "no key -abc" in done.err


# accounts


def test_a_key_is_shown_once_and_opens_its_account(provider: Path, call: Call) -> None:
    assert call("accounts", "add", "acme", "--model", "small", "--model", "large", "--region", "DE", "--kind", "enterprise").code == 0
    done = call("accounts", "key", "acme", "--label", "laptop")
    assert done.code == 0
    public_id, secret = parse_api_key(done.out.strip())
    assert secret not in done.err
    with store(provider) as opened:
        account = opened.by_api_key(public_id, hash_secret(secret, opened.pepper()))
    assert account is not None
    assert (account.id, account.models, account.region) == ("acme", {"small", "large"}, "DE")
    assert secret not in call("accounts", "show", "acme").out + call("accounts", "export", "acme").out
    assert call("accounts", "revoke-key", public_id, "--reason", "lost").code == 0
    assert call("accounts", "show", "acme", "--json").document["keys"][0]["revoked"] is not None
    with store(provider) as opened:
        assert opened.by_api_key(public_id, hash_secret(secret, opened.pepper())) is None


def test_an_account_is_suspended_and_reinstated_with_a_reason(provider: Path, call: Call) -> None:
    call("accounts", "add", "acme", "--model", "*")
    assert call("accounts", "suspend", "acme").code == 2  # no reason
    assert call("accounts", "suspend", "acme", "--reason", "extraction").code == 0
    assert call("accounts", "list", "--json").document["accounts"][0]["standing"] == "suspended"
    assert call("accounts", "reinstate", "acme", "--reason", "appeal upheld").code == 0
    history = call("accounts", "show", "acme", "--json").document["history"]
    assert [(change["detail"], change["reason"]) for change in history[1:]] == [("suspended", "extraction"), ("good", "appeal upheld")]


def test_rights_are_changed_one_by_one(provider: Path, call: Call) -> None:
    call("accounts", "add", "acme", "--model", "small")
    assert call("accounts", "set", "acme").code == 2
    assert call("accounts", "set", "acme", "--action", "generate", "--action", "embed", "--organization", "Acme").code == 0
    account = call("accounts", "show", "acme", "--json").document["account"]
    assert (account["models"], account["actions"], account["organization"], account["version"]) == (
        ["small"],
        ["embed", "generate"],
        "Acme",
        2,
    )


def test_an_account_without_a_model_is_pointed_out(provider: Path, call: Call) -> None:
    assert "no model" in call("accounts", "add", "acme").err


@pytest.mark.parametrize(
    "options", [["--region", "Germany"], ["--kind", "Big Corp"], ["--action", "Generate!"], ["--model", ""], ["--verification", "\x1b[2J"]]
)
def test_a_wrong_right_is_named_and_nothing_added(provider: Path, call: Call, options: list[str]) -> None:
    done = call("accounts", "add", "acme", *options)
    assert done.code == 2
    assert options[0].removeprefix("--") in done.err
    assert "\x1b" not in done.err
    assert call("accounts", "list", "--json").document["accounts"] == []


def test_grants_are_those_of_the_terms_and_can_be_voided(provider: Path, call: Call) -> None:
    call("accounts", "add", "acme", "--model", "small")
    unknown = call("accounts", "grant", "acme", "everything", "--reason", "why not")
    assert unknown.code == 2
    assert "licensed-distillation" in unknown.err
    given = call(
        "accounts",
        "grant",
        "acme",
        "licensed-distillation",
        "--id",
        "lic-7",
        "--until",
        "2099-12-31",
        "--model",
        "small",
        "--reason",
        "contract",
    )
    assert given.code == 0, given.err
    grant = call("accounts", "show", "acme", "--json").document["account"]["grants"][0]
    assert (grant["id"], grant["not_after"], grant["models"]) == ("lic-7", "2099-12-31T23:59:59Z", ["small"])
    assert "contract" in call("accounts", "show", "acme").out
    assert call("accounts", "void-grant", "acme", "lic-7", "--reason", "ended").code == 0
    assert call("accounts", "void-grant", "acme", "lic-7").code == 2
    (voided,) = call("accounts", "show", "acme", "--json").document["account"]["grants"]
    assert (voided["id"], voided["voided"] is not None, voided["void_reason"]) == ("lic-7", True, "ended")
    assert " voided 20" in next(line for line in call("accounts", "show", "acme").out.splitlines() if line.startswith("grant"))
    assert "lic-7" not in call("accounts", "list").out


@pytest.mark.parametrize("until", ["tomorrow", "2026-13-01", "2026-11-22T10:00:00", "1e9", "9" * 40])
def test_a_moment_that_is_none_is_named(provider: Path, call: Call, until: str) -> None:
    call("accounts", "add", "acme")
    done = call("accounts", "grant", "acme", "research", "--until", until, "--reason", "x")
    assert done.code == 2
    assert "--until" in done.err


def test_export_gives_everything_that_is_linked(provider: Path, call: Call) -> None:
    call("accounts", "add", "acme", "--model", "small")
    call("accounts", "add", "other", "--model", "small")
    call("accounts", "key", "acme")
    with store(provider) as opened:
        for rid, account in (("r1", "acme"), ("r2", "acme"), ("r3", "other")):
            opened.append(record(rid, account)).result(30)
    exported = call("accounts", "export", "acme").document
    members = {"version", "issuer", "exported", "account", "keys", "history", "acceptances", "appeals", "records", "kept_seals"}
    assert exported.keys() == members
    assert [found["rid"] for found in exported["records"]] == ["r1", "r2"]
    assert len(exported["keys"]) == 1


def test_an_erased_account_is_gone_and_its_records_prove_tokens_still(provider: Path, call: Call) -> None:
    call("accounts", "add", "acme-corporation", "--model", "small")
    call("accounts", "key", "acme-corporation")
    with store(provider) as opened:
        opened.append(record("r1", "acme-corporation")).result(30)
    assert call("accounts", "erase", "acme-corporation").code == 2
    assert call("accounts", "list", "--json").document["accounts"] != []
    done = call("accounts", "erase", "acme-corporation", "--yes", "--json")
    assert (done.code, done.document["records_unlinked"]) == (0, 1)
    shown = call("records", "show", "r1", "--json").document
    assert (shown["record"]["rid"], shown["account"]) == ("r1", None)
    assert b"acme-corporation" not in b"".join(path.read_bytes() for path in provider.glob("tos-guard*.db*"))
    assert call("accounts", "erase", "acme-corporation", "--yes").code == 2


def test_an_unknown_account_is_named_by_every_command(provider: Path, call: Call) -> None:
    for arguments in (
        ("show", "nobody"),
        ("suspend", "nobody", "--reason", "x"),
        ("reinstate", "nobody"),
        ("key", "nobody"),
        ("revoke-key", "nobody"),
        ("grant", "nobody", "research", "--reason", "x"),
        ("void-grant", "nobody", "g"),
        ("set", "nobody", "--model", "x"),
        ("export", "nobody"),
        ("erase", "nobody", "--yes"),
    ):
        done = call("accounts", *arguments)
        assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1), arguments
        assert "nobody" in done.err


# terms


def test_sound_terms_pass_and_say_what_a_bare_request_gets(call: Call, root: Path) -> None:
    path = root / "examples" / "terms" / "sample-2026-11.toml"
    done = call("terms", "check", path)
    assert done.code == 0
    assert "0 errors" in done.out
    assert any(line.split() == ["default", "generate", "known", "is", "allowed", "serve"] for line in done.out.splitlines())
    document = call("terms", "check", path, "--json").document
    assert document.keys() == {"version", "file", "errors", "warnings", "findings", "bare_requests"}
    assert document["bare_requests"][0].keys() == {"kind", "action", "asserted", "allowed", "clauses"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"train-competing-model"', '"train-rival"', "unknown action"),
        ('effect = "permit"', 'effect = "allow"', "permit"),
        ("[[clause]]", "[[clause", "not TOML"),
        ("[terms]", "a = " + "[" * 5000, "not TOML"),
        ("effective = 2026-11-01", "effective = " + "1" * 5000, "not TOML"),
    ],
)
def test_terms_that_cannot_be_used_exit_1_with_file_and_line(
    call: Call, root: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    source = root / "examples" / "terms"
    (tmp_path / "minimal.md").write_bytes((source / "minimal.md").read_bytes())
    (tmp_path / "bad.toml").write_text((source / "minimal.toml").read_text().replace(old, new, 1))
    done = call("terms", "check", "bad.toml")
    assert done.code == 1
    assert message in done.out
    assert "bad.toml:" in done.out
    finding = call("terms", "check", "bad.toml", "--json").document["findings"][0]
    assert finding.keys() == {"severity", "code", "message", "file", "line", "clause"}
    assert call("terms", "show", "bad.toml").code == 2


def test_a_text_outside_its_folder_is_refused(call: Call, tmp_path: Path, root: Path) -> None:
    document = (root / "examples" / "terms" / "minimal.toml").read_text().replace('"minimal.md"', '"../../etc/passwd"')
    (tmp_path / "terms.toml").write_text(document)
    assert call("terms", "check", "terms.toml").code == 2


def test_terms_are_shown_as_understood_and_published_once(provider: Path, call: Call) -> None:
    path = provider / "terms" / "sample-2026-11.toml"
    shown = call("terms", "show", path, "--json").document
    assert shown.keys() == {"version", "sha256", "document", "text"}
    assert shown["sha256"] in call("terms", "show", path).out
    assert call("terms", "publish", path, "--json").document["terms"]["sha256"] == shown["sha256"]
    path.write_text(path.read_text().replace("may use the API", "might use the API"))
    again = call("terms", "publish", path)
    assert again.code == 2
    assert "2026-11" in again.err


def example(root: Path, folder: Path, name: str, *changes: tuple[str, str], to: str | None = None) -> Path:
    """A sample document with changes, and its text, in the current folder."""
    source = root / "examples" / "terms"
    document = (source / f"{name}.toml").read_text()
    for old, new in changes:
        assert old in document
        document = document.replace(old, new, 1)
    (folder / f"{name}.md").write_bytes((source / f"{name}.md").read_bytes())
    path = folder / f"{to or name}.toml"
    path.write_text(document)
    return path


def test_what_is_published_is_listed_with_its_series_and_state(provider: Path, call: Call, root: Path) -> None:
    """A contract, a supplement, and a version to come, beside the general terms of `init`."""
    for name in ("contract-7-1", "preview-2026-11"):
        path = example(root, provider, name, ("effective = 2026-11-15", "effective = 2020-01-01"))
        assert call("terms", "publish", path).code == 0
    later = (('version = "contract-7-1"', 'version = "contract-7-2"'), ("effective = 2026-11-15", "effective = 2199-01-01"))
    done = call("terms", "publish", example(root, provider, "contract-7-1", *later, to="contract-7-2"))
    assert (done.code, "from 2199-01-01 on" in done.err) == (0, True)
    done = call("terms", "list", "--json")
    rows = {row["version"]: row for row in done.document["terms"]}
    assert list(rows)[1:] == ["contract-7-1", "contract-7-2", "preview-2026-11"]
    assert [rows[name]["state"] for name in ("contract-7-1", "contract-7-2", "preview-2026-11")] == ["in force", "to come", "in force"]
    assert rows["contract-7-1"] | {"sha256": "", "uri": ""} == {
        "series": "contract-7", "version": "contract-7-1", "effective": "2020-01-01", "state": "in force", "acceptance": "required",
        "material": True, "grace_days": 0, "organization": "acme-corp", "models": [], "locale": "en",
        "replaces": ["benchmark-research", "no-resale"], "uri": "", "sha256": "",
    }  # fmt: skip
    table = call("terms", "list").out
    assert "organization acme-corp" in table
    assert "models large-preview" in table
    assert "required; 0 days of grace" in table


def test_an_older_version_is_shown_as_replaced(provider: Path, call: Call, root: Path) -> None:
    for version, day, material in (("p-1", "2020-01-01", "true"), ("p-2", "2020-02-01", "false")):
        changes = (
            ('series = "preview"', f'series = "preview"\nmaterial = {material}\nacceptance = "required"'),
            ('version = "preview-2026-11"', f'version = "{version}"'),
            ("effective = 2026-11-15", f"effective = {day}"),
        )
        assert call("terms", "publish", example(root, provider, "preview-2026-11", *changes, to=version)).code == 0
    rows = {row["version"]: row["state"] for row in call("terms", "list", "--json").document["terms"]}
    assert (rows["p-1"], rows["p-2"]) == ("replaced", "in force")
    assert "required; not material" in call("terms", "list").out


def test_a_published_version_is_shown_by_its_name(provider: Path, call: Call, root: Path) -> None:
    call("terms", "publish", example(root, provider, "contract-7-1"))
    for folder in provider.glob("contract-7-1.*"):
        folder.unlink()
    done = call("terms", "show", "contract-7-1")
    assert done.code == 0
    for words in ("contract-7", "organization acme-corp", "benchmark-research, no-resale", "required; 0 days of grace"):
        assert words in done.out
    assert call("terms", "show", "contract-7-1", "--json").document["document"]["terms"]["organization"] == "acme-corp"
    missing = call("terms", "show", "contract-8")
    assert (missing.code, "neither a file nor a published version" in missing.err) == (2, True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([("no-resale", "no-such-clause")], "no clause no-such-clause"),
        ([('version = "contract-7-1"', 'version = "contract-7-2"'), ('"acme-corp"', '"other"')], "series contract-7 is for acme-corp"),
        ([('version = "contract-7-1"', 'version = "contract-7-2"'), ("2026-11-15", "2026-11-14")], "before version contract-7-1"),
        ([("[[clause]]", '[[clause]]\nid = "v"\neffect = "prohibit"\naction = "generate"\nwhen = { verification = "none" }\n[[clause]]')],
         "has no source"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_published_terms_is_not_published(
    provider: Path, call: Call, root: Path, changes: list[tuple[str, str]], said: str
) -> None:
    """What is published never changes, so it is checked first."""
    if len(changes) > 1:
        assert call("terms", "publish", example(root, provider, "contract-7-1")).code == 0
    before = call("terms", "list").out
    done = call("terms", "publish", example(root, provider, "contract-7-1", *changes, to="changed"))
    assert (done.code, said in done.err, "Nothing was published" in done.err) == (2, True, True), done.err
    assert "changed.toml:" in done.err
    assert call("terms", "list").out == before


def test_warnings_are_told_and_do_not_keep_from_publishing(provider: Path, call: Call, root: Path) -> None:
    path = example(root, provider, "contract-7-1", ('acceptance = "required"', 'acceptance = "none"'))
    done = call("terms", "publish", path, "--json")
    assert (done.code, [finding["code"] for finding in done.document["warnings"]]) == (0, ["contract-without-acceptance"])
    assert "contract-without-acceptance" in call("terms", "publish", path).err, "publishing it again changes nothing"


def test_a_contract_is_checked_beside_the_general_terms(call: Call, root: Path) -> None:
    folder = root / "examples" / "terms"
    alone = call("terms", "check", folder / "contract-7-1.toml", "--json").document
    assert not any(row["allowed"] for row in alone["bare_requests"]), "a contract alone permits nothing"
    beside = call("terms", "check", folder / "contract-7-1.toml", "--general", folder / "sample-2026-11.toml", "--json").document
    assert (beside["errors"], beside["warnings"]) == (0, 0)
    allowed = {row["action"]: row for row in beside["bare_requests"] if row["asserted"] == "known" and row["kind"] == "default"}
    assert (allowed["generate"]["allowed"], allowed["generate"]["clauses"]) == (True, ["serve"])
    assert allowed["fine-tune"]["clauses"] == ["contract-7/no-fine-tuning"]
    wrong = call("terms", "check", folder / "contract-7-1.toml", "--general", folder / "minimal.toml")
    assert (wrong.code, "unknown-clause" in wrong.out) == (1, True)


# records


def test_a_record_is_found_by_request_id_and_by_token_id(provider: Path, call: Call) -> None:
    with store(provider) as opened:
        opened.append(record("r1", "acme")).result(30)
    by_request, by_token = call("records", "show", "r1", "--json"), call("records", "show", "jti-r1", "--json")
    assert by_request.document == by_token.document
    assert by_request.document.keys() == {"version", "record", "account"}
    assert "acme" in call("records", "show", "r1").out
    assert call("records", "show", "r2").code == 2


def test_purge_deletes_what_is_past_its_retention_only(provider: Path, call: Call) -> None:
    with store(provider) as opened:
        opened.append(record("old", "acme", finished=1_000)).result(30)
        opened.append(record("new", "acme", finished=int(datetime.now(UTC).timestamp() * 1000))).result(30)
    assert call("records", "purge", "--json").document["deleted"] == 1
    assert call("records", "show", "new").code == 0
    assert call("records", "purge").out == "0 deleted\n"


# all


def test_every_json_document_says_its_version(provider: Path, call: Call) -> None:
    call("accounts", "add", "acme")
    for arguments in (("keys", "list"), ("keys", "history"), ("accounts", "list"), ("accounts", "show", "acme"), ("records", "purge")):
        assert call(*arguments, "--json").document["version"] == 1


def test_usage_errors_are_one_line_and_exit_2(call: Call) -> None:
    for arguments in (
        ("frob",),
        ("keys",),
        ("keys", "frob"),
        ("verify",),
        ("verify", "x", "--frob"),
        ("verify", "x", "--as", "poem"),
        ("init",),
    ):
        done = call(*arguments)
        assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1), arguments
        assert "--help" in done.err


def test_no_verdict_is_the_code_of_a_usage_error() -> None:
    assert 2 not in EXIT_CODES.values()
    assert json.dumps(dict(EXIT_CODES)) == ('{"valid": 0, "invalid": 1, "incomplete": 1, "undecidable": 3, "unacceptable": 4, "absent": 5}')
