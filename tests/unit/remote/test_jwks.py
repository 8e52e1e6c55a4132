"""Keys of an authorization server: when it is asked, what is believed, how long that holds. No network: its client answers by itself."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx
import pytest

from authorization_server import AuthorizationServer, Monotonic, ServerKey, ed25519_key, p256_key
from loopback_issuer import START
from tos_guard.errors import ConfigurationError, DiscoveryError, StoreError
from tos_guard.keys import _foreign
from tos_guard.remote import JWKSource, JWKSPolicy
from tos_guard.testing import FixedClock

URI = "https://keys.example.com/oauth/jwks.json"
OLD = timedelta(minutes=10)
OVERDUE = timedelta(minutes=15)


class Asked:
    """A source, the server that it asks, and one clock for all."""

    def __init__(self, **given: Any) -> None:
        self.server = AuthorizationServer()
        self.clock = FixedClock(START)
        self.counted: Counter[str] = Counter()
        self.questions = 0
        self.began = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.status = 200
        known: dict[str, Any] = {"clock": self.clock, "monotonic": Monotonic(self.clock), "unsafe_any_address": True}
        self.source = JWKSource(self.server.issuer, URI, client=self.client, **(known | given))
        self.source.watch(self.count)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self.answer))

    def answer(self, request: httpx.Request) -> httpx.Response:
        assert str(request.url) == URI
        self.questions += 1
        self.began.set()
        assert self.gate.wait(30)
        return httpx.Response(self.status, content=self.server.key_set(), headers={"content-type": "application/jwk-set+json"})

    def count(self, event: str, failure: DiscoveryError | None) -> None:
        assert (failure is None) == (event in ("fetched", "vanished", "stale", "denied"))
        self.counted[event] += 1

    def publish(self, *keys: ServerKey) -> None:
        """Publish other keys, and have them asked for."""
        self.server.keys = list(keys)
        self.pass_by(OLD)
        self.source.refresh()

    def pass_by(self, span: timedelta) -> None:
        self.clock.advance(span)

    def kids(self) -> list[str | None]:
        return [key.kid for key in self.source.in_force().keys]


@pytest.fixture
def opened() -> Iterator[Callable[..., Asked]]:
    """Makes sources that are closed in the end."""
    made: list[Asked] = []

    def opens(**given: Any) -> Asked:
        made.append(Asked(**given))
        return made[-1]

    yield opens
    for asked in made:
        asked.gate.set()
        asked.source.close()


Opens = Callable[..., Asked]


def test_nobody_is_asked_before_keys_are_wanted(opened: Opens) -> None:
    before = threading.active_count()
    asked = opened()
    assert (asked.source.status().attempted_at, asked.source.is_known) == (None, False)
    assert threading.active_count() <= before


def test_the_first_keys_are_waited_for_by_whoever_wants_and_by_nobody_else(opened: Opens) -> None:
    asked = opened()
    with pytest.raises(StoreError, match="not been fetched"):
        asked.source.in_force()
    answer = asked.source.first_answer()
    if answer is not None:  # else it has come already
        answer.result(30)
    assert asked.kids() == ["ed-1"]
    assert asked.source.first_answer() is None
    assert asked.questions == 1


def test_many_who_wait_share_one_question_and_none_can_cancel_it(opened: Opens) -> None:
    asked = opened()
    asked.gate.clear()
    waiting = [asked.source.first_answer() for _ in range(50)]
    assert asked.began.wait(30)
    assert len({id(answer) for answer in waiting}) == 1
    assert waiting[0] is not None
    assert not waiting[0].cancel()
    asked.gate.set()
    waiting[0].result(30)
    assert (asked.questions, asked.kids()) == (1, ["ed-1"])


def test_there_is_nothing_to_wait_for_after_a_failure_until_it_has_rested(opened: Opens) -> None:
    asked = opened()
    asked.status = 500
    asked.source.refresh()
    assert asked.source.first_answer() is None
    with pytest.raises(StoreError):
        asked.source.in_force()
    asked.status = 200
    asked.pass_by(timedelta(seconds=30))
    answer = asked.source.first_answer()
    if answer is not None:
        answer.result(30)
    assert asked.kids() == ["ed-1"]
    assert asked.questions == 2


def test_keys_are_asked_for_again_when_they_are_old_and_used_meanwhile(opened: Opens) -> None:
    asked = opened()
    asked.source.refresh()
    asked.pass_by(OLD - timedelta(seconds=1))
    asked.kids()
    assert asked.questions == 1
    asked.gate.clear()
    asked.began.clear()
    asked.pass_by(timedelta(seconds=1))
    assert asked.kids() == ["ed-1"]
    assert asked.began.wait(30)
    assert asked.kids() == ["ed-1"]
    asked.gate.set()
    asked.source.refresh()
    assert asked.questions == 2


def test_an_unknown_key_is_asked_for_once_per_cooldown(opened: Opens) -> None:
    """After success and failure alike; however often it is wanted."""
    asked = opened()
    asked.source.refresh()
    for status in (200, 500, 200):
        asked.status = status
        for _ in range(1_000):
            asked.source.want()
            asked.source.in_force()
        asked.pass_by(timedelta(seconds=29.9))
        before = asked.questions
        asked.source.refresh()
        assert asked.questions == before
        asked.pass_by(timedelta(seconds=0.1))
        asked.source.refresh()
        assert asked.questions == before + 1


def test_a_question_rests_from_its_end(opened: Opens) -> None:
    """So that a slow server is not asked again as soon as it has answered."""
    asked = opened()
    asked.gate.clear()
    answer = asked.source.first_answer()
    assert asked.began.wait(30)
    asked.pass_by(timedelta(seconds=29))
    asked.gate.set()
    assert answer is not None
    answer.result(30)
    asked.pass_by(timedelta(seconds=29))
    assert asked.source.refresh().failure is None
    assert asked.questions == 1


def test_the_same_keys_are_the_same_object_and_other_keys_another(opened: Opens) -> None:
    """Whoever keeps results by the keys may go on keeping them."""
    asked = opened()
    asked.source.refresh()
    first = asked.source.in_force()
    asked.publish(ed25519_key())
    assert asked.source.in_force() is first
    asked.publish(ed25519_key(), ed25519_key("ed-2"))
    assert asked.source.in_force() is not first
    assert asked.counted == {"fetched": 3}


def test_a_key_that_vanishes_is_out_of_force_and_counted(opened: Opens) -> None:
    asked = opened()
    asked.server.keys.append(ed25519_key("ed-2"))
    asked.source.refresh()
    asked.publish(ed25519_key("ed-2"))
    assert (asked.kids(), asked.counted["vanished"]) == (["ed-2"], 1)


def other_curve(kid: str) -> ServerKey:
    return p256_key(kid)


def other_number(kid: str) -> ServerKey:
    return ed25519_key(kid, seed="attacker")


@pytest.mark.parametrize("other", [other_curve, other_number])
@pytest.mark.parametrize("vanish", [False, True], ids=["at once", "after it had vanished"])
def test_another_key_under_a_known_id_is_refused_and_the_old_ones_stay(
    opened: Opens, other: Callable[[str], ServerKey], vanish: bool, caplog: pytest.LogCaptureFixture
) -> None:
    asked = opened()
    asked.source.refresh()
    if vanish:
        asked.publish(ed25519_key("ed-2"))
    before = asked.kids()
    asked.publish(ed25519_key("ed-2"), other("ed-1"))
    status = asked.source.status()
    assert (asked.kids(), status.is_refused, asked.counted["replaced"]) == (before, True, 1)
    assert "was another key before" in str(status.failure)
    assert "was another key before" in caplog.text


def test_a_key_may_be_given_its_other_name_but_no_other_algorithm(opened: Opens) -> None:
    asked = opened()
    asked.source.refresh()
    key = ed25519_key()
    asked.publish(ServerKey(key.kid, "Ed25519", key.jwk | {"alg": "Ed25519"}, key.sign))
    assert asked.counted == {"fetched": 2}
    assert not _foreign.ForeignKey("r", "RS256", 1).is_same_key(_foreign.ForeignKey("r", "PS256", 1))


def test_one_key_without_an_id_can_be_replaced(opened: Opens) -> None:
    """There is nothing to tell it by."""
    asked = opened()
    one, other = (ServerKey("", "EdDSA", {**ed25519_key(seed).jwk, "kid": None}, ed25519_key(seed).sign) for seed in ("a", "b"))
    for key in (one, other):
        del key.jwk["kid"]
    asked.server.keys = [one]
    asked.source.refresh()
    asked.publish(other)
    assert asked.counted == {"fetched": 2}


def test_the_memory_of_ids_is_bounded(opened: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = opened()
    for round_ in range(20):
        asked.publish(*(ed25519_key(f"{round_}-{number}") for number in range(64)))
    assert len(asked.source._believed) == 1_024


@pytest.mark.parametrize("mode", ["local", "deny"])
def test_overdue_keys_go_on_or_deny_as_configured_and_each_use_is_counted(opened: Opens, mode: Any) -> None:
    asked = opened(policy=JWKSPolicy(mode=mode))
    asked.source.refresh()
    asked.status = 500
    asked.pass_by(OVERDUE - timedelta(seconds=1))
    assert asked.kids() == ["ed-1"]
    assert asked.counted["stale"] == asked.counted["denied"] == 0
    asked.pass_by(timedelta(seconds=1))
    for _ in range(3):
        if mode == "local":
            assert asked.kids() == ["ed-1"]
        else:
            with pytest.raises(StoreError, match="0:15:00 old"):
                asked.source.in_force()
    assert (asked.counted["stale"], asked.counted["denied"]) == ((3, 0) if mode == "local" else (0, 3))
    status = asked.source.status()
    assert (status.is_overdue, status.mode) == (True, mode)
    asked.status = 200
    asked.pass_by(timedelta(seconds=30))
    asked.source.refresh()
    assert asked.kids() == ["ed-1"]
    assert not asked.source.status().is_overdue


def test_keys_that_are_never_refreshed_are_not_used_for_ever(opened: Opens) -> None:
    asked = opened()
    asked.source.refresh()
    asked.status = 500
    asked.pass_by(timedelta(days=7) - timedelta(seconds=1))
    assert asked.kids() == ["ed-1"]
    asked.pass_by(timedelta(seconds=1))
    with pytest.raises(StoreError, match="7 days, 0:00:00 old"):
        asked.source.in_force()


def test_a_clock_that_is_set_neither_ages_keys_nor_brings_questions(opened: Opens) -> None:
    seconds = FixedClock(START)
    asked = opened(monotonic=Monotonic(seconds), policy=JWKSPolicy(mode="deny"))
    asked.source.refresh()
    for hours in (-5, 10, -400, 4_000):
        asked.pass_by(timedelta(hours=hours))
        asked.source.want()
        asked.source.refresh()
        assert asked.kids() == ["ed-1"]
    assert asked.questions == 1


def test_how_things_stand_is_told_without_asking(opened: Opens) -> None:
    asked = opened()
    asked.source.refresh()
    asked.status = 404
    asked.pass_by(OLD)
    asked.source.refresh()
    status = asked.source.status()
    assert (status.issuer, status.uri, status.kids) == (asked.server.issuer, URI, ("ed-1",))
    assert (status.fetched_at, status.attempted_at) == (START, START + OLD)
    assert (status.is_refused, str(status.failure)) == (False, f"{URI}: answers with status 404. Keys that are known already stay in use.")
    assert asked.questions == 2


def test_whoever_is_told_and_raises_fails_no_request(opened: Opens, caplog: pytest.LogCaptureFixture) -> None:
    def count(event: str, failure: DiscoveryError | None) -> None:
        raise RuntimeError(event)

    asked = opened()
    asked.source.watch(count)
    assert asked.source.refresh().kids == ("ed-1",)
    asked.pass_by(OVERDUE)
    assert asked.kids() == ["ed-1"]
    assert "could not be told" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("x"), RecursionError(), MemoryError(), OSError("disk"), httpx.DecodingError("x")])
def test_whatever_a_client_raises_the_thread_lives_on(opened: Opens, error: Exception) -> None:
    broken = True

    def client() -> httpx.AsyncClient:
        if broken:
            raise error
        return asked.client()

    asked = opened()
    asked.source._client = client
    assert asked.source.refresh().failure is not None
    broken = False
    asked.pass_by(timedelta(seconds=30))
    assert asked.source.refresh().kids == ("ed-1",)


def test_where_there_is_no_thread_to_be_had_it_is_tried_again(
    opened: Opens, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = opened()

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        assert asked.source.first_answer() is None
        assert asked.source.refresh().kids == ()
    assert "no thread to fetch the keys" in caplog.text
    assert asked.source.refresh().kids == ("ed-1",)


def test_once_closed_nobody_is_asked_and_known_keys_stay(opened: Opens) -> None:
    asked = opened()
    asked.source.refresh()
    asked.source.close()
    asked.pass_by(OLD)
    asked.source.want()
    asked.source.refresh()
    assert (asked.kids(), asked.questions) == (["ed-1"], 1)


def test_a_source_closed_before_use_asks_nobody(opened: Opens) -> None:
    asked = opened()
    asked.source.close()
    assert asked.source.first_answer() is None
    assert asked.source.refresh().kids == ()
    assert asked.questions == 0


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("when", ["idle", "asking"])
def test_a_child_process_keeps_the_keys_and_asks_with_a_thread_of_its_own(opened: Opens, when: str) -> None:
    """Also where a lock was held and a question was under way when it was forked."""
    asked = opened()
    asked.source.refresh()
    if when == "asking":
        asked.pass_by(OLD)
        asked.gate.clear()
        asked.began.clear()
        asked.kids()
        assert asked.began.wait(30)
        asked.source._lock.acquire()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            logging.disable()
            asked.gate = threading.Event()
            asked.gate.set()
            before = asked.questions
            asked.kids()
            asked.clock.advance(OLD)
            code = 0 if asked.source.refresh().failure is None and asked.questions == before + 1 else 2
        finally:
            os._exit(code)
    if when == "asking":
        asked.source._lock.release()
    with ThreadPoolExecutor(1) as pool:
        _, status = pool.submit(os.waitpid, child, 0).result(30)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize(
    "uri",
    [
        *("", "keys", "https://", "https://example.com", "http://example.com/jwks", "ftp://example.com/jwks", "https://Example.com/jwks"),
        *("https://user@example.com/jwks", "https://example.com:0/jwks", "https://example.com:99999/jwks", "https://example.com/a b"),
        *(
            "https://example.com/jwks#x",
            "https://2130706433x/..\n",
            "file:///etc/passwd",
            "http://127.0.0.1.example.com/jwks",
            "http://[::2]/x",
        ),
    ],
)
def test_an_address_that_is_none_is_refused_at_start(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="jwks_uri"):
        JWKSource("https://login.example.com", uri)


@pytest.mark.parametrize("uri", ["https://a.example.com:8443/keys?p=sign_in&v=2", "http://localhost:1/", "http://[::1]:80/jwks.json"])
def test_an_address_may_have_a_port_and_a_query(uri: str) -> None:
    assert JWKSource("https://login.example.com", uri).uri == uri


@pytest.mark.parametrize(
    "changes",
    [
        {"cooldown": timedelta(seconds=29)},
        {"grace": timedelta(0)},
        {"max_stale": timedelta(hours=23)},
        {"refresh_after": timedelta(0)},
        {"mode": "allow"},
    ],
)
def test_a_policy_that_could_not_hold_its_promises_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        JWKSPolicy(**changes)
