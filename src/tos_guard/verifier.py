"""Verification with discovery: as `tos_guard.verify`, with keys fetched from issuers that the caller allows.

    >>> with Verifier(["https://api.example.com"]) as verifier:            # doctest: +SKIP
    ...     verified = verifier.verify_body(body, token=headers["AI-Provenance"])

- An issuer that is not on the list is never contacted, whatever a token says: `UntrustedIssuerError`.
- A key that is known is used without waiting. An outage of the issuer fails nothing whose key is known.
- What is proven, and how it fails, is the work of `tos_guard.verify`. Here only the keys are found, by one rule for both colours:
  generators that yield the key they want and receive the keys to trust.

`tos_guard.remote.httpx` and `tos_guard.remote.httpx2` put a verifier under the clients people already use.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Self, TypeVar

import httpx

from tos_guard.dialects import STREAM_FORMATS, TAG_MEMBER, EventStream, parse_response_json, told_form
from tos_guard.errors import MalformedError
from tos_guard.keys import KeyHistory, KeySet
from tos_guard.provenance import parse_token
from tos_guard.remote import DEFAULT_TIMEOUT, AsyncKeyDiscovery, CachePolicy, KeyDiscovery, utc_now
from tos_guard.verify import (
    Expected,
    MessagesVerifier,
    StreamVerifier,
    Trust,
    Verified,
    verify_body,
    verify_lines,
    verify_text,
    verify_token,
)
from tos_guard.verify._messages import token_in_message

__all__ = ["AsyncVerifier", "AsyncVerifierMessages", "AsyncVerifierStream", "Verifier", "VerifierMessages", "VerifierStream"]

_DEFAULT_POLICY: Final = CachePolicy()
_ESCAPE: Final = b"\\u"  # may spell any name
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A key that a token names; nothing of it is believed."""

    issuer: str
    kid: str


_Steps = Generator[_Wanted, KeySet, _Result]


def _wanted(token: object) -> _Wanted | None:
    """The key a token names, or None where it is no token: the check that follows says so in its own order."""
    if not isinstance(token, str):
        return None
    try:
        unverified = parse_token(token)
    except MalformedError:
        return None
    issuer = unverified.unverified_issuer
    return _Wanted(issuer, unverified.jws.kid) if isinstance(issuer, str) else None


def _tag_in(data: bytes) -> object:
    """The token of a body."""
    return _token_of(_parsed(data))


def _tags_in(data: bytes) -> list[object]:
    """The tokens of an event: some forms of streams carry one inside of it."""
    document = _parsed(data)
    if not isinstance(document, dict):
        return []
    form = STREAM_FORMATS.get(told_form(document) or "")
    inner = [document.get(name) for name in form.nested] if form is not None else []
    return [_token_of(holder) for holder in (document, *inner)]


def _parsed(data: bytes) -> object:
    try:
        return parse_response_json(data, where="body")
    except MalformedError:
        return None


def _token_of(holder: object) -> object:
    tag = holder.get(TAG_MEMBER) if isinstance(holder, dict) else None
    return tag.get("token") if isinstance(tag, dict) else None


def _proof(token: object, check: Callable[[Trust], Verified]) -> _Steps[Verified]:
    """Find the keys of one token, then check offline."""
    wanted = _wanted(token)
    trust = Trust({} if wanted is None else {wanted.issuer: (yield wanted)})
    return check(trust)


def _proof_of_lines(lines: bytes, token: str | None, pending: str | None, check: Callable[[Trust], Verified]) -> _Steps[Verified]:
    """Find the keys of both tokens, then check offline."""
    keys: dict[str, KeySet] = {}
    final = token if token is not None else _tag_in(lines.rstrip(b" \t\r\n").rpartition(b"\n")[2])
    for wanted in (_wanted(pending), _wanted(final)):
        if wanted is not None:
            keys[wanted.issuer] = yield wanted
    return check(Trust(keys))


class _StreamSteps:
    """The rule of streams: the keys of a token are found before the event that carries it is checked."""

    def __init__(self, clock: Callable[[], datetime], token: str | None, expected: Expected | None) -> None:
        self._keys: dict[str, KeySet] = {}
        self._checker = StreamVerifier(trust=Trust(self._keys), now=clock, token=token, expected=expected)
        self._events = EventStream()
        self._pending = token

    @property
    def done(self) -> bool:
        return self._checker.done

    def feed(self, chunk: bytes) -> _Steps[None]:
        yield from self._know_pending()
        for event in self._events.feed(chunk):
            data = event.data or b""
            if TAG_MEMBER.encode() in data or _ESCAPE in data:
                for token in _tags_in(data):
                    yield from self._know(token)
            self._checker.feed(event.raw)

    def finish(self) -> _Steps[Verified]:
        yield from self._know_pending()
        self._checker.feed(self._events.take_tail())  # which no blank line ends, and readers of lines take for an event (C18)
        return self._checker.finish()

    def _know_pending(self) -> _Steps[None]:
        pending, self._pending = self._pending, None
        yield from self._know(pending)

    def _know(self, token: object) -> _Steps[None]:
        wanted = _wanted(token)
        if wanted is not None:
            self._keys[wanted.issuer] = yield wanted


