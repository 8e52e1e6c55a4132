"""Streams against their token, as they are read or saved (docs/spec/carriers.md C3–C8, C11–C13, C16–C18)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from tos_guard.dialects import (
    CHAT_PROJECTION,
    DONE,
    PROJECTIONS,
    STREAM_FORMATS,
    TAG_MEMBER,
    EventStream,
    Role,
    ServerSentEvent,
    is_named_right,
    is_split,
    is_whole_object,
    parse_response_json,
    projection_named,
    told_form,
)
from tos_guard.errors import AbsentError, ContentMismatchError, IncompleteError, MalformedError, UnacceptableError
from tos_guard.provenance import Claims, Content
from tos_guard.types import Stage
from tos_guard.verify._content import _completion_note, check_content, final_content, uncoverable
from tos_guard.verify._proof import Expected, Tag, Trust, Verified, open_token, parse_tag

__all__ = ["Prefix", "StreamVerifier", "verify_prefix", "verify_stream"]


@dataclass(frozen=True, slots=True)
class Prefix:
    """The part of a stream that a token proves.

    Attributes:
        size_bytes: How many bytes of the stream, from its beginning to the end of the event with the token. What follows is not proven.
            Of a gRPC call, how many bytes its messages have to the end of the one with the token.
        claims: What the token says of them. Their stage tells a checkpoint, behind which more was to come, from the end of the content.
        kid: The key that signed.
        token: The token itself.
        uncovered: Members up to there that the token does not cover: they may have been changed.
        request_checked: Whether the request was checked too.
        messages: How many messages of a gRPC call that are; None of a stream of events.
    """

    size_bytes: int
    claims: Claims
    kid: str
    token: str
    uncovered: tuple[str, ...]
    request_checked: bool
    messages: int | None = None


class StreamVerifier:
    """Checks a stream as it is read.

    `feed` raises as soon as something is wrong, and `finish` returns what was proven. Until `finish` has returned, nothing has been:
    a stream that merely stopped has raised nothing either.

    Args:
        trust: Keys the caller trusts.
        now: The present, or a clock: a stream that is read as it is made may take longer than the skew that T12 allows.
        token: Value of the header ``AI-Provenance``, where it was kept: the pending token.
        expected: Further demands.
    """

    def __init__(
        self,
        *,
        trust: Trust,
        now: datetime | Callable[[], datetime],
        token: str | None = None,
        expected: Expected | None = None,
    ) -> None:
        self._trust = trust
        self._clock = now if callable(now) else lambda: now
        self._pending = token
        self._expected = expected or Expected()
        self._events = EventStream()
        self._take_for(CHAT_PROJECTION)
        self._is_told = False
        self._proof: tuple[Claims, str, str] | None = None
        self._newest: tuple[Claims, str, str] | None = None  # of checkpoints and the final token
        self._proving: tuple[Claims, str, str] | None = None  # the newest that proves something
        self._count = 0  # of events with data
        self._misnamed: dict[str, str] = {}  # form → what its clients take for something else, while the form is not told
        self._first_form: str | None = None  # of checkpoints, which tells where nothing else does
        self._done_early: int | None = None
        self._size = 0
        self._proven_size = 0
        self._uncovered: tuple[str, ...] = ()
        self._done = False
        self._followed = False
        self._ended = False

    @property
    def done(self) -> bool:
        """Whether the stream has ended as its form has it: with ``[DONE]``, or with its terminal event. Clients may stop reading there."""
        return self._done or self._ended

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes, cut anywhere.

        Raises:
            VerificationError: The stream cannot become valid any more.
        """
        for event in self._events.feed(chunk):
            self._size += len(event.raw)
            if event.data:
                self._event(event.data, event)

    def _event(self, data: bytes, sent: ServerSentEvent) -> None:
        self._count += 1
        self._followed = self._done
        if data == DONE:
            self._done = True
            if self._proof is None and self._done_early is None:
                self._done_early = self._count
            return
        event = parse_response_json(data, where="event")
        if not isinstance(event, dict):
            raise MalformedError("not a JSON object", where="event")
        self._note_name(event, sent)
        self._tell(event)
        if self._is_told and self._newest is not None:
            self._check_names(self._projection.name)
        bears = self._projection.add_event(event)
        self._projection.note_event(event)
        role = self._format.role(event)
        if self._proof is not None and (bears or role in _FAILURES):
            raise ContentMismatchError("content follows the final token", where="stream")
        for place in (None, *self._format.nested):
            holder = event if place is None else event.get(place)
            if isinstance(holder, dict) and TAG_MEMBER in holder:
                if place is not None and role is Role.OPENS:
                    self._take_pending(holder[TAG_MEMBER])
                elif self._proof is not None:
                    raise MalformedError("a second token follows the final one", where="stream")
                else:
                    self._take_tag(holder[TAG_MEMBER], may_be_checkpoint=place is None)
        self._ended = self._ended or (role in _LAST and not self._format.closes_with_done)

    def _take_for(self, form: str) -> None:
        self._format = STREAM_FORMATS[form]
        self._projection = self._format.projection()

    def _tell(self, event: dict[str, Any]) -> None:
        """Take the stream for what its first telling event says (C13). What came before bears no content in any form."""
        if self._is_told or (form := told_form(event)) is None:
            return
        self._is_told = True
        if form != self._projection.name and form in STREAM_FORMATS:
            self._take_for(form)

    def _note_name(self, event: dict[str, Any], sent: ServerSentEvent) -> None:
        """Remember of each form that the stream may have which event some readers take for something else first (C16, C18).

        The form may be told later; and a stream without any token is absent or incomplete, whatever its events are called (C4).
        """
        data, name = sent.data or b"", sent.name
        split = (
            f"a line of event {self._count} is an object by itself, which readers of lines take for an event (C18)"
            if is_split(data)
            else None
        )
        for form in (self._projection.name,) if self._is_told else STREAM_FORMATS:
            if form not in self._misnamed and split is not None:
                self._misnamed[form] = split
            elif form not in self._misnamed and not is_named_right(form, event, name):
                named = f"named {name[:MAX_SHOWN].decode('utf-8', 'replace')!r}" if name else "without a name"
                kind = event.get("type")
                of = f" of type {kind[:MAX_SHOWN]!r}" if isinstance(kind, str) else ""
                self._misnamed[form] = f"event {self._count}{of} is {named}, which clients take for something else (C16)"

    def _check_names(self, form: str) -> None:
        """Refuse a stream of this form with an event that its clients take for something else."""
        if (found := self._misnamed.get(form)) is not None:
            raise MalformedError(found, where="stream")

    def _take_pending(self, member: Any) -> None:
        """A pending token in the event that opens the stream, as if it were given beside the stream (C12)."""
        token = parse_tag(member).token
        if self._pending not in (None, token):
            raise MalformedError("header and stream carry different pending tokens", where="stream")
        self._pending = token

    def _take_tag(self, member: Any, *, may_be_checkpoint: bool) -> None:
        """A tag in an event: the final one, or one of a checkpoint (C4, C11)."""
        tag = parse_tag(member)
        claims, kid = open_token(tag.token, trust=self._trust, now=self._clock())
        is_checkpoint = may_be_checkpoint and claims.stage is Stage.CHECKPOINT
        if claims.stage is not Stage.FINAL and not is_checkpoint:
            raise MalformedError(f"an event carries a {claims.stage} token", where="stream")
        self._check(claims, tag)
        if self._newest is not None and _identity(self._newest[0]) != _identity(claims):
            raise ContentMismatchError("events carry tokens of different exchanges", where="stream")
        self._newest = claims, kid, tag.token
        if not is_checkpoint:
            if self._done_early is not None:
                raise MalformedError(f"event {self._done_early} is [DONE] and comes before the final token (C17)", where="stream")
            self._proof = self._newest
            self._is_told = True  # by its token, where no event told
        if self._is_told:
            self._check_names(self._projection.name)
        elif self._first_form is None:
            self._first_form = self._projection.name
        if self._done_early is not None or self._projection.name in self._misnamed:
            return  # clients read no further than [DONE]
        self._proving = self._newest
        self._proven_size = self._size
        self._uncovered = self._projection.uncovered + uncoverable(self._projection.content())

    def _check(self, claims: Claims, tag: Tag) -> None:
        content: Content = final_content(claims, tag) if claims.stage is Stage.FINAL else _with_leaves(claims, tag)
        name = projection_named(content.projection, PROJECTIONS).name
        if not self._is_told and name in STREAM_FORMATS:
            self._take_for(name)  # nothing came that another form would read otherwise
        if name != self._projection.name:
            raise ContentMismatchError(f"the token is not of {self._projection.name}", where="token content")
        check_content(content, self._projection, "stream")

    def finish(self) -> Verified:
        """The stream ended.

        Raises:
            IncompleteError: It ended before its final token, and a pending one was given.
            AbsentError: It has no token at all.
            VerificationError: The pending token is not of this stream, or a demand is not met.
        """
        if self._proof is not None:
            self._check_tail()
        pending = self._open_pending()
        if not self._is_told and self._first_form is not None:
            self._check_names(self._first_form)
        if self._newest is not None and pending is not None and _identity(pending) != _identity(self._newest[0]):
            raise ContentMismatchError("header and stream carry tokens of different exchanges", where="AI-Provenance")
        if self._proof is None:
            if pending is None and self._newest is None:
                raise AbsentError("carries no token", where="stream", cure="That proves nothing: it may have been cut or stripped.")
            raise IncompleteError(
                "ends before its final token", where="stream", cure="Get the whole response.", proven=self._acceptable_prefix()
            )
        claims, kid, token = self._proof
        self._expected.check(claims, now=self._clock())
        notes = _completion_note(claims)
        if not self._format.closes_with_done:
            pass
        elif not self._done:
            notes += ("terminator: missing",)
        elif self._followed:
            notes += ("terminator: followed",)
        return Verified(
            claims=claims,
            kid=kid,
            token=token,
            uncovered=self._projection.uncovered + uncoverable(self._projection.content()),
            notes=notes,
            request_checked=self._expected.request is not None,
            nonce_checked=self._expected.nonce is not None,
        )

    def _check_tail(self) -> None:
        """Refuse what no blank line ends where readers of lines would take it for more of the response (C18). A cut event is none."""
        data = self._events.tail_data
        begins = data.lstrip(_BLANKS)[:1]
        if not begins or DONE.startswith(data):
            return
        if begins != b"{":
            raise MalformedError("data that begins no event follows the last blank line (C18)", where="stream")
        if is_split(data):
            raise MalformedError("a line after the last blank line is an object by itself (C18)", where="stream")
        if not is_whole_object(data):
            return
        event = parse_response_json(data, where="what follows the last blank line")
        if self._projection.add_event(event) or self._format.role(event) in _FAILURES:
            raise ContentMismatchError("content follows the last blank line (C18)", where="stream")

    def proven(self) -> Prefix | None:
        """How far what was read is proven by its newest checkpoint, or by its final token; None where it has neither.

        Raises:
            UnacceptableError: It is genuine so far, and not what was demanded.
        """
        if self._proving is None:
            return None
        claims, kid, token = self._proving
        self._expected.check(claims, now=self._clock())
        return Prefix(self._proven_size, claims, kid, token, self._uncovered, self._expected.request is not None)

    def _acceptable_prefix(self) -> Prefix | None:
        try:
            return self.proven()
        except UnacceptableError:
            return None  # of what nobody wants, nothing need be known

    def _open_pending(self) -> Claims | None:
        if self._pending is None:
            return None
        claims, _ = open_token(self._pending, trust=self._trust, now=self._clock())
        if claims.stage is not Stage.PENDING:
            raise MalformedError(f"the header of a stream carries a {claims.stage} token", where="AI-Provenance")
        return claims


