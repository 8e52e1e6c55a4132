"""What was decided is decided the same when it is asked later, whatever has changed since (`tos-guard accounts explain`)."""

from __future__ import annotations

import json
import random
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tos_guard.cli import main
from tos_guard.config import GuardSettings
from tos_guard.errors import AccountError
from tos_guard.exchange import Exchange
from tos_guard.guard import Guard, Meter, RequestView, explain_moment, explain_request
from tos_guard.limits import Dimension, Limit, Quantity, Sliding
from tos_guard.rights import Account, AuthorizedPerson, Grant, Measure, Organization
from tos_guard.stores import SQLiteStore
from tos_guard.stores._limits_memory import MemoryLimits
from tos_guard.terms import TermsVersion, new_acceptance, new_withdrawal, parse_terms
from tos_guard.testing import FixedClock, SeededEntropy, SeededSigner
from tos_guard.types import AcceptanceMethod, Facts, Identification, Standing, SubjectKind

ISSUER = "https://api.example.com"
CHAT = "/v1/chat/completions"
MODELS = ("small", "large")
PURPOSES = ("undeclared", "distillation", "benchmark")


def terms(version: str, effective: date, **header: Any) -> TermsVersion:
    """A version that forbids distillation without a licence, and one purpose more in each version after the first."""
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in header.items())
    text = f"""
[terms]
version = "{version}"
title = "Terms"
uri = "{ISSUER}/terms/{version}"
text = "t.md"
effective = {effective}
{lines}
[[grant]]
id = "licence"

[[clause]]
id = "serve"
effect = "permit"
action = "generate"
text = "Served."

[[clause]]
id = "distil"
effect = "prohibit"
action = "generate"
when = {{ purpose = "distillation" }}
unless = {{ grant = "licence" }}
text = "A licence is needed."

[[clause]]
id = "watch-{version}"
effect = "prohibit"
action = "generate"
when = {{ purpose = "benchmark" }}
shadow = {"false" if version.endswith("2") else "true"}
text = "Watched."
"""
    return parse_terms(text.encode(), b"Words.")


class World:
    """A guard over a real store, and everything that can be done to an account."""

    def __init__(self, folder: Path) -> None:
        self.clock = FixedClock(datetime(2026, 11, 1, 12, tzinfo=UTC))
        self.entropy = SeededEntropy()
        self.store = SQLiteStore(folder / "tos-guard.db", issuer=ISSUER, clock=self.clock, entropy=self.entropy)
        self.first = terms("g-1", date(2026, 10, 1), acceptance="required", grace_days=1)
        self.store.publish_terms(self.first)
        self.store.add_organization(Organization(id="corp", authorized=(AuthorizedPerson(id="ann", authority="director"),)))
        self.store.add_account(Account(id="acme", models=frozenset(MODELS), organization="corp"))
        limit = Limit(id="few", quantity=Quantity.REQUESTS, amount=3, per=(Dimension.ACCOUNT,), window=Sliding(60))
        settings = {"issuer": ISSUER, "terms": "t", "store": "s", "keys": "k", "routes": {CHAT: "openai-chat"}}
        self.guard = Guard(
            GuardSettings.model_validate(settings),
            terms=self.first,
            accounts=self.store,
            rights=self.store,
            archive=self.store,
            records=self.store,
            signer=SeededSigner(),
            pepper=self.store.pepper(),
            identify=lambda _: "acme",
            meter=Meter((limit,)),
            limits=MemoryLimits(clock=self.clock, monotonic=lambda: self.clock().timestamp()),
            clock=self.clock,
            entropy=self.entropy,
        )

    def ask(self, model: str = "small", purpose: str = "undeclared", user: str | None = None) -> Exchange:
        """One request, decided and recorded."""
        headers = [(b"ai-usage-purpose", purpose.encode())] if purpose != "undeclared" else []
        view = RequestView("POST", CHAT, headers)
        body = {"model": model, "messages": [], **({"user": user} if user else {})}
        route = self.guard.route(CHAT)
        assert route is not None
        holder = self.guard.run(self.guard.authenticate(view))
        exchange = self.guard.run(self.guard.admit(holder, view, route, json.dumps(body).encode()))
        if exchange.is_refused:
            self.guard.run(self.guard.keep_denial(exchange))
        else:
            self.guard.run(self.guard.close(exchange, None, status=0, sealed=False, reason="client_gone"))
        return exchange

    def accept(self, version: TermsVersion) -> None:
        """The account's organization accepts."""
        made = new_acceptance(
            version,
            issuer=ISSUER,
            subject_kind=SubjectKind.ORGANIZATION,
            subject_id="corp",
            accepted_by="ann",
            authority="director",
            method=AcceptanceMethod.IMPORT,
            identified_by=Identification.ADMINISTRATOR,
            now=self.clock(),
            entropy=self.entropy,
        )
        self.store.add_acceptance(made)

    def change(self, chance: random.Random, step: int) -> None:
        """Something that alters what the account may do."""
        match chance.randrange(10):
            case 0:
                self.store.set_standing("acme", chance.choice([Standing.GOOD, Standing.GOOD, Standing.SUSPENDED]), "test")
            case 1:
                conditions: dict[str, Any] = chance.choice([{}, {"purposes": {"distillation"}}, {"models": {"small"}}])
                self.store.add_grant("acme", Grant(id=f"l-{step}", type="licence", **conditions))
            case 2:
                held = list(self.guard.run(self.guard.authenticate(RequestView("POST", CHAT, []))).account.grants)
                for grant in [one for one in held if one.voided is None][:1]:
                    self.store.void_grant("acme", grant.id, "test")
            case 3:
                day = self.clock().date() + timedelta(days=chance.randrange(2))
                rule = chance.choice(["required", "none"])
                self.store.publish_terms(terms(f"g-{step}-{chance.choice('12')}", day, acceptance=rule, grace_days=chance.randrange(3)))
            case 4:
                self.accept(chance.choice(list(self.guard.rulebook.shelf.versions)))
            case 5:
                given = [one for one in self.store.acceptances(SubjectKind.ORGANIZATION, "corp") if one.withdrawal is None]
                for acceptance in given[:1]:
                    self.store.withdraw_acceptance(
                        new_withdrawal(
                            acceptance,
                            withdrawn_by="ann",
                            authority="director",
                            method=AcceptanceMethod.IMPORT,
                            identified_by=Identification.ADMINISTRATOR,
                            now=self.clock(),
                            entropy=self.entropy,
                        )
                    )
            case 6:
                account = self.store.by_id("acme")
                assert account is not None
                self.store.put_account(account.model_copy(update={"models": frozenset(chance.sample(MODELS, chance.randrange(3)))}))
            case 7:
                begins = self.clock() + timedelta(hours=chance.randrange(-12, 12))
                deadline = begins + timedelta(hours=chance.randrange(1, 24))
                measure = Measure(
                    id=f"m-{step}",
                    step=chance.choice([Standing.WARNED, Standing.THROTTLED, Standing.RESTRICTED]),
                    reason="test",
                    begins=begins,
                    requires=chance.choice(["accept", "contact"]),
                    deadline=deadline,
                    then=chance.choice([None, Standing.SUSPENDED]),
                    expires=deadline + timedelta(hours=chance.randrange(1, 24)),
                )
                self.store.take_measure("acme", measure)
            case 8:
                account = self.store.by_id("acme")
                assert account is not None
                for taken in [one for one in account.measures if one.lifted is None][:1]:
                    self.store.lift_measure("acme", taken.id, "test")
            case _:
                self.store.block_end_user("acme", self.guard.end_user_hash("acme", f"user-{step}"), "test")


