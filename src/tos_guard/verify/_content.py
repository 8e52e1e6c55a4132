"""Whole bodies and single texts against their token (docs/spec/carriers.md C1, C2, C9, C10; projection.md P7–P9)."""

from __future__ import annotations

import unicodedata
from datetime import datetime
from typing import Any, Final

from tos_guard._content_digest import check_content_digest
from tos_guard.dialects import PROJECTIONS, TAG_MEMBER, BytesProjection, Projection, parse_response_json, projection_named
from tos_guard.errors import AbsentError, ContentMismatchError, IncompleteError, MalformedError, UndecidableError
from tos_guard.provenance import Claims, Content, text_digest
from tos_guard.types import Stage
from tos_guard.verify._proof import Expected, Tag, Trust, Verified, mismatch, open_token, parse_tag

__all__ = ["final_content", "verify_body", "verify_text"]

MAX_NFC_CHARS: Final = 1_048_576  # P2: normalising can be made to take seconds


def verify_body(
    body: bytes,
    *,
    trust: Trust,
    now: datetime,
    token: str | None = None,
    content_digest: str | None = None,
    expected: Expected | None = None,
) -> Verified:
    """Prove that a whole response body is what a trusted issuer sealed.

    Args:
        body: The body after content decoding.
        trust: Keys the caller trusts.
        now: The present, or the time at which evidence is judged.
        token: Value of the header ``AI-Provenance``, where it was kept.
        content_digest: Value of the header ``Content-Digest``, where it was kept and *body* is byte for byte what was sent.
        expected: Further demands.

    Raises:
        AbsentError: There is no token.
        MalformedError, SignatureError, ContentMismatchError: Altered, or not what the format says.
        IncompleteError: Only a pending token.
        UndecidableError: Trust or knowledge is missing.
        UnacceptableError: Genuine, but not what was demanded.
    """
    document, problem = _read(body)
    tag = parse_tag(document[TAG_MEMBER]) if isinstance(document, dict) and TAG_MEMBER in document else None
    if tag is not None and token is not None and tag.token != token:
        raise MalformedError("header and body carry different tokens", where="ai_provenance")
    compact = tag.token if tag is not None else token
    if compact is None:
        if problem is not None and body.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").startswith(b"{"):
            raise problem
        raise AbsentError("carries no token", where="body", cure="That proves nothing: tags are easily lost.")
    claims, kid = open_token(compact, trust=trust, now=now)
    content = final_content(claims, tag)
    projection = projection_named(content.projection, PROJECTIONS)
    if isinstance(projection, BytesProjection):
        if tag is not None:
            raise ContentMismatchError("a token inside a body cannot cover its bytes", where="content")
        projection.add_body(body)
    elif problem is not None:
        raise problem
    else:
        projection.add_body(document)
        projection.note_body(document)
    check_content(content, projection, "body")
    if content_digest is not None:
        check_content_digest(content_digest, body)
    demands = expected or Expected()
    demands.check(claims, now=now)
    return Verified(
        claims=claims,
        kid=kid,
        token=compact,
        uncovered=projection.uncovered + uncoverable(projection.content()),
        notes=_completion_note(claims),
        request_checked=demands.request is not None,
        nonce_checked=demands.nonce is not None,
    )


def _read(body: bytes) -> tuple[Any, MalformedError | None]:
    try:
        return parse_response_json(body, where="body"), None
    except MalformedError as error:
        return None, error


def final_content(claims: Claims, tag: Tag | None) -> Content:
    """The content of a final token, with the leaves beside it if there are any.

    Raises:
        IncompleteError: The token is pending, or a checkpoint.
        MalformedError: The leaves are not those of the token.
    """
    if claims.content is None or claims.stage is not Stage.FINAL:
        what = "a checkpoint: more was to come" if claims.stage is Stage.CHECKPOINT else "pending: it was made before the content was known"
        raise IncompleteError(f"the token is {what}", where="token", cure="Get the whole response.")
    if tag is None or tag.leaves is None:
        return claims.content
    return claims.content.with_leaves(tag.leaves, where="member ai_provenance")


def check_content(content: Content, projection: Projection, what: str) -> None:
    """Check that the parts found are those of the token (P7).

    Raises:
        ContentMismatchError: They are not.
    """
    found = projection.content()
    if (found.count, found.root) != (content.count, content.root):
        raise mismatch(what, content.leaves, found.leaves or ())


def uncoverable(content: Content) -> tuple[str, ...]:
    """Parts that are there and could not be covered (P3)."""
    return tuple(f"choice {choice} {name} (has no canonical form)" for choice, name, digest in content.leaves or () if digest is None)


def _completion_note(claims: Claims) -> tuple[str, ...]:
    return (f"completion: {claims.completion}",) if claims.completion not in (None, "complete") else ()


def verify_text(
    text: str,
    *,
    token: str,
    trust: Trust,
    now: datetime,
    leaves: list[Any] | None = None,
    choice: int | None = None,
    expected: Expected | None = None,
) -> Verified:
    """Prove that a text alone is a text part of what a trusted issuer sealed.

    Args:
        text: The text of one choice.
        token: The final token.
        leaves: The member ``leaves`` that stood beside the token, needed where there are more than four parts.
        choice: The choice it must be of, or None for any.

    Raises:
        VerificationError: As `verify_body`; `UndecidableError` where the leaves are needed and not given.
    """
    claims, kid = open_token(token, trust=trust, now=now)
    content = final_content(claims, Tag(token, leaves))
    projection_named(content.projection, PROJECTIONS)
    if content.leaves is None:
        raise UndecidableError(
            f"the token covers {content.count} parts, whose leaves stand beside it", where="token content", cure="Give the leaves as well."
        )
    digests = {digest for number, name, digest in content.leaves if name == "text" and choice in (None, number)}
    notes = _completion_note(claims)
    if text_digest(text) not in digests - {None}:
        normalised = unicodedata.normalize("NFC", text) if len(text) <= MAX_NFC_CHARS else text
        if normalised == text or text_digest(normalised) not in digests - {None}:
            raise mismatch("text", None, ())
        notes += ("normalised: NFC",)
    demands = expected or Expected()
    demands.check(claims, now=now)
    others = len(content.leaves) - 1
    if others:
        notes += (f"parts not given: {others}",)
    return Verified(
        claims=claims,
        kid=kid,
        token=token,
        notes=notes,
        request_checked=demands.request is not None,
        nonce_checked=demands.nonce is not None,
    )
