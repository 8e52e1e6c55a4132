"""A host's own accounts: the number that tells its processes of a change, and what is known where it cannot be heard."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from engines import Valkey, running
from proxies import Proxy
from tos_guard.errors import ConfigurationError, StoreError
from tos_guard.protocols import HeardVersion
from tos_guard.stores import SharedVersion

PATIENCE = 20.0


@pytest.fixture
def name() -> str:
    return f"v{secrets.token_hex(6)}"


@pytest.fixture
def mine(valkey: str, name: str) -> Iterator[SharedVersion]:
    version = SharedVersion(valkey, name=name)
    yield version
    version.close()


@pytest.fixture
def other(valkey: str, name: str) -> Iterator[SharedVersion]:
    version = SharedVersion(valkey, name=name)
    yield version
    version.close()


def until(is_so: Callable[[], bool], seconds: float = PATIENCE) -> float:
    """How long it took."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < seconds
        time.sleep(0.002)
    return time.monotonic() - began


def raw(valkey: str) -> object:
    import redis

    return redis.Redis.from_url(valkey)


def test_a_change_is_heard_by_another(mine: SharedVersion, other: SharedVersion) -> None:
    """Each bump is another number, above the last, for whoever made it at once and for others within a second."""
    assert isinstance(mine, HeardVersion)
    before = other.version()
    assert mine.version() == before
    for _ in range(5):
        new = mine.bump()
        assert new > before
        assert mine.version() == new
        until(lambda new=new: other.version() == new, 1.0)
        before = new


def test_two_bumps_within_a_millisecond_are_two_versions(mine: SharedVersion) -> None:
    """As many numbers as bumps, from eight threads."""
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.extend(mine.bump() for _ in range(50))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 400
    assert mine.version() == max(found)


def test_a_number_that_is_gone_is_a_change(mine: SharedVersion, other: SharedVersion, valkey: str, name: str) -> None:
    """An engine that lost its memory: everybody comes to one new number, above all that were known."""
    known = max(mine.version(), mine.bump())
    until(lambda: other.version() == known)
    raw(valkey).flushdb()  # type: ignore[attr-defined]
    until(lambda: mine.version() > known and mine.version() == other.version())


def test_an_engine_that_took_over_without_the_newest_change(mine: SharedVersion, other: SharedVersion, valkey: str, name: str) -> None:
    """It has an older number; or the same one, for another change: either is a change for whoever knew the lost one."""
    client, key = raw(valkey), f"tosg:{{{name}}}:version"
    old = client.get(key) if mine.version() else b""  # type: ignore[attr-defined]
    known = mine.bump()
    until(lambda: other.version() == known)
    client.set(key, old)  # type: ignore[attr-defined]
    until(lambda: other.version() > known and mine.version() == other.version())
    known = mine.version()
    client.set(key, f"{known} {secrets.token_hex(8)}")  # type: ignore[attr-defined]
    until(lambda: other.version() > known and mine.version() == other.version())


def test_an_engine_whose_clock_was_set_back(mine: SharedVersion, valkey: str, name: str) -> None:
    """The number goes on from where it was."""
    ahead = 1000 * (int(time.time()) + 86_400)
    raw(valkey).set(f"tosg:{{{name}}}:version", f"{ahead} {secrets.token_hex(8)}")  # type: ignore[attr-defined]
    assert mine.version() == ahead
    assert mine.bump() == ahead + 1


@pytest.mark.parametrize("value", ["nonsense", "12", "0 aaaaaaaaaaaaaaaa", "99999999999999999999 aaaaaaaaaaaaaaaa", "\xff"])
def test_something_else_under_the_key_is_an_error(mine: SharedVersion, valkey: str, name: str, value: str) -> None:
    """Nobody guesses; a bump mends it."""
    raw(valkey).set(f"tosg:{{{name}}}:version", value)  # type: ignore[attr-defined]
    with pytest.raises(StoreError, match="senseless"):
        mine.version()


