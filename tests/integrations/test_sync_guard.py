"""The synchronous guard goes the same way as the asynchronous one (DESIGN D1): same verdict, same claims, same record."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kit import CHAT, ISSUER, REQUEST, Kit, ask, whole
from tos_guard.errors import AuthenticationError, SignerError, StoreError
from tos_guard.exchange import Head, respond
from tos_guard.guard import Caller, Guard, RequestView
from tos_guard.provenance import parse_token
from tos_guard.types import Standing
from tos_guard.verify import verify_body

BODY = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"Hello."},"finish_reason":"stop"}]}'


def synchronous(kit: Kit) -> Guard:
    """The synchronous twin of the kit's guard."""
    return Guard(
        kit.guard.settings,
        terms=kit.guard.terms,
        accounts=kit.store,
        records=kit.store,
        signer=kit.signer,
        pepper=kit.store.pepper(),
        clock=kit.clock,
    )


def view(key: str | None) -> RequestView:
    """A request's head."""
    return RequestView("POST", CHAT, [] if key is None else [(b"authorization", f"Bearer {key}".encode())])


def serve(guard: Guard, key: str) -> bytes:
    """One exchange, driven as an adapter drives it."""
    caller = guard.run(guard.authenticate(view(key)))
    route = guard.route(CHAT)
    assert route is not None
    exchange = guard.run(guard.admit(caller, view(key), route, REQUEST))
    assert exchange.decision.allowed
    response = respond(exchange, Head(200, [(b"content-type", b"application/json")]), bodiless=False)
    response.feed(BODY)
    assert response.finish().seal
    sealed = guard.run(guard.seal(exchange, response, 200))
    out = response.sealed(sealed).out
    guard.run(guard.close(exchange, response, status=200, sealed=True))
    return out


async def test_both_colours_say_the_same() -> None:
    """But for fresh ids, claims and record are equal."""
    kit = Kit()
    body = serve(synchronous(kit), kit.key)
    answer = await ask(kit.wrap(whole(BODY)), key=kit.key)
    tokens = [json.loads(found)["ai_provenance"]["token"] for found in (body, answer.body)]
    fresh = {"jti", "rid", "sub", "req"}
    claims = [{name: value for name, value in parse_token(token).jws.payload.items() if name not in fresh} for token in tokens]
    assert claims[0] == claims[1]
    verify_body(body, trust=kit.trust, now=kit.clock())
    kit.store.flush()
    records = [record.to_document() for record in kit.store.of_account(ISSUER, "acme")]
    assert len(records) == 2
    assert (records[0]["carrier"], records[0]["completion"]) == ("json", "complete")
    assert {name for name in records[0] if records[0][name] != records[1][name]} <= fresh


def test_a_denial_is_recorded_and_said() -> None:
    """Suspended: denied with the stable code, and a record of type denial."""
    kit = Kit()
    guard = synchronous(kit)
    kit.store.set_standing("acme", Standing.SUSPENDED, "test")
    caller = guard.run(guard.authenticate(view(kit.key)))
    assert isinstance(caller, Caller)
    route = guard.route(CHAT)
    assert route is not None
    exchange = guard.run(guard.admit(caller, view(kit.key), route, REQUEST))
    assert guard.run(guard.keep_denial(exchange)).reason == "tos_account_suspended"
    kit.store.flush()
    assert [record.decision for record in kit.store.of_account(ISSUER, "acme")] == ["deny"]


def test_no_credential_is_an_authentication_error() -> None:
    """The same error as for a wrong one."""
    guard = synchronous(Kit())
    for key in (None, "nonsense"):
        with pytest.raises(AuthenticationError, match="missing or not accepted"):
            guard.run(guard.authenticate(view(key)))


@pytest.mark.parametrize(("part", "kind"), [("signer", SignerError), ("store", StoreError)])
def test_a_failing_part_is_an_error_and_no_token(part: str, kind: type[Exception]) -> None:
    """Steps that need the outside raise what the outside raised."""
    kit = Kit()
    if part == "signer":
        kit.signer.failing = True
    else:
        kit.store.fault = "before"
    with pytest.raises(kind):
        serve(synchronous(kit), kit.key)


def test_a_guard_comes_out_of_a_folder(tmp_path: Any) -> None:
    """`Guard.from_file` needs nothing but what `tos-guard init` and an operator leave."""
    from provisioned import Provider

    provider = Provider(tmp_path)
    guard = Guard.from_file(provider.settings)
    caller = guard.run(guard.authenticate(view(provider.keys["distiller"])))
    assert caller.account.id == "distiller"
    assert guard.purge() == 0
    guard.close_stores()
    with provider.store() as store:
        assert {key["kid"] for key in store.public_keys()} == {key.kid for key in provider.key_set().keys}
