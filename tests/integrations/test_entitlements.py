"""Entitlements pulled from a real server: what changes, what does not, and what becomes of accounts when the server fails."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from outside_systems import START, OutsideSystem, serve_outside, write
from tos_guard.config import EntitlementSettings
from tos_guard.errors import ConfigurationError, ConflictError, DiscoveryError, MalformedError, NotFoundError, StoreError
from tos_guard.guard import EntitlementSource, EntitlementSync
from tos_guard.remote import EntitlementClient
from tos_guard.rights import Account, Grant
from tos_guard.telemetry import Telemetry
from tos_guard.testing import FixedClock, MemoryStore

LICENCE = {"id": "lic", "type": "licensed-distillation", "models": ["small"]}
LIMIT = 64 * 1024


class Pulling:
    """A source, an account of ours, and what pulls."""

    def __init__(self, system: OutsideSystem, **settings: Any) -> None:
        mode = settings.pop("mode", "deny")
        timeout = settings.pop("timeout", timedelta(seconds=20))
        token = settings.pop("token_is", None)
        self.system = system
        self.clock = FixedClock(START + timedelta(minutes=1))
        self.store = MemoryStore(issuer="https://api.example.com", clock=self.clock)
        self.store.add_account(Account(id="acme", region="DE"))
        self.telemetry = Telemetry(clock=self.clock)
        source = EntitlementSettings(**{"name": "crm", "url": system.url, "stale_if_error_seconds": 3_600} | settings)
        client = EntitlementClient(system.url, max_bytes=LIMIT, timeout=timeout, token=token)
        self.sync = EntitlementSync(
            self.store,
            {"crm": EntitlementSource(source, client.fetch)},
            mode=mode,
            limits=frozenset({"tokens"}),
            telemetry=self.telemetry,
            clock=self.clock,
        )

    @property
    def account(self) -> Account:
        account = self.store.by_id("acme")
        assert account is not None
        return account


@pytest.fixture
def system() -> Iterator[OutsideSystem]:
    with serve_outside() as served:
        yield served


def test_what_changed_is_applied_and_what_did_not_is_not_even_sent(system: OutsideSystem) -> None:
    pulling = Pulling(system)
    system.say(acme={"models": ["small"], "limits": {"tokens": 5}, "grants": [LICENCE]})
    first = pulling.sync.pull("crm")
    assert (first.outcome, first.changed, first.skipped) == ("applied", ("acme",), {})
    assert (pulling.account.models, pulling.account.region, pulling.account.version) == ({"small"}, "DE", 2)
    assert pulling.sync.pull("crm").outcome == "unchanged"
    assert system.answers == [200, 304]
    assert system.asked[1]["if-none-match"] == system.etag
    system.say(acme={"models": ["small"], "limits": {"tokens": 5}, "grants": [LICENCE]})
    again = pulling.sync.pull("crm")
    assert (again.outcome, again.changed, pulling.account.version) == ("applied", (), 2)
    assert [step.actor for step in pulling.store.history("acme")] == ["", "entitlements:crm"]


def test_what_vanishes_from_the_document_is_lost(system: OutsideSystem) -> None:
    pulling = Pulling(system)
    pulling.store.add_grant("acme", Grant(id="res-1", type="research"))
    system.say(acme={"models": ["small"], "grants": [LICENCE]})
    pulling.sync.pull("crm")
    system.say()
    assert pulling.sync.pull("crm").changed == ("acme",)
    assert pulling.account.models == frozenset()
    assert [(grant.id, grant.voided is None) for grant in pulling.account.grants] == [("res-1", True), ("crm.lic", False)]
    assert pulling.store.by_id("acme") is not None, "nothing is ever deleted"


def test_unknown_accounts_wait_for_somebody_to_add_them(system: OutsideSystem) -> None:
    """As long as one is not as the document says, the document is asked for whole."""
    pulling = Pulling(system)
    system.say(acme={"models": ["small"]}, later={"models": ["small"]})
    assert pulling.sync.pull("crm").skipped == {"later": "unknown account"}
    pulling.store.add_account(Account(id="later"))
    assert pulling.sync.pull("crm").changed == ("later",)
    assert pulling.sync.pull("crm").outcome == "unchanged"
    assert system.answers == [200, 200, 304]


def test_accounts_are_added_where_the_settings_say_so(system: OutsideSystem) -> None:
    pulling = Pulling(system, create=True)
    system.say(new={"models": ["small"], "kind": "partner"})
    assert pulling.sync.pull("crm").changed == ("new",)
    added = pulling.store.by_id("new")
    assert added is not None
    assert (added.kind, added.version) == ("partner", 1)


def test_what_an_administrator_changed_of_it_is_set_again_with_the_next_document(system: OutsideSystem) -> None:
    pulling = Pulling(system)
    system.say(acme={"models": ["small"]})
    pulling.sync.pull("crm")
    changed = pulling.account.model_copy(update={"models": frozenset({"large"}), "region": "FR"})
    pulling.store.put_account(changed, actor="dana")
    system.say(acme={"models": ["small"]}, other={})
    pulling.sync.pull("crm")
    assert (pulling.account.models, pulling.account.region) == ({"small"}, "FR")


def test_the_token_is_read_at_each_question_and_told_to_nobody_else(system: OutsideSystem) -> None:
    tokens = iter(["first", "second\n"])
    pulling = Pulling(system, token_is=lambda: next(tokens))
    pulling.sync.pull("crm")
    pulling.sync.pull("crm")
    assert [asked["authorization"] for asked in system.asked] == ["Bearer first", "Bearer second"]
    refused = Pulling(system, token_is=lambda: "a\r\nb: c")
    with pytest.raises(ConfigurationError) as caught:
        refused.sync.pull("crm")
    assert "a\r\n" not in str(caught.value)
    assert len(system.asked) == 2


def redirect(request: BaseHTTPRequestHandler) -> None:
    write(request, 302, location="/elsewhere")


def cut(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("content-type", "application/json")
    request.send_header("content-length", "1000")
    request.end_headers()
    request.wfile.write(b'{"version": 1')
    request.close_connection = True


def drip(request: BaseHTTPRequestHandler) -> None:
    """A byte in time for each read, and never the end."""
    request.send_response(200)
    request.send_header("content-type", "application/json")
    request.send_header("content-length", "1000")
    request.end_headers()
    for _ in range(100):
        request.wfile.write(b" ")
        request.wfile.flush()
        if stopped.wait(0.05):
            return


stopped = threading.Event()


@pytest.mark.parametrize(
    ("handler", "error", "what"),
    [
        pytest.param(lambda request: write(request, 500), DiscoveryError, "status 500", id="500"),
        pytest.param(lambda request: write(request, 200, b"<html>"), MalformedError, "JSON", id="garbage"),
        pytest.param(lambda request: write(request, 200, b"{}"), MalformedError, "version", id="another document"),
        pytest.param(lambda request: write(request, 200), MalformedError, "JSON", id="empty"),
        pytest.param(lambda request: write(request, 200, b"{}", content_type="text/html"), DiscoveryError, "text/html", id="type"),
        pytest.param(lambda request: write(request, 200, b" " * (LIMIT + 1)), DiscoveryError, "larger than", id="huge"),
        pytest.param(
            lambda request: write(request, 200, gzip.compress(b" " * 10_000_000), content_encoding="gzip"),
            DiscoveryError,
            "coding",
            id="bomb",
        ),
        pytest.param(lambda request: write(request, 204), DiscoveryError, "status 204", id="204"),
        pytest.param(redirect, DiscoveryError, "redirects", id="redirect"),
        pytest.param(cut, DiscoveryError, "could not be fetched", id="cut"),
        pytest.param(drip, DiscoveryError, "too long", id="slow"),
    ],
)
def test_a_source_that_fails_changes_nothing_and_is_remembered(
    system: OutsideSystem, handler: Callable[[BaseHTTPRequestHandler], None], error: type[Exception], what: str
) -> None:
    pulling = Pulling(system, timeout=timedelta(seconds=0.5 if handler is drip else 20))
    system.accounts = {"acme": {"models": ["small"]}}
    pulling.sync.push("crm", system.document)
    before = pulling.account
    system.handler = handler
    with pytest.raises(error, match=what):
        pulling.sync.pull("crm")
    assert pulling.account == before
    state = pulling.sync.state("crm")
    assert (state.failed, state.heard) == (pulling.clock.now, pulling.clock.now)
    assert what in state.failure
    if handler is not drip:  # whose patience is short
        system.handler = None
        assert pulling.sync.pull("crm").changed == ()
        assert pulling.sync.state("crm").failed is None


def test_a_failure_does_not_forget_which_document_is_in_force(system: OutsideSystem) -> None:
    pulling = Pulling(system)
    system.say(acme={"models": ["small"]})
    pulling.sync.pull("crm")
    system.handler = lambda request: write(request, 500)
    with pytest.raises(DiscoveryError):
        pulling.sync.pull("crm")
    system.handler = None
    assert pulling.sync.pull("crm").outcome == "unchanged"
    assert system.answers == [200, 304]


def test_of_an_address_that_may_hold_a_secret_only_the_origin_is_told(system: OutsideSystem) -> None:
    """What failed is logged, and kept for people to see."""
    pulling = Pulling(system)
    system.handler = lambda request: write(request, 500)
    with pytest.raises(DiscoveryError) as raised:
        pulling.sync.pull("crm")
    for said in (str(raised.value), pulling.sync.state("crm").failure):
        assert system.origin in said
        assert "entitlements.json" not in said


def test_no_change_is_no_answer_to_whoever_has_nothing(system: OutsideSystem) -> None:
    """A 304 to a question without a condition is not believed."""
    pulling = Pulling(system)
    system.handler = lambda request: write(request, 304)
    with pytest.raises(DiscoveryError, match=r"redirects|304"):
        pulling.sync.pull("crm")
    assert pulling.sync.state("crm").heard is None


@pytest.mark.parametrize("etag", ["", "no quotes", '"' + "x" * 300 + '"', '"a\x7f"'])
def test_a_wrong_etag_is_not_sent_back(system: OutsideSystem, etag: str) -> None:
    pulling = Pulling(system)
    system.say(acme={"models": ["small"]})
    system.etag = etag
    pulling.sync.pull("crm")
    pulling.sync.pull("crm")
    assert ["if-none-match" in asked for asked in system.asked] == [False, False]
    assert pulling.account.version == 2


def test_an_older_document_never_follows_a_newer_one(system: OutsideSystem) -> None:
    pulling = Pulling(system)
    system.say(acme={"models": ["small"]})
    old = system.document
    system.say(acme={"models": ["large"]})
    pulling.sync.pull("crm")
    with pytest.raises(MalformedError, match="before the one in force"):
        pulling.sync.push("crm", old)
    assert pulling.account.models == {"large"}


def test_a_limit_that_there_is_not_refuses_the_document(system: OutsideSystem) -> None:
    pulling = Pulling(system)
    system.say(acme={"models": ["small"], "limits": {"tokenz": 5}})
    with pytest.raises(MalformedError, match="tokenz"):
        pulling.sync.pull("crm")
    assert pulling.account.version == 1


def test_rights_lapse_with_a_source_that_is_silent_for_too_long_and_come_back_with_it(system: OutsideSystem) -> None:
    pulling = Pulling(system)
    system.say(acme={"models": ["small"], "kind": "partner", "grants": [LICENCE]})
    pulling.sync.pull("crm")
    system.handler = lambda request: write(request, 503)
    pulling.clock.advance(timedelta(hours=1))
    with pytest.raises(DiscoveryError):
        pulling.sync.pull("crm")
    assert pulling.account.models == {"small"}
    pulling.clock.advance(timedelta(seconds=1))
    for _ in range(2):
        with pytest.raises(DiscoveryError):
            pulling.sync.pull("crm")
        assert (pulling.account.models, pulling.account.kind, pulling.account.version) == (frozenset(), "partner", 3)
        assert not any(grant.is_active(pulling.clock.now) for grant in pulling.account.grants)
    assert pulling.sync.state("crm").lapsed
    assert pulling.telemetry.counts["degraded:entitlements:deny"] == 1
    assert pulling.store.history("acme")[-1].reason == "the source is silent"
    system.handler = None
    assert pulling.sync.pull("crm").changed == ("acme",), "the whole document, since none is in force"
    assert pulling.account.models == {"small"}
    assert [grant.id for grant in pulling.account.grants if grant.is_active(pulling.clock.now)] == ["crm.lic.2"]
    assert not pulling.sync.state("crm").lapsed


def test_rights_hold_on_where_the_mode_is_local_and_each_use_is_counted(system: OutsideSystem) -> None:
    pulling = Pulling(system, mode="local")
    system.say(acme={"models": ["small"], "grants": [LICENCE]})
    pulling.sync.pull("crm")
    system.handler = lambda request: write(request, 503)
    pulling.clock.advance(timedelta(days=30))
    for _ in range(3):
        with pytest.raises(DiscoveryError):
            pulling.sync.pull("crm")
    assert pulling.account.version == 2
    assert pulling.telemetry.counts["degraded:entitlements:local"] == 3


def test_a_source_is_asked_when_it_is_due_by_one_process(system: OutsideSystem) -> None:
    """Two processes of a fleet over one store: each looks, one asks."""
    pulling = Pulling(system, interval_seconds=60)
    system.say(acme={"models": ["small"]})
    other = Pulling(system, interval_seconds=60)
    other.sync._store = pulling.store
    other.clock = other.sync._clock = pulling.clock
    for sync in (pulling.sync, other.sync, pulling.sync):
        assert 0 < sync.work("crm") <= 15
    assert len(system.asked) == 1
    pulling.clock.advance(timedelta(seconds=60))
    for sync in (other.sync, pulling.sync):
        sync.work("crm")
    assert system.answers == [200, 304]
    system.came.clear()
    other.sync.announce("crm")
    assert system.came.wait(10), "the process that hears of a change asks at once"
    other.sync.close()
    assert system.answers == [200, 304, 304]


def test_two_processes_never_apply_at_once(system: OutsideSystem) -> None:
    pulling = Pulling(system)
    system.say(acme={"models": ["small"]})
    refused: list[Exception] = []

    def meanwhile(request: BaseHTTPRequestHandler) -> None:
        try:
            pulling.sync.push("crm", system.document)
        except ConflictError as error:
            refused.append(error)
        write(request, 200, system.document)

    system.handler = meanwhile
    pulling.sync.pull("crm")
    assert len(refused) == 1
    pulling.sync.push("crm", system.document)


def test_a_process_that_died_at_it_holds_others_up_for_a_minute(system: OutsideSystem) -> None:
    pulling = Pulling(system)
    system.say(acme={"models": ["small"]})
    pulling.sync._alone("crm").__enter__()
    with pytest.raises(ConflictError):
        pulling.sync.pull("crm")
    pulling.clock.advance(timedelta(minutes=1))
    assert pulling.sync.pull("crm").outcome == "applied"


def test_a_process_that_slept_over_its_turn_does_not_apply_what_it_was_told_before(system: OutsideSystem) -> None:
    pulling = Pulling(system)
    system.say(acme={"models": ["small", "large"]})
    older = system.document

    def meanwhile(request: BaseHTTPRequestHandler) -> None:
        pulling.clock.advance(timedelta(minutes=2))
        system.say(acme={"models": ["small"]})
        pulling.sync.push("crm", system.document)
        write(request, 200, older)

    system.handler = meanwhile
    with pytest.raises(StoreError, match="silent for too long"):
        pulling.sync.pull("crm")
    assert (pulling.account.models, pulling.sync.state("crm").issued) == ({"small"}, system.issued)


def test_a_process_that_falls_asleep_between_two_accounts_leaves_the_rest_to_whoever_went_on(
    system: OutsideSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulling = Pulling(system)
    pulling.store.add_account(Account(id="beta"))
    system.say(acme={"models": ["small"]}, beta={"models": ["small", "large"]})
    entitle = pulling.store.entitle

    def sleeping(*given: Any, **named: Any) -> Any:
        monkeypatch.undo()
        pulling.clock.advance(timedelta(minutes=2))
        system.say(acme={"models": ["small"]}, beta={"models": ["small"]})
        pulling.sync.push("crm", system.document)
        return entitle(*given, **named)

    monkeypatch.setattr(pulling.store, "entitle", sleeping)
    with pytest.raises(StoreError, match="silent for too long"):
        pulling.sync.pull("crm")
    beta = pulling.store.by_id("beta")
    assert beta is not None
    assert (beta.models, pulling.sync.state("crm").issued) == ({"small"}, system.issued)


def test_all_that_a_source_gave_can_be_taken_back(system: OutsideSystem) -> None:
    """Also where the source is not in the settings any longer."""
    pulling = Pulling(system)
    system.say(acme={"models": ["small"], "grants": [LICENCE]})
    pulling.sync.pull("crm")
    bare = EntitlementSync(pulling.store, {}, mode="deny", limits=frozenset(), telemetry=pulling.telemetry, clock=pulling.clock)
    assert bare.withdraw("crm").changed == ("acme",)
    assert pulling.account.models == frozenset()
    with pytest.raises(NotFoundError):
        bare.pull("crm")


def test_state_of_another_release_is_the_beginning() -> None:
    from tos_guard.guard import SourceState

    for text in ("", "{", "[]", '{"more": 1}', '{"heard": "yesterday"}', json.dumps({"etag": "x"})):
        assert isinstance(SourceState.parse(text), SourceState)