MAX_SHOWN: Final = 64  # bytes or characters, of a name or type that a stream invents
_LAST: Final = frozenset({Role.TERMINAL, Role.FAILS})
_FAILURES: Final = frozenset({Role.FAILS, Role.ERRS})
_BLANKS: Final = b" \t\n"  # what may stand before JSON in data lines that are joined


def _identity(claims: Claims) -> tuple[str, ...]:
    return claims.iss, claims.rid, claims.sub, claims.req


def _with_leaves(claims: Claims, tag: Tag) -> Content:
    """The content of a checkpoint, with the leaves beside it if there are any."""
    assert claims.content is not None  # noqa: S101 - a checkpoint has content (T10)
    return claims.content if tag.leaves is None else claims.content.with_leaves(tag.leaves, where="member ai_provenance")


def verify_prefix(stream: bytes, *, trust: Trust, now: datetime, token: str | None = None, expected: Expected | None = None) -> Prefix:
    """Prove a saved stream as far as its newest checkpoint, or its final token, proves it.

    For streams that were cut. Says nothing of what follows the first `Prefix.size_bytes` bytes.

    Args:
        stream: The bytes of the stream.
        trust: Keys the caller trusts.
        now: The present, or the time at which evidence is judged.
        token: Value of the header ``AI-Provenance``, where it was kept.
        expected: Further demands.

    Raises:
        IncompleteError: No checkpoint came before the cut.
        VerificationError: As `StreamVerifier`.
    """
    verifier = StreamVerifier(trust=trust, now=now, token=token, expected=expected)
    verifier.feed(stream)
    try:
        verifier.finish()
    except IncompleteError as cut:
        proven = verifier.proven()
        if proven is None:
            raise IncompleteError("ends before its first checkpoint", where=cut.where, cure=cut.cure) from None
        return proven
    proven = verifier.proven()
    assert proven is not None  # noqa: S101 - it ended with its final token
    return proven


def verify_stream(stream: bytes, *, trust: Trust, now: datetime, token: str | None = None, expected: Expected | None = None) -> Verified:
    """Prove that a saved stream is what a trusted issuer sealed, to its end.

    Args:
        stream: The bytes of the stream, re-chunked or with other comments if need be.
        trust: Keys the caller trusts.
        now: The present, or the time at which evidence is judged.
        token: Value of the header ``AI-Provenance``, where it was kept.
        expected: Further demands.

    Raises:
        VerificationError: As `StreamVerifier`.
    """
    verifier = StreamVerifier(trust=trust, now=now, token=token, expected=expected)
    verifier.feed(stream)
    return verifier.finish()