@pytest.mark.parametrize("seed", range(6))
def test_a_past_decision_is_explained_as_it_was_made(tmp_path: Path, seed: int) -> None:
    """After any sequence of changes to account, grants, terms and acceptances, each request is decided as it was then."""
    chance = random.Random(seed)
    world = World(tmp_path)
    if seed % 2:
        world.accept(world.first)
    asked: list[Exchange] = []
    for step in range(40):
        world.clock.advance(timedelta(seconds=chance.choice([1, 30, 3_600, 40_000])))
        world.change(chance, step)
        for _ in range(2):
            user = chance.choice([None, f"user-{step}", "someone"])
            asked.append(world.ask(chance.choice(MODELS), chance.choice(PURPOSES), user))
    world.store.flush()
    outcomes = set()
    for exchange in asked:
        told = explain_request(world.store, exchange.ids.rid)
        assert told.agrees, (exchange.decision, told.explanation.decision)
        outcomes.add(exchange.decision.reasons[0].code)
        if told.refused_by_limit is None:
            assert told.explanation.decision == exchange.decision
            assert told.explanation.rights.usage.sha256 == exchange.in_force.usage.sha256
    assert len(outcomes) >= 3, outcomes


def test_the_measure_that_held_then_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command too: a measure that has ended since, and one that held and did not decide."""
    world = World(tmp_path)
    world.accept(world.first)
    until = world.clock() + timedelta(hours=1)
    for name, step in (("m-1", Standing.SUSPENDED), ("m-2", Standing.WARNED)):
        world.store.take_measure("acme", Measure(id=name, step=step, reason="spam", begins=world.clock(), expires=until))
    denied = world.ask()
    world.clock.advance(timedelta(days=1))
    assert world.ask().decision.allowed
    world.store.lift_measure("acme", "m-1", "a mistake")
    world.store.flush()
    told = explain_request(world.store, denied.ids.rid)
    standing = told.explanation.standing
    assert told.agrees
    assert (standing.step, standing.measure and standing.measure.id) == (Standing.SUSPENDED, "m-1")
    (tmp_path / "t.toml").write_text("unused")
    settings = f'issuer = "{ISSUER}"\nterms = "t.toml"\nstore = "tos-guard.db"\nkeys = "keys"\n[routes]\n"{CHAT}" = "openai-chat"\n'
    (tmp_path / "tos-guard.toml").write_text(settings)
    config = ["--config", str(tmp_path / "tos-guard.toml")]
    assert main(["accounts", "explain", "--request", denied.ids.rid, *config]) == 0
    said = capsys.readouterr().out
    for words in ("the account was suspended, by measure m-1", "m-1 suspended", "(decided the standing)", "m-2 warned", "(in force)"):
        assert words in said
    assert main(["accounts", "explain", "--request", denied.ids.rid, "--json", *config]) == 0
    measures = json.loads(capsys.readouterr().out)["explanation"]["measures"]
    assert [(one["id"], one["decided"]) for one in measures] == [("m-1", True), ("m-2", False)]


def test_a_limit_that_refused_is_told_from_the_record(tmp_path: Path) -> None:
    """Counters are not history: the rights of that time allowed it, and the record names the limit."""
    world = World(tmp_path)
    world.accept(world.first)
    exchanges = [world.ask() for _ in range(4)]
    world.store.flush()
    told = explain_request(world.store, exchanges[-1].ids.rid)
    assert (told.refused_by_limit, told.agrees, told.explanation.decision.allowed) == ("few", True, True)
    assert explain_request(world.store, exchanges[0].ids.rid).refused_by_limit is None


def test_a_record_that_does_not_fit_the_past_is_told_to_differ(tmp_path: Path) -> None:
    """Whoever edits a stored account's past is found out by the records, and not the other way round."""
    world = World(tmp_path)
    world.accept(world.first)
    exchange = world.ask()
    world.store.flush()
    with world.store._accounts.write() as connection:
        connection.execute("UPDATE account_version SET document = replace(document, '\"small\"', '\"tiny\"')")
    assert not explain_request(world.store, exchange.ids.rid).agrees


