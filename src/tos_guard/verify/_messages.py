"""The response messages of a gRPC call against their token (docs/spec/carriers.md C15, projection.md P9).

- A message is taken as it was serialised: one that was parsed and serialised again proves nothing where its bytes have changed.
- The final token comes after the last message, so that messages are read before anything of them is proven.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from tos_guard.dialects import PROJECTIONS, GrpcProjection, projection_named
from tos_guard.errors import AbsentError, ContentMismatchError, IncompleteError, MalformedError
from tos_guard.provenance import Claims
from tos_guard.types import Stage
from tos_guard.verify._content import _completion_note, check_content, final_content
from tos_guard.verify._proof import Expected, Trust, Verified, open_token
from tos_guard.verify._stream import _identity

__all__ = ["MessagesVerifier", "verify_messages"]


class MessagesVerifier:
    """Checks the messages of a call as they are read.

    `feed` takes each, and `finish` returns what was proven. Until `finish` has returned, nothing has been.

    Args:
        trust: Keys the caller trusts.
        now: The present, or a clock: a stream that is read as it is made may take longer than the skew that T12 allows.
        pending: Value of ``ai-provenance`` in initial metadata, where it was kept.
        expected: Further demands.
    """

    def __init__(
        self,
        *,
        trust: Trust,
        now: datetime | Callable[[], datetime],
        pending: str | None = None,
        expected: Expected | None = None,
    ) -> None:
        self._trust = trust
        self._clock = now if callable(now) else lambda: now
        self._pending = pending
        self._expected = expected or Expected()
        self._projection = GrpcProjection()

    def feed(self, message: bytes) -> None:
        """Take the next message, as it was serialised.

        Raises:
            VerificationError: The call cannot become valid any more.
        """
        self._projection.add_message(message)

    def finish(self, token: str | None) -> Verified:
        """The call ended.

        Args:
            token: Value of ``ai-provenance`` in trailing metadata, or None where there was none.

        Raises:
            IncompleteError: There is no final token, and a pending one was given.
            AbsentError: There is no token at all.
            VerificationError: The token is not of these messages, the pending one not of this call, or a demand is not met.
        """
        pending = self._open_pending()
        if token is None:
            if pending is not None:
                raise IncompleteError("ends before its final token", where="call", cure="Get the whole response.")
            raise AbsentError("carries no token", where="call", cure="That proves nothing: trailing metadata is easily lost.")
        claims, kid = open_token(token, trust=self._trust, now=self._clock())
        content = final_content(claims, None)
        if not isinstance(projection_named(content.projection, PROJECTIONS), GrpcProjection):
            raise ContentMismatchError(f"a token of {content.projection} covers no messages", where="token content")
        check_content(content, self._projection, "sequence of messages")
        if pending is not None and _identity(pending) != _identity(claims):
            raise ContentMismatchError("initial and trailing metadata carry tokens of different exchanges", where="ai-provenance")
        self._expected.check(claims, now=self._clock())
        return Verified(
            claims=claims,
            kid=kid,
            token=token,
            notes=_completion_note(claims),
            request_checked=self._expected.request is not None,
        )

    def _open_pending(self) -> Claims | None:
        if self._pending is None:
            return None
        claims, _ = open_token(self._pending, trust=self._trust, now=self._clock())
        if claims.stage is not Stage.PENDING:
            raise MalformedError("initial metadata carries a token that is not pending", where="ai-provenance")
        return claims


def verify_messages(
    messages: Iterable[bytes],
    *,
    trust: Trust,
    now: datetime,
    token: str | None,
    pending: str | None = None,
    expected: Expected | None = None,
) -> Verified:
    """Prove that the response messages of a gRPC call are what a trusted issuer sealed, all of them.

    Args:
        messages: The messages in their order, each as it was serialised.
        trust: Keys the caller trusts.
        now: The present, or the time at which evidence is judged.
        token: Value of ``ai-provenance`` in trailing metadata, or None where there was none.
        pending: Value of ``ai-provenance`` in initial metadata, where it was kept.
        expected: Further demands.

    Raises:
        VerificationError: As `MessagesVerifier`.
    """
    verifier = MessagesVerifier(trust=trust, now=now, pending=pending, expected=expected)
    for message in messages:
        verifier.feed(message)
    return verifier.finish(token)
