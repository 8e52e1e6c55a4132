"""Terms that an operator publishes reach a guard that is running: no restart, no change of settings (docs/guides/terms.md)."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from provisioned import ISSUER, SAMPLE, Provider, now
from tos_guard.cli import main
from tos_guard.exchange import Exchange
from tos_guard.guard import Guard, RequestView
from tos_guard.stores import KeyFolder
from tos_guard.terms import TermsVersion, new_acceptance, new_withdrawal, parse_terms
from tos_guard.types import AcceptanceMethod, Identification, SubjectKind
from tos_guard.web.wellknown import PREFIX, WellKnown

CHAT = "/v1/chat/completions"
EXAMPLES = SAMPLE.parent
WITHIN_SECONDS = 1.0
"""Published terms reach every process within this (docs/adr/0007)."""


@pytest.fixture
def provider(tmp_path: Path) -> Provider:
    """A provider with a customer that belongs to an organization."""
    made = Provider(tmp_path)
    assert main(["accounts", "set", "good", "--organization", "acme-corp", "--config", str(made.settings)]) == 0
    return made


def published(provider: Provider, name: str, *changes: tuple[str, str]) -> TermsVersion:
    """Publish a sample with changes, in effect since long, as an operator does."""
    document = (EXAMPLES / f"{name}.toml").read_text().replace("effective = 2026-11-15", "effective = 2020-01-01")
    for old, new in changes:
        assert old in document
        document = document.replace(old, new)
    path, text = provider.folder / f"{name}.toml", (EXAMPLES / f"{name}.md").read_bytes()
    path.write_text(document)
    path.with_suffix(".md").write_bytes(text)
    assert main(["terms", "publish", str(path), "--config", str(provider.settings)]) == 0
    return parse_terms(document.encode(), text)


def asked(guard: Guard, key: str, model: str = "smollm2-135m") -> Exchange:
    """A request, admitted."""
    view = RequestView("POST", CHAT, [(b"authorization", f"Bearer {key}".encode())])
    caller = guard.run(guard.authenticate(view))
    route = guard.route(CHAT)
    assert route is not None
    body = b'{"model":"%s","messages":[{"role":"user","content":"Hello"}]}' % model.encode()
    return guard.run(guard.admit(caller, view, route, body))


def within_a_second(guard: Guard, key: str, met: Callable[[Exchange], bool]) -> Exchange:
    """Ask until the answer is the one, at most for a second."""
    began = time.monotonic()
    while True:
        exchange = asked(guard, key)
        if met(exchange):
            return exchange
        assert time.monotonic() - began < WITHIN_SECONDS, exchange.decision


def clauses(exchange: Exchange) -> set[str]:
    """Ids of the clauses that hold."""
    assert exchange.plan is not None
    return {clause.id for clause in exchange.plan.terms.clauses}


def reasons(exchange: Exchange) -> list[tuple[str, str | None]]:
    return [(reason.code, reason.clause) for reason in exchange.decision.reasons]


def test_a_published_contract_binds_its_organization_once_accepted_and_nobody_else(provider: Provider) -> None:
    guard = Guard.from_file(provider.settings)
    try:
        assert asked(guard, provider.keys["good"]).decision.allowed
        contract = published(provider, "contract-7-1")
        refused = within_a_second(guard, provider.keys["good"], lambda exchange: not exchange.decision.allowed)
        assert reasons(refused) == [("tos_terms_not_accepted", "contract-7-1")]
        assert asked(guard, provider.keys["distiller"]).decision.allowed, "of no organization"

        acceptance = new_acceptance(
            contract, issuer=ISSUER, subject_kind=SubjectKind.ORGANIZATION, subject_id="acme-corp", accepted_by="jane@acme.example",
            authority="general counsel", method=AcceptanceMethod.CLI, identified_by=Identification.ADMINISTRATOR, now=now(),
            entropy=secrets.token_bytes,
        )  # fmt: skip
        with provider.store() as store:
            store.add_acceptance(acceptance)
        allowed = within_a_second(guard, provider.keys["good"], lambda exchange: exchange.decision.allowed)
        assert "contract-7/resell-in-product" in clauses(allowed)
        assert "no-resale" not in clauses(allowed), "the contract replaces it"
        assert (allowed.in_force.terms.version, allowed.in_force.also) == ("2026-11", ("contract-7-1",)), "tokens name the general terms"

        with provider.store() as store:
            store.withdraw_acceptance(
                new_withdrawal(
                    acceptance, withdrawn_by="jane@acme.example", authority="general counsel", method=AcceptanceMethod.CLI,
                    identified_by=Identification.ADMINISTRATOR, now=now(), entropy=secrets.token_bytes,
                )
            )  # fmt: skip
        assert within_a_second(guard, provider.keys["good"], lambda exchange: not exchange.decision.allowed)
    finally:
        guard.close_stores()


def test_a_published_supplement_holds_for_its_models_alone(provider: Provider) -> None:
    guard = Guard.from_file(provider.settings)
    try:
        key = provider.keys["good"]
        assert asked(guard, key).in_force.also == ()
        published(provider, "preview-2026-11", ('"large-preview"', '"smollm2-135m"'))
        held = within_a_second(guard, key, lambda exchange: exchange.in_force.also != ())
        assert held.in_force.also == ("preview-2026-11",)
        assert "preview/not-for-publication" in clauses(held)
        assert asked(guard, key, "catalogue").in_force.also == ()
    finally:
        guard.close_stores()


def test_a_version_to_come_is_published_ahead_and_changes_nothing_until_its_day(provider: Provider) -> None:
    guard = Guard.from_file(provider.settings)
    try:
        key = provider.keys["good"]
        before = asked(guard, key)
        published(provider, "contract-7-1", ("effective = 2020-01-01", "effective = 2199-01-01"))
        with provider.store() as store:
            assert [stored.version for stored in store.terms_versions()] == ["2026-11", "contract-7-1"]
        assert main(["accounts", "set", "good", "--kind", "vip", "--config", str(provider.settings)]) == 0
        again = within_a_second(guard, key, lambda exchange: exchange.account_version > before.account_version)
        assert (again.decision, again.in_force) == (before.decision, before.in_force), "the guard has looked, and nothing else changed"
    finally:
        guard.close_stores()


def test_anyone_may_read_general_terms_and_supplements_and_nobody_a_contract(provider: Provider) -> None:
    """A contract names its organization; its accounts find it elsewhere."""
    guard = Guard.from_file(provider.settings)
    try:
        contract, supplement = published(provider, "contract-7-1"), published(provider, "preview-2026-11")
        known = WellKnown(guard.settings, lambda: guard.terms, KeyFolder(provider.folder / "keys"), now, archive=guard.archive)
        for version, document, text in (
            ("2026-11", guard.terms.document_bytes, guard.terms.text),
            (supplement.version, supplement.document_bytes, supplement.text),
        ):
            assert known.get("GET", f"{PREFIX}/terms/{version}")[::2] == (200, document)
            assert known.get("GET", f"{PREFIX}/terms/{version}.txt")[::2] == (200, text.encode())
        for path in (contract.version, f"{contract.version}.txt"):
            assert known.get("GET", f"{PREFIX}/terms/{path}")[0] == 404
    finally:
        guard.close_stores()