def test_what_cannot_be_explained_says_why(tmp_path: Path) -> None:
    """An unknown request, an erased account, a moment before the account or the terms."""
    world = World(tmp_path)
    world.accept(world.first)
    exchange = world.ask()
    world.store.flush()
    facts = Facts(action="generate", model="small")
    with pytest.raises(AccountError, match="no record"):
        explain_request(world.store, "req_unknown")
    with pytest.raises(AccountError, match="did not exist"):
        explain_moment(world.store, "acme", facts, datetime(2020, 1, 1, tzinfo=UTC))
    world.store.erase_account(ISSUER, "acme")
    with pytest.raises(AccountError, match="erased"):
        explain_request(world.store, exchange.ids.rid)


def test_the_command_says_it_in_words_and_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Decision, reasons with the clauses' own words, terms and acceptance; the exit code says whether the record agrees."""
    world = World(tmp_path)
    world.accept(world.first)
    denied = world.ask(purpose="distillation")
    world.store.flush()
    (tmp_path / "t.toml").write_text("unused")
    settings = f'issuer = "{ISSUER}"\nterms = "t.toml"\nstore = "tos-guard.db"\nkeys = "keys"\n[routes]\n"{CHAT}" = "openai-chat"\n'
    (tmp_path / "tos-guard.toml").write_text(settings)
    config = ["--config", str(tmp_path / "tos-guard.toml")]
    assert main(["accounts", "explain", "--request", denied.ids.rid, *config]) == 0
    said = capsys.readouterr().out
    for words in ("DENIED", "clause distil (prohibit): A licence is needed.", "accepted", "by ann", "the same as decided once more"):
        assert words in said
    at = denied.started.isoformat()
    assert main(["accounts", "explain", "acme", "--at", at, "--model", "small", "--json", *config]) == 0
    told = json.loads(capsys.readouterr().out)["explanation"]
    assert (told["decision"], told["reasons"][0]["names"], told["terms"][0]["version"]) == ("allow", "serve", "g-1")
    assert main(["accounts", "explain", *config]) == 2
    assert "Give --request" in capsys.readouterr().err


@pytest.mark.parametrize("stable", [False, True])
def test_token_and_record_name_the_acceptance_only_where_the_account_asked_to_be_known(tmp_path: Path, stable: bool) -> None:
    """Its id is the same for all of an account's exchanges: it would link what a customer publishes, and outlive an erasure."""
    world = World(tmp_path)
    world.accept(world.first)
    account = world.store.by_id("acme")
    assert account is not None
    world.store.put_account(account.model_copy(update={"stable_sub": stable}))
    exchange = world.ask()
    world.store.flush()
    acceptance = explain_request(world.store, exchange.ids.rid).explanation.acceptance
    assert acceptance is not None
    record = world.store.by_request_id(ISSUER, exchange.ids.rid)
    assert record is not None
    named = acceptance.id if stable else None
    assert (record.receipt, exchange.pending_claims(world.clock()).terms.receipt) == (named, named)
