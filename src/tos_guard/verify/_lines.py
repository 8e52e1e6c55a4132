"""JSON in lines against its token (docs/spec/carriers.md C14; projection.md P9)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from tos_guard.dialects import PROJECTIONS, BytesProjection, LinesProjection, parse_response_json, projection_named, tag_of_line
from tos_guard.errors import AbsentError, ContentMismatchError, IncompleteError, MalformedError
from tos_guard.types import Stage
from tos_guard.verify._content import _completion_note, check_content, final_content, uncoverable
from tos_guard.verify._proof import Expected, Tag, Trust, Verified, open_token, parse_tag
from tos_guard.verify._stream import _identity

__all__ = ["verify_lines"]

_BLANKS = b" \t\r"


def verify_lines(
    lines: bytes,
    *,
    trust: Trust,
    now: datetime,
    token: str | None = None,
    pending: str | None = None,
    expected: Expected | None = None,
) -> Verified:
    """Prove that a saved response in lines is what a trusted issuer sealed, to its end.

    Args:
        lines: The bytes of the response; how its values are spelled does not matter, unless its token is of its bytes.
        trust: Keys the caller trusts.
        now: The present, or the time at which evidence is judged.
        token: The final token, where it was fetched by request id; not needed where the last line carries it.
        pending: Value of the header ``AI-Provenance``, where it was kept.
        expected: Further demands.

    Raises:
        AbsentError: There is no token.
        IncompleteError: Only a pending token.
        MalformedError, SignatureError, ContentMismatchError: Altered, or not what the format says.
        UndecidableError: Trust or knowledge is missing.
        UnacceptableError: Genuine, but not what was demanded.
    """
    values, tag, problem = _read(lines)
    if tag is not None and token is not None and tag.token != token:
        raise MalformedError("the tokens in the lines and beside them differ", where="lines")
    compact = tag.token if tag is not None else token
    if compact is None:
        if pending is not None:
            first, _ = open_token(pending, trust=trust, now=now)
            if first.stage is not Stage.PENDING:
                raise ContentMismatchError("the header carries no pending token", where="AI-Provenance")
            raise IncompleteError("have no final token", where="lines", cure="Fetch it by request id, or get the whole response.")
        raise AbsentError("carry no token", where="lines", cure="That proves nothing: fetch it by request id.")
    claims, kid = open_token(compact, trust=trust, now=now)
    content = final_content(claims, tag)
    if claims.stage is not Stage.FINAL:
        raise IncompleteError(f"the token is of stage {claims.stage}", where="token", cure="Get the whole response.")
    projection = projection_named(content.projection, PROJECTIONS)
    if isinstance(projection, BytesProjection) and tag is None:
        projection.add_body(lines)
    elif isinstance(projection, LinesProjection):
        if problem is not None:
            raise problem
        for value in values:
            projection.add_line(value)
    else:
        raise ContentMismatchError(f"a token of {content.projection} does not fit lines", where="token content")
    check_content(content, projection, "response in lines")
    if pending is not None:
        first, _ = open_token(pending, trust=trust, now=now)
        if first.stage is not Stage.PENDING or _identity(first) != _identity(claims):
            raise ContentMismatchError("the header carries a token of another exchange", where="AI-Provenance")
    demands = expected or Expected()
    demands.check(claims, now=now)
    return Verified(
        claims=claims,
        kid=kid,
        token=compact,
        uncovered=uncoverable(projection.content()),
        notes=_completion_note(claims),
        request_checked=demands.request is not None,
        nonce_checked=demands.nonce is not None,
    )


def _read(lines: bytes) -> tuple[list[Any], Tag | None, MalformedError | None]:
    """The values of the lines, the tag of the last, and why the values cannot be read, if so: for bytes they need not be."""
    values: list[Any] = []
    tag: Tag | None = None
    problem: MalformedError | None = None
    for number, line in enumerate(lines.split(b"\n"), 1):
        if not line.strip(_BLANKS):
            continue
        if tag is not None:
            raise MalformedError(f"line {number} follows that of the tag", where="lines")
        try:
            value = parse_response_json(line, where=f"line {number}")
        except MalformedError as error:
            problem = problem or error
            continue
        member = tag_of_line(value)
        if member is None:
            values.append(value)
        else:
            tag = parse_tag(member)
    return values, tag, problem
