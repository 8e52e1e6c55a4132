"""The response messages of a gRPC call against their token (docs/spec/carriers.md C7, C11, C15; projection.md P9, P12).

- A message is taken as it was serialised: one that was parsed and serialised again proves nothing where its bytes have changed. Of Open
  Inference the tensors are covered, so that there it may be.
- Which messages are Open Inference's is told by the caller, who knows the method: the bytes of one message can often be read as another's.
- The final token comes after the last message, so that messages are read before anything of them is proven.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

from tos_guard.dialects import (
    GRPC_PROJECTION,
    INFER_PROJECTION,
    PROJECTIONS,
    TAG_MEMBER,
    GrpcProjection,
    InferProjection,
    Projection,
    infer_streams,
    projection_named,
    read_infer_tag,
)
from tos_guard.errors import AbsentError, ContentMismatchError, IncompleteError, MalformedError, UnacceptableError, UndecidableError
from tos_guard.provenance import Claims, Content
from tos_guard.types import Stage
from tos_guard.verify._content import _completion_note, check_content, final_content, uncoverable
from tos_guard.verify._proof import Expected, Trust, Verified, open_token
from tos_guard.verify._stream import Prefix, _identity

__all__ = ["MessagesVerifier", "token_in_message", "verify_messages"]

_TAG: Final = TAG_MEMBER.encode("ascii")
_WHAT: Final = "sequence of messages"


class MessagesVerifier:
    """Checks the messages of a call as they are read.

    `feed` takes each, and `finish` returns what was proven. Until `finish` has returned, nothing has been.

    Args:
        trust: Keys the caller trusts.
        now: The present, or a clock: a stream that is read as it is made may take longer than the skew that T12 allows.
        pending: Value of ``ai-provenance`` in initial metadata, where it was kept.
        method: The method that answered, ``/package.Service/Method``. It is needed for ``ModelInfer`` and ``ModelStreamInfer`` of Open
            Inference alone, whose messages are read.
        expected: Further demands.
    """

    def __init__(
        self,
        *,
        trust: Trust,
        now: datetime | Callable[[], datetime],
        pending: str | None = None,
        method: str | None = None,
        expected: Expected | None = None,
    ) -> None:
        self._trust = trust
        self._clock = now if callable(now) else lambda: now
        self._pending = pending
        self._expected = expected or Expected()
        self._bytes = GrpcProjection()
        self._streams = None if method is None else infer_streams(method)
        self._tensors = None if self._streams is None else InferProjection()
        self._problem: MalformedError | None = None
        self._tag: str | None = None
        self._newest: tuple[Claims, str, str] | None = None  # of checkpoints
        self._size = 0
        self._proven = (0, 0)
        self._uncovered: tuple[str, ...] = ()

    def feed(self, message: bytes) -> None:
        """Take the next message, as it was serialised.

        Raises:
            VerificationError: The call cannot become valid any more.
        """
        self._bytes.add_message(message)
        self._size += len(message)
        if self._tensors is None or self._problem is not None:
            return
        streamed = bool(self._streams)
        try:
            self._tensors.add_message(message, streamed=streamed)
        except MalformedError as problem:
            self._problem = problem  # under a token that covers their bytes, messages may be anything
            return
        self._tensors.note_message(message, streamed=streamed)
        self._tag = None  # one message alone carries the token of all
        if _TAG in message and (tag := read_infer_tag(message, streamed=streamed)) is not None:
            if streamed:
                self._take_checkpoint(self._tensors, tag)
            elif self._bytes.count == 1:
                self._tag = tag

    def _take_checkpoint(self, tensors: InferProjection, token: str) -> None:
        """A tag in a message of a stream (C11)."""
        claims, kid = open_token(token, trust=self._trust, now=self._clock())
        if claims.stage is not Stage.CHECKPOINT or claims.content is None:
            raise MalformedError(f"a message of a stream carries a {claims.stage} token", where="call")
        if self._projection_of(claims.content) is not tensors:
            raise ContentMismatchError("a token in a message cannot cover its bytes", where="token content")
        check_content(claims.content, tensors, _WHAT)
        if self._newest is not None and _identity(self._newest[0]) != _identity(claims):
            raise ContentMismatchError("messages carry tokens of different exchanges", where="call")
        self._newest = claims, kid, token
        self._proven = self._bytes.count, self._size
        self._uncovered = tensors.uncovered + uncoverable(tensors.content())

    def finish(self, token: str | None, *, expected: Expected | None = None) -> Verified:
        """The call ended.

        Args:
            token: Value of ``ai-provenance`` in trailing metadata, or None where there was none.
            expected: Further demands in place of those given before: some are known when metadata have come.

        Raises:
            IncompleteError: There is no final token, but a pending one was given, or a checkpoint came; it says how far that proves.
            AbsentError: There is no token at all.
            VerificationError: The token is not of these messages, the pending one not of this call, or a demand is not met.
        """
        if expected is not None:
            self._expected = expected
        pending = self._open_pending()
        if self._newest is not None and pending is not None and _identity(pending) != _identity(self._newest[0]):
            raise ContentMismatchError("metadata and messages carry tokens of different exchanges", where="ai-provenance")
        if self._tag is not None and token is not None and token != self._tag:
            raise MalformedError("metadata and message carry different tokens", where="ai-provenance")
        final = token if token is not None else self._tag
        if final is None:
            if pending is None and self._newest is None:
                raise AbsentError("carries no token", where="call", cure="That proves nothing: trailing metadata is easily lost.")
            raise IncompleteError(
                "ends before its final token", where="call", cure="Get the whole response.", proven=self._acceptable_prefix()
            )
        claims, kid = open_token(final, trust=self._trust, now=self._clock())
        content = final_content(claims, None)
        projection = self._projection_of(content)
        check_content(content, projection, _WHAT)
        for other in (pending, self._newest and self._newest[0]):
            if other is not None and _identity(other) != _identity(claims):
                raise ContentMismatchError("the call carries tokens of different exchanges", where="ai-provenance")
        self._expected.check(claims, now=self._clock())
        return Verified(
            claims=claims,
            kid=kid,
            token=final,
            uncovered=projection.uncovered + uncoverable(projection.content()),
            notes=_completion_note(claims),
            request_checked=self._expected.request is not None,
            nonce_checked=self._expected.nonce is not None,
        )

    def proven(self) -> Prefix | None:
        """How far what was read is proven by its newest checkpoint; None where none came.

        Raises:
            UnacceptableError: It is genuine so far, and not what was demanded.
        """
        if self._newest is None:
            return None
        claims, kid, token = self._newest
        self._expected.check(claims, now=self._clock())
        messages, size = self._proven
        return Prefix(size, claims, kid, token, self._uncovered, self._expected.request is not None, messages)

    def _acceptable_prefix(self) -> Prefix | None:
        try:
            return self.proven()
        except UnacceptableError:
            return None  # of what nobody wants, nothing need be known

    def _projection_of(self, content: Content) -> Projection:
        """What a token of this content covers of the messages (P9)."""
        name = projection_named(content.projection, PROJECTIONS).name
        if name == GRPC_PROJECTION:
            return self._bytes
        if name != INFER_PROJECTION:
            raise ContentMismatchError(f"a token of {name} covers no messages", where="token content")
        if self._tensors is None:
            raise UndecidableError(
                "the token covers tensors, which are found where the method is known", where="call", cure="Say which method answered."
            )
        if self._problem is not None:
            raise self._problem
        return self._tensors

    def _open_pending(self) -> Claims | None:
        if self._pending is None:
            return None
        claims, _ = open_token(self._pending, trust=self._trust, now=self._clock())
        if claims.stage is not Stage.PENDING:
            raise MalformedError(f"initial metadata carries a {claims.stage} token", where="ai-provenance")
        return claims


def token_in_message(message: bytes, method: str | None) -> str | None:
    """The token that a message carries, not believed; None too where it is not well formed."""
    streamed = None if method is None else infer_streams(method)
    if streamed is None or _TAG not in message:
        return None
    try:
        return read_infer_tag(message, streamed=streamed)
    except MalformedError:
        return None


def verify_messages(
    messages: Iterable[bytes],
    *,
    trust: Trust,
    now: datetime,
    token: str | None,
    pending: str | None = None,
    method: str | None = None,
    expected: Expected | None = None,
) -> Verified:
    """Prove that the response messages of a gRPC call are what a trusted issuer sealed, all of them.

    Args:
        messages: The messages in their order, each as it was serialised.
        trust: Keys the caller trusts.
        now: The present, or the time at which evidence is judged.
        token: Value of ``ai-provenance`` in trailing metadata, or None where there was none.
        pending: Value of ``ai-provenance`` in initial metadata, where it was kept.
        method: The method that answered; see `MessagesVerifier`.
        expected: Further demands.

    Raises:
        VerificationError: As `MessagesVerifier`.
    """
    verifier = MessagesVerifier(trust=trust, now=now, pending=pending, method=method, expected=expected)
    for message in messages:
        verifier.feed(message)
    return verifier.finish(token)
