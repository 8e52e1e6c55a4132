"""What a verified channel decides, of either colour: bytes and metadata in, verdicts out.

- Exact bytes are judged. They are seen where a message is parsed, since an interceptor never sees them: the parser and the serialiser
  that a stub hands in are called by ones that keep the bytes of this call.
- Each call carries a nonce of its own. The token that comes back must name it, the request, and the issuer that answers for the channel.
  Nothing over gRPC is answered with an earlier token: neither idempotency keys nor stored responses are for gRPC. Attempts that a retry
  policy makes below an interceptor carry the nonce of their call, and are sealed each as its own.
- The message of a unary response is handed out when it is proven. Messages of a stream are handed out as they come, and judged at the end,
  where the iteration raises in place of ending: what has been read of a stream that then fails must not be used as if verified.
- A status other than OK is the caller's `grpc.RpcError`, as without us, unless it comes with a token that is wrong.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Protocol

from tos_guard.dialects import NONCE_METADATA, SALT_METADATA, TOKEN_METADATA
from tos_guard.errors import AbsentError, IncompleteError, MalformedError, NonceError, UnacceptableError, VerificationError
from tos_guard.remote import ResponseCheck
from tos_guard.verify import Expected, Verified

__all__ = [
    "LEFT",
    "AsyncMessagesVerifier",
    "Attempt",
    "ChannelChecks",
    "Issuer",
    "MessagesVerifier",
    "Metadata",
    "Transform",
    "has_token",
    "verified",
]

NONCE_BYTES: Final = 16
_OPTIONS: Final = ("timeout", "metadata", "credentials", "wait_for_ready", "compression")  # in the order in which grpc takes them
LEFT: Final = "was left before it could be judged"

Metadata = Iterable[tuple[str, str | bytes]]
Transform = Callable[[Any], Any]


class _Messages(Protocol):
    def feed(self, message: bytes) -> None: ...
    def finish(self, token: str | None, *, expected: Expected | None) -> Verified: ...


class _AsyncMessages(Protocol):
    async def feed(self, message: bytes) -> None: ...
    async def finish(self, token: str | None, *, expected: Expected | None) -> Verified: ...


class MessagesVerifier(Protocol):
    """What a channel needs of a verifier; `tos_guard.verifier.Verifier` is one."""

    @property
    def issuers(self) -> frozenset[str]:
        """Origins of the issuers that are trusted."""
        ...

    def messages(self, *, pending: str | None, method: str | None) -> _Messages:
        """Check the messages of a call as they are read."""
        ...


class AsyncMessagesVerifier(Protocol):
    """What an asynchronous channel needs; `tos_guard.verifier.AsyncVerifier` is one."""

    @property
    def issuers(self) -> frozenset[str]:
        """Origins of the issuers that are trusted."""
        ...

    def messages(self, *, pending: str | None, method: str | None) -> _AsyncMessages:
        """As `MessagesVerifier.messages`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelChecks:
    """What a verified channel demands of responses.

    Attributes:
        exempt_methods: Methods whose responses pass unverified, as ``/package.Service/Method``; ``*`` at the end stands for the rest.
        on_missing: ``raise`` refuses a response without any token; ``report`` hands it on and tells `on_unverified`.
        require_request: A response must bring the salt that binds its token to the request. Without it a token that is bound by its
            nonce alone is accepted, and `Verified.request_checked` is false; so it may be of a stream that ends with OK and no message, for
            `grpc.aio` may lose its initial metadata. Of a stream of requests no byte is bound.
        send_nonce: Send a fresh nonce with each call, unless the caller's metadata have one, and demand it back.
        expected: Further demands: audience, policies.
        on_verified: Called with what was proven and the call, once per call.
        on_unverified: Called with the error and the call: one that is raised, one that is reported, or an `IncompleteError` for a
            stream that the client left, or that failed, before it could be judged.
    """

    exempt_methods: Collection[str] = ()
    on_missing: Literal["raise", "report"] = "raise"
    require_request: bool = True
    send_nonce: bool = True
    expected: Expected | None = None
    on_verified: Callable[[Verified, Any], None] | None = None
    on_unverified: Callable[[VerificationError, Any], None] | None = None

    def __post_init__(self) -> None:
        if self.on_missing not in ("raise", "report"):
            raise ValueError(f"on_missing is 'raise' or 'report', not {self.on_missing!r}")
        if isinstance(self.exempt_methods, str) or not all(name.startswith("/") for name in self.exempt_methods):
            raise ValueError("exempt_methods are several names as /package.Service/Method, or /package.Service/*")

    def is_exempt(self, method: str) -> bool:
        """Whether responses of a method pass unverified."""
        return any(
            method == name or (name.endswith("*") and method.startswith(name[:-1]))  # a method's name is no path: nothing normalises it
            for name in self.exempt_methods
        )


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who must have sealed what comes over a channel, and what else is demanded."""

    name: str
    checks: ChannelChecks

    @classmethod
    def among(cls, trusted: frozenset[str], name: str, checks: ChannelChecks | None) -> Issuer:
        """An issuer that must be one of those trusted.

        Raises:
            ValueError: It is not.
        """
        if name not in trusted:
            raise ValueError(f"{name} is no issuer that the verifier trusts: every response would be refused")
        return cls(name, checks or ChannelChecks())


class Attempt:
    """One call: what was sent and received, and what is known of it.

    Attributes:
        method: What is called, ``/package.Service/Method``.
        check: What is known.
        received: Bytes of messages that have come and have not been checked yet.
        is_judged: Whether the verdict has been reached, whatever it is.
    """

    def __init__(self, issuer: Issuer, method: str, *, streams_requests: bool) -> None:
        self._issuer = issuer
        self._checks = issuer.checks
        self._request: bytes | None = b"" if streams_requests else None
        self._captures = not streams_requests
        self._nonce: str | None = None
        self._raised: VerificationError | None = None
        self.method: str = method
        self.check: ResponseCheck = ResponseCheck()
        self.received: deque[bytes] = deque()
        self.is_judged: bool = False
        self._has_messages = False
        self._has_handed_on = False

    # What stands between a stub and the channel

    def metadata(self, given: Metadata | None) -> Sequence[tuple[str, str | bytes]] | None:
        """The metadata of the call with its nonce. None stays None where there is none to send."""
        fields = tuple((name, value) for name, value in given or ())
        named = [value for name, value in fields if name == NONCE_METADATA]
        if named:
            self._nonce = str(named[-1])
        elif self._checks.send_nonce:
            self._nonce = secrets.token_urlsafe(NONCE_BYTES)
            fields += ((NONCE_METADATA, self._nonce),)
        return fields or None

    def serializer(self, inner: Transform | None) -> Transform:
        """A serialiser that keeps the bytes of a unary request."""

        def serialize(message: Any) -> Any:
            data = message if inner is None else inner(message)
            if self._captures:
                self._request = data
                self.received.clear()  # an interceptor below tries again
            return data

        return serialize

    def deserializer(self, inner: Transform | None) -> Transform:
        """A parser that keeps the bytes of each response message."""

        def deserialize(data: bytes) -> Any:
            self.received.append(data)
            self._has_messages = True
            return data if inner is None else inner(data)

        return deserialize

    # What is demanded

    def pending(self, initial: Metadata | None) -> str | None:
        """The pending token of initial metadata.

        Raises:
            MalformedError: There are two.
        """
        return _only(initial, TOKEN_METADATA, "initial metadata")

    def final(self, trailing: Metadata | None) -> str | None:
        """The final token of trailing metadata.

        Raises:
            MalformedError: There are two.
        """
        return _only(trailing, TOKEN_METADATA, "trailing metadata")

    def expected(self, initial: Metadata | None, trailing: Metadata | None) -> Expected:
        """What the token must be bound to. A server may send its salt at the end: of a call without a message it may have no other time.

        Raises:
            MalformedError: There are two salts.
        """
        salt = _only((*(initial or ()), *(trailing or ())), SALT_METADATA, "metadata")
        binds = salt is not None and self._request is not None
        demands = self._checks.expected or Expected()
        nonce = self._nonce if self._nonce is not None else demands.nonce
        return replace(demands, nonce=nonce, request=self._request if binds else None, salt=salt if binds else None)

    def accept(self, proven: Verified, *, is_ok: bool) -> None:
        """Check what only the call knows.

        Raises:
            UnacceptableError: Sealed by another issuer than the one that answers for the channel.
            NonceError: Nothing binds the token of a response to the request.
        """
        if proven.claims.iss != self._issuer.name:
            raise UnacceptableError(f"the response of {self._issuer.name} is sealed by {proven.claims.iss}", where="token iss")
        needs_salt = self._checks.require_request and is_ok and (self._has_messages or self._nonce is None)
        if needs_salt and not proven.request_checked:
            raise NonceError(
                "the response came without the salt that binds it to its request",
                where=SALT_METADATA,
                cure="Set require_request=False if something on the way removes it.",
            )

    # What came of it

    def succeed(self, proven: Verified, call: Any) -> None:
        """Report what was proven."""
        self.is_judged = True
        self.check.verified = proven
        if self._checks.on_verified is not None:
            self._checks.on_verified(proven, call)

    def fail(self, error: VerificationError, call: Any) -> None:
        """Report an error, once.

        Raises:
            VerificationError: The error, unless the policy says to report it only.
        """
        if not (isinstance(error, AbsentError) and self._checks.on_missing == "report"):
            self._raised = error
        if self.check.error is None:
            self.is_judged = True
            self.check.verified, self.check.error = None, error
            if self._checks.on_unverified is not None:
                self._checks.on_unverified(error, call)
        self.raise_again()

    def raise_again(self) -> None:
        """A check that failed never passes by asking twice.

        Raises:
            VerificationError: What was raised before.
        """
        if self._raised is not None:
            raise self._raised

    def handed_on(self) -> None:
        """A message of a stream goes to the caller before the stream is judged."""
        self._has_handed_on = True

    def failed(self, code: object, call: Any) -> None:
        """A status other than OK came without a token. What has been handed on before stays unproven."""
        name = getattr(code, "name", code)
        if self._has_handed_on:
            self.leave(f"ended with status {name} before its final token", call)
        elif not self.is_judged:
            self.is_judged = True
            self.check.passed = f"status {name} without a token"

    def leave(self, why: str, call: Any) -> None:
        """A stream is left, or failed, before it could be judged: reported, and raised to nobody."""
        if not self.is_judged:
            self.is_judged = True
            self.check.error = error = IncompleteError(why, where="call", cure="Read a stream to its end.")
            if self._checks.on_unverified is not None:
                self._checks.on_unverified(error, call)


def named_options(options: Sequence[Any], named: dict[str, Any]) -> dict[str, Any]:
    """The options of a call by name.

    Raises:
        TypeError: There are more than grpc takes.
    """
    if len(options) > len(_OPTIONS):
        raise TypeError(f"a call takes its request and {', '.join(_OPTIONS)}")
    return dict(zip(_OPTIONS, options, strict=False)) | named


def has_token(metadata: Metadata | None) -> bool:
    """Whether metadata carry a token, whatever it is worth."""
    return any(name == TOKEN_METADATA for name, _ in metadata or ())


def _only(metadata: Metadata | None, name: str, where: str) -> str | None:
    found = [value for key, value in metadata or () if key == name]
    if len(found) > 1:
        raise MalformedError(f"carries {name} {len(found)} times", where=where)
    return None if not found else str(found[0])


def verified(call: object) -> Verified:
    """What was proven of a call of a verified channel.

    Args:
        call: What ``with_call`` or ``future`` returned, a stream, or a call of an asynchronous stub.

    Raises:
        VerificationError: Nothing was: the reason; `IncompleteError` where the call has not been judged yet, `AbsentError` where it was
            passed on unverified.
        TypeError: It is no such call, or one that an interceptor outside the verified channel has replaced.
    """
    check = getattr(call, "tos_guard_check", None)
    if not isinstance(check, ResponseCheck):
        raise TypeError(f"{type(call).__name__} is no call of a verified channel")
    if check.verified is not None:
        return check.verified
    if check.error is not None:
        raise check.error
    if check.passed is not None:
        raise AbsentError(f"was passed on unverified: {check.passed}", where="call")
    raise IncompleteError("has not been judged yet", where="call", cure="Ask for its result, or read the stream to its end.")