class _MessagesSteps:
    """The rule of messages: the keys of a token are found before what carries it is checked."""

    def __init__(self, clock: Callable[[], datetime], pending: str | None, method: str | None, expected: Expected | None) -> None:
        self._keys: dict[str, KeySet] = {}
        self._checker = MessagesVerifier(trust=Trust(self._keys), now=clock, pending=pending, method=method, expected=expected)
        self._pending = pending
        self._method = method

    def feed(self, message: bytes) -> _Steps[None]:
        yield from self._know_pending()
        yield from self._know(token_in_message(message, self._method))
        self._checker.feed(message)

    def finish(self, token: str | None, expected: Expected | None) -> _Steps[Verified]:
        yield from self._know_pending()
        yield from self._know(token)
        return self._checker.finish(token, expected=expected)

    def _know_pending(self) -> _Steps[None]:
        pending, self._pending = self._pending, None
        yield from self._know(pending)

    def _know(self, token: str | None) -> _Steps[None]:
        wanted = _wanted(token)
        if wanted is not None:
            self._keys[wanted.issuer] = yield wanted


class Verifier:
    """Verifies what allow-listed issuers sealed. Any thread may call.

    Args:
        issuers: Origins whose keys may be fetched.
        pinned: Keys trusted without fetching; see `tos_guard.remote.KeyDiscovery`, whose arguments these are.
        client: An `httpx.Client` to fetch keys with.
        clock: Tells the time.
        policy: When an issuer is asked again.
        histories: Key histories kept from earlier runs.
        timeout: For connecting and each read.
        unsafe_any_address: Do not check where an issuer's name leads.

    Raises:
        ConfigurationError: An issuer is not an origin we ask.
        ValueError: There is neither an issuer nor a pinned key.

    Attributes:
        discovery: Where the keys come from; tells how things stand with each issuer.
    """

    def __init__(
        self,
        issuers: Iterable[str] = (),
        *,
        pinned: KeySet | Trust | None = None,
        client: httpx.Client | None = None,
        clock: Callable[[], datetime] = utc_now,
        policy: CachePolicy = _DEFAULT_POLICY,
        histories: Iterable[KeyHistory] = (),
        timeout: timedelta = DEFAULT_TIMEOUT,
        unsafe_any_address: bool = False,
    ) -> None:
        self._clock = clock
        self.discovery: KeyDiscovery = KeyDiscovery(
            issuers,
            pinned=pinned,
            client=client,
            clock=clock,
            policy=policy,
            histories=histories,
            timeout=timeout,
            unsafe_any_address=unsafe_any_address,
        )

    @property
    def issuers(self) -> frozenset[str]:
        """Origins of the issuers that are trusted."""
        return self.discovery.issuers

    def verify_body(
        self, body: bytes, *, token: str | None = None, content_digest: str | None = None, expected: Expected | None = None
    ) -> Verified:
        """As `tos_guard.verify.verify_body`.

        Raises:
            VerificationError: As there; `UntrustedIssuerError` for an issuer that is not on the list, `DiscoveryError` where the
                issuer could not be asked for the key.
        """
        steps = _proof(
            token if token is not None else _tag_in(body),
            lambda trust: verify_body(body, trust=trust, now=self._clock(), token=token, content_digest=content_digest, expected=expected),
        )
        return self._noted(self._run(steps))

    def verify_stream(self, stream: bytes, *, token: str | None = None, expected: Expected | None = None) -> Verified:
        """As `tos_guard.verify.verify_stream`. Raises as `verify_body`."""
        checked = self.stream(token=token, expected=expected)
        checked.feed(stream)
        return checked.finish()

    def verify_lines(
        self, lines: bytes, *, token: str | None = None, pending: str | None = None, expected: Expected | None = None
    ) -> Verified:
        """As `tos_guard.verify.verify_lines`. Raises as `verify_body`."""
        steps = _proof_of_lines(
            lines,
            token,
            pending,
            lambda trust: verify_lines(lines, trust=trust, now=self._clock(), token=token, pending=pending, expected=expected),
        )
        return self._noted(self._run(steps))

    def verify_text(
        self,
        text: str,
        *,
        token: str,
        leaves: list[Any] | None = None,
        choice: int | None = None,
        expected: Expected | None = None,
    ) -> Verified:
        """As `tos_guard.verify.verify_text`. Raises as `verify_body`."""
        steps = _proof(
            token,
            lambda trust: verify_text(text, token=token, trust=trust, now=self._clock(), leaves=leaves, choice=choice, expected=expected),
        )
        return self._noted(self._run(steps))

    def verify_token(self, text: str, *, expected: Expected | None = None) -> Verified:
        """As `tos_guard.verify.verify_token`: says nothing about any content. Raises as `verify_body`."""
        return self._noted(self._run(_proof(text, lambda trust: verify_token(text, trust=trust, now=self._clock(), expected=expected))))

    def stream(self, *, token: str | None = None, expected: Expected | None = None) -> VerifierStream:
        """Check a stream as it is read.

        Args:
            token: Value of the header ``AI-Provenance``, where it was kept.
            expected: Further demands.
        """
        return VerifierStream(self, _StreamSteps(self._clock, token, expected))

    def verify_messages(
        self,
        messages: Iterable[bytes],
        *,
        token: str | None,
        pending: str | None = None,
        method: str | None = None,
        expected: Expected | None = None,
    ) -> Verified:
        """As `tos_guard.verify.verify_messages`. Raises as `verify_body`."""
        checked = self.messages(pending=pending, method=method, expected=expected)
        for message in messages:
            checked.feed(message)
        return checked.finish(token)

    def messages(self, *, pending: str | None = None, method: str | None = None, expected: Expected | None = None) -> VerifierMessages:
        """Check the messages of a gRPC call as they are read.

        Args:
            pending: Value of ``ai-provenance`` in initial metadata, where it was kept.
            method: The method that answered; see `tos_guard.verify.MessagesVerifier`.
            expected: Further demands.
        """
        return VerifierMessages(self, _MessagesSteps(self._clock, pending, method, expected))

    def _run(self, steps: _Steps[_Result]) -> _Result:
        try:
            wanted = next(steps)
            while True:
                wanted = steps.send(self.discovery.keys_of(wanted.issuer, wanted.kid))
        except StopIteration as stop:
            result: _Result = stop.value
            return result

    def _noted(self, verified: Verified) -> Verified:
        notes = self.discovery.notes(verified.claims.iss)
        return replace(verified, notes=verified.notes + notes) if notes else verified

    def close(self) -> None:
        """Close the client if it is ours."""
        self.discovery.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class VerifierStream:
    """A `tos_guard.verify.StreamVerifier` whose keys are fetched. Made by `Verifier.stream`."""

    def __init__(self, verifier: Verifier, steps: _StreamSteps) -> None:
        self._verifier = verifier
        self._steps = steps

    @property
    def done(self) -> bool:
        """Whether the stream has ended as its form has it, after which clients may stop reading."""
        return self._steps.done

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes, cut anywhere.

        Raises:
            VerificationError: The stream cannot become valid any more.
        """
        self._verifier._run(self._steps.feed(chunk))

    def finish(self) -> Verified:
        """The stream ended.

        Raises:
            VerificationError: As `tos_guard.verify.StreamVerifier.finish`.
        """
        return self._verifier._noted(self._verifier._run(self._steps.finish()))


class VerifierMessages:
    """A `tos_guard.verify.MessagesVerifier` whose keys are fetched. Made by `Verifier.messages`."""

    def __init__(self, verifier: Verifier, steps: _MessagesSteps) -> None:
        self._verifier = verifier
        self._steps = steps

    def feed(self, message: bytes) -> None:
        """Take the next message, as it was serialised.

        Raises:
            VerificationError: The call cannot become valid any more.
        """
        self._verifier._run(self._steps.feed(message))

    def finish(self, token: str | None, *, expected: Expected | None = None) -> Verified:
        """The call ended.

        Args:
            token: Value of ``ai-provenance`` in trailing metadata, or None where there was none.
            expected: Further demands in place of those given before.

        Raises:
            VerificationError: As `tos_guard.verify.MessagesVerifier.finish`.
        """
        return self._verifier._noted(self._verifier._run(self._steps.finish(token, expected)))


class AsyncVerifier:
    """`Verifier` for one event loop; arguments and errors as there, with an `httpx.AsyncClient`."""

    def __init__(
        self,
        issuers: Iterable[str] = (),
        *,
        pinned: KeySet | Trust | None = None,
        client: httpx.AsyncClient | None = None,
        clock: Callable[[], datetime] = utc_now,
        policy: CachePolicy = _DEFAULT_POLICY,
        histories: Iterable[KeyHistory] = (),
        timeout: timedelta = DEFAULT_TIMEOUT,
        unsafe_any_address: bool = False,
    ) -> None:
        self._clock = clock
        self.discovery: AsyncKeyDiscovery = AsyncKeyDiscovery(
            issuers,
            pinned=pinned,
            client=client,
            clock=clock,
            policy=policy,
            histories=histories,
            timeout=timeout,
            unsafe_any_address=unsafe_any_address,
        )

    @property
    def issuers(self) -> frozenset[str]:
        """Origins of the issuers that are trusted."""
        return self.discovery.issuers

    async def verify_body(
        self, body: bytes, *, token: str | None = None, content_digest: str | None = None, expected: Expected | None = None
    ) -> Verified:
        """As `Verifier.verify_body`."""
        steps = _proof(
            token if token is not None else _tag_in(body),
            lambda trust: verify_body(body, trust=trust, now=self._clock(), token=token, content_digest=content_digest, expected=expected),
        )
        return self._noted(await self._run(steps))

    async def verify_stream(self, stream: bytes, *, token: str | None = None, expected: Expected | None = None) -> Verified:
        """As `Verifier.verify_stream`."""
        checked = self.stream(token=token, expected=expected)
        await checked.feed(stream)
        return await checked.finish()

    async def verify_lines(
        self, lines: bytes, *, token: str | None = None, pending: str | None = None, expected: Expected | None = None
    ) -> Verified:
        """As `Verifier.verify_lines`."""
        steps = _proof_of_lines(
            lines,
            token,
            pending,
            lambda trust: verify_lines(lines, trust=trust, now=self._clock(), token=token, pending=pending, expected=expected),
        )
        return self._noted(await self._run(steps))

    async def verify_text(
        self,
        text: str,
        *,
        token: str,
        leaves: list[Any] | None = None,
        choice: int | None = None,
        expected: Expected | None = None,
    ) -> Verified:
        """As `Verifier.verify_text`."""
        steps = _proof(
            token,
            lambda trust: verify_text(text, token=token, trust=trust, now=self._clock(), leaves=leaves, choice=choice, expected=expected),
        )
        return self._noted(await self._run(steps))

    async def verify_token(self, text: str, *, expected: Expected | None = None) -> Verified:
        """As `Verifier.verify_token`."""
        steps = _proof(text, lambda trust: verify_token(text, trust=trust, now=self._clock(), expected=expected))
        return self._noted(await self._run(steps))

    def stream(self, *, token: str | None = None, expected: Expected | None = None) -> AsyncVerifierStream:
        """As `Verifier.stream`."""
        return AsyncVerifierStream(self, _StreamSteps(self._clock, token, expected))

    async def verify_messages(
        self,
        messages: Iterable[bytes],
        *,
        token: str | None,
        pending: str | None = None,
        method: str | None = None,
        expected: Expected | None = None,
    ) -> Verified:
        """As `Verifier.verify_messages`."""
        checked = self.messages(pending=pending, method=method, expected=expected)
        for message in messages:
            await checked.feed(message)
        return await checked.finish(token)

    def messages(self, *, pending: str | None = None, method: str | None = None, expected: Expected | None = None) -> AsyncVerifierMessages:
        """As `Verifier.messages`."""
        return AsyncVerifierMessages(self, _MessagesSteps(self._clock, pending, method, expected))

    async def _run(self, steps: _Steps[_Result]) -> _Result:
        try:
            wanted = next(steps)
            while True:
                wanted = steps.send(await self.discovery.keys_of(wanted.issuer, wanted.kid))
        except StopIteration as stop:
            result: _Result = stop.value
            return result

    def _noted(self, verified: Verified) -> Verified:
        notes = self.discovery.notes(verified.claims.iss)
        return replace(verified, notes=verified.notes + notes) if notes else verified

    async def aclose(self) -> None:
        """Close the client if it is ours."""
        await self.discovery.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class AsyncVerifierStream:
    """`VerifierStream` for one event loop. Made by `AsyncVerifier.stream`."""

    def __init__(self, verifier: AsyncVerifier, steps: _StreamSteps) -> None:
        self._verifier = verifier
        self._steps = steps

    @property
    def done(self) -> bool:
        """Whether the stream has ended as its form has it, after which clients may stop reading."""
        return self._steps.done

    async def feed(self, chunk: bytes) -> None:
        """As `VerifierStream.feed`."""
        await self._verifier._run(self._steps.feed(chunk))

    async def finish(self) -> Verified:
        """As `VerifierStream.finish`."""
        return self._verifier._noted(await self._verifier._run(self._steps.finish()))


class AsyncVerifierMessages:
    """`VerifierMessages` for one event loop. Made by `AsyncVerifier.messages`."""

    def __init__(self, verifier: AsyncVerifier, steps: _MessagesSteps) -> None:
        self._verifier = verifier
        self._steps = steps

    async def feed(self, message: bytes) -> None:
        """As `VerifierMessages.feed`."""
        await self._verifier._run(self._steps.feed(message))

    async def finish(self, token: str | None, *, expected: Expected | None = None) -> Verified:
        """As `VerifierMessages.finish`."""
        return self._verifier._noted(await self._verifier._run(self._steps.finish(token, expected)))