def test_a_number_beyond_counting_is_an_error(mine: SharedVersion, valkey: str, name: str) -> None:
    """No loop without end."""
    raw(valkey).set(f"tosg:{{{name}}}:version", "9999999999999999 aaaaaaaaaaaaaaaa")  # type: ignore[attr-defined]
    assert mine.version() == 9_999_999_999_999_999
    with pytest.raises(StoreError):
        mine.bump()


def test_whoever_cannot_hear_knows_it_and_says_so(name: str) -> None:
    """Cut off, `version` raises within a second and at once from then on; back again, it answers; both are told once."""
    with running(Valkey) as engine, Proxy(engine.port) as proxy:
        mine, other = SharedVersion(f"redis://127.0.0.1:{proxy.port}", name=name), SharedVersion(engine.url, name=name)
        told: list[tuple[str, bool]] = []
        mine.watch(lambda word, failure: told.append((word, failure is not None)))
        try:
            known = mine.version()
            assert other.version() == known
            proxy.stall()
            cut = time.monotonic()
            new = other.bump()
            while True:
                try:
                    assert mine.version() == known
                except StoreError:
                    break
                time.sleep(0.005)
            assert 0.2 < time.monotonic() - cut < 1.5
            began = time.monotonic()
            for _ in range(100):
                with pytest.raises(StoreError):
                    mine.version()
            assert time.monotonic() - began < 0.5
            assert (mine.age or 0) > 0.4
            with pytest.raises(StoreError):
                asyncio.run(mine.heard_version())
            proxy.heal()
            until(lambda: mine.is_fresh)
            assert mine.version() == new == asyncio.run(mine.heard_version())
            until(lambda: ("heard", False) in told)
            assert [word for word, _ in told if word in ("unheard", "heard")] == ["unheard", "heard"]
            assert ("unheard", True) in told
        finally:
            mine.close()
            other.close()


def test_a_subscription_that_was_cut_is_made_again(name: str) -> None:
    """Meanwhile changes are heard of by asking; that nobody listens is told, and that somebody does again."""
    with running(Valkey) as engine, Proxy(engine.port) as proxy:
        mine, other = SharedVersion(f"redis://127.0.0.1:{proxy.port}", name=name), SharedVersion(engine.url, name=name)
        told: list[str] = []
        mine.watch(lambda word, failure: told.append(word))
        try:
            mine.version()
            until(lambda: mine._subscription.is_hearing)
            mine._subscription._address = SharedVersion("redis://127.0.0.1:1", name=name)._subscription._address
            proxy.drop()
            until(lambda: "silent" in told)
            for _ in range(3):
                new = other.bump()
                until(lambda new=new: mine.version() == new, 1.0)
            mine._subscription._address = other._subscription._address
            until(lambda: "listening" in told)
        finally:
            mine.close()
            other.close()


SCRIPT = """
import os, sys
from tos_guard.stores import SharedVersion
mine = SharedVersion(sys.argv[1], name=sys.argv[2])
before = mine.version()
pid = os.fork()
if pid == 0:
    try:
        assert mine.version() >= before
        new = mine.bump()
        assert mine.version() == new
        mine.close()
    except BaseException:
        os._exit(1)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
import time
ends = time.monotonic() + 5
while mine.version() == before:
    assert time.monotonic() < ends
    time.sleep(0.01)
mine.close()
"""


def test_a_fork_has_a_hearing_of_its_own(valkey: str, name: str) -> None:
    """Child and parent hear of one another."""
    ran = subprocess.run([sys.executable, "-c", SCRIPT, valkey, name], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr


def test_what_cannot_be_used_is_refused() -> None:
    """At start, and not with the first request."""
    for bad in ("", "a b", "x" * 65):
        with pytest.raises(ConfigurationError):
            SharedVersion("redis://127.0.0.1", name=bad)
    with pytest.raises(ConfigurationError):
        SharedVersion("http://127.0.0.1")


def test_nothing_is_left_running(valkey: str, name: str) -> None:
    """Closed, it has no thread and asks nothing."""
    mine = SharedVersion(valkey, name=name)
    mine.version()
    mine.close()
    ours = {"tos-guard-hearing", "tos-guard-listener"}
    assert not [thread for thread in threading.enumerate() if thread.name in ours and thread in (mine._thread, mine._subscription._thread)]
