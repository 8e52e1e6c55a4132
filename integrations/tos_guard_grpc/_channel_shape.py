"""What verified channels of both colours are made of: how a method of a stub is opened below, and what each of its calls forwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from tos_guard.remote import ResponseCheck
from tos_guard_grpc._channel_checks import Attempt, Issuer, Transform, named_options

__all__ = ["CallBelow", "ChannelBelow", "Method"]


class Method:
    """One method of a stub. Each call opens the method of the channel below anew, with a serialiser and a parser of its own."""

    arity: ClassVar[str]

    def __init__(
        self,
        verifier: Any,
        issuer: Issuer,
        below: Callable[..., Any],
        method: str,
        serializer: Transform | None,
        deserializer: Transform | None,
    ) -> None:
        self._verifier = verifier
        self._issuer = issuer
        self._below = below
        self._method = method
        self._serializer = serializer
        self._deserializer = deserializer

    def _begin(self, options: tuple[Any, ...], named: dict[str, Any]) -> tuple[Attempt, Any, dict[str, Any]]:
        attempt = Attempt(self._issuer, self._method, streams_requests=self.arity.startswith("stream"))
        below = self._below(self._method, attempt.serializer(self._serializer), attempt.deserializer(self._deserializer))
        given = named_options(options, named)
        return attempt, below, given | {"metadata": attempt.metadata(given.get("metadata"))}


class ChannelBelow:
    """The channel below, and who must have sealed what comes over it."""

    _channel: Any
    _verifier: Any
    _issuer: Issuer

    def _of(self, kind: type[Method], method: str, serializer: Transform | None, deserializer: Transform | None, registered: bool) -> Any:
        below = getattr(self._channel, kind.arity)
        if self._issuer.checks.is_exempt(method):
            return below(method, serializer, deserializer, **({"_registered_method": True} if registered else {}))
        return kind(self._verifier, self._issuer, below, method, serializer, deserializer)


class CallBelow:
    """A call of the channel below, with what is known of it. What is not overridden is its own, whatever the verdict."""

    def __init__(self, verifier: Any, attempt: Attempt, inner: Any) -> None:
        self._verifier = verifier
        self._attempt = attempt
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_inner"), name)

    @property
    def tos_guard_check(self) -> ResponseCheck:
        """What is known; `tos_guard_grpc.verified` reads it."""
        return self._attempt.check

    def time_remaining(self) -> Any:  # the two colours of grpc declare different types
        """Seconds until the deadline, or None, as gRPC says it."""
        return self._inner.time_remaining()

    def cancel(self) -> bool:
        """Cancel the call. Whether there was something to cancel, as gRPC says it."""
        cancelled: bool = self._inner.cancel()
        return cancelled

    def cancelled(self) -> bool:
        """Whether the call was cancelled, as gRPC says it."""
        cancelled: bool = self._inner.cancelled()
        return cancelled

    def done(self) -> bool:
        """Whether the call has ended, as gRPC says it."""
        done: bool = self._inner.done()
        return done
