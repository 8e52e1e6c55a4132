"""The claims of a token (docs/spec/token.md, table and T8–T11)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tos_guard.errors import MalformedError, UnsupportedVersionError
from tos_guard.keys import ID, ORIGIN, ClaimReader
from tos_guard.provenance._content import Content
from tos_guard.types import Completion, Stage

__all__ = ["DIGITAL_SOURCE_TYPE", "Claims", "Terms", "Usage"]

VERSION: Final = 1
DIGITAL_SOURCE_TYPE: Final = "trainedAlgorithmicMedia"
"""IPTC digital source type, last segment of http://cv.iptc.org/newscodes/digitalsourcetype/…"""

MAX_CLAUSES: Final = 8
MAX_MODEL_CHARS: Final = 96
MAX_NONCE_CHARS: Final = 128


@dataclass(frozen=True, slots=True)
class Terms:
    """Which terms were in force: address, version and digest, and the receipt of their acceptance if there is one."""

    uri: str
    version: str
    sha256: str
    receipt: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What may be done with the output: digest of the usage policy, its first clause ids, and the `Content-Usage` projection."""

    sha256: str
    clauses: tuple[str, ...]
    content_usage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a token says, field for field as the table of docs/spec/token.md; times in seconds since 1970."""

    iss: str
    iat: int
    jti: str
    rid: str
    sub: str
    stage: Stage
    model: str
    terms: Terms
    usage: Usage
    req: str
    dst: str = DIGITAL_SOURCE_TYPE
    content: Content | None = None
    completion: Completion | None = None
    aud: str | None = None
    nonce: str | None = None
    exp: int | None = None
    grant: str | None = None
    status: dict[str, Any] | None = None
    ledger: dict[str, Any] | None = None

    def to_payload(self) -> dict[str, Any]:
        """The claims as JSON members."""
        terms: dict[str, Any] = {"sha256": self.terms.sha256, "uri": self.terms.uri, "version": self.terms.version}
        if self.terms.receipt is not None:
            terms["receipt"] = self.terms.receipt
        payload: dict[str, Any] = {
            "dst": self.dst,
            "iat": self.iat,
            "iss": self.iss,
            "jti": self.jti,
            "model": self.model,
            "req": self.req,
            "rid": self.rid,
            "stage": self.stage.value,
            "sub": self.sub,
            "terms": terms,
            "usage": {
                "clauses": list(self.usage.clauses),
                "content_usage": self.usage.content_usage,
                "sha256": self.usage.sha256,
            },
            "ver": VERSION,
        }
        if self.content is not None:
            payload["content"] = self.content.to_claim()
        if self.completion is not None:
            payload["completion"] = self.completion.value
        for name in ("aud", "nonce", "exp", "grant", "status", "ledger"):
            value = getattr(self, name)
            if value is not None:
                payload[name] = value
        return payload

    @classmethod
    def from_payload(cls, payload: dict[str, Any], *, where: str) -> Claims:
        """Read claims; their signature is the caller's concern.

        Raises:
            UnsupportedVersionError: Another version (T8).
            MalformedError: A claim is missing or has the wrong form (T9–T11).
        """
        version = payload.get("ver")
        if type(version) is not int:
            raise MalformedError("ver is not an integer", where=where)
        if version != VERSION:
            raise UnsupportedVersionError(f"version {version} of the token format", where=where, cure="Use a newer verifier.")
        reader = ClaimReader(payload, where)
        stage = reader.word("stage", Stage)
        final, covers = stage is Stage.FINAL, stage is not Stage.PENDING
        for name, must in (("content", covers), ("completion", final)):
            if (name in payload) is not must:
                raise MalformedError(f"a {stage} token {'must' if must else 'must not'} have {name}", where=where)
        return cls(
            iss=reader.matching("iss", ORIGIN),
            iat=reader.integer("iat"),
            jti=reader.matching("jti", ID),
            rid=reader.matching("rid", ID),
            sub=reader.matching("sub", ID),
            stage=stage,
            model=reader.string("model", 1, MAX_MODEL_CHARS),
            terms=_terms(reader.object("terms"), where),
            usage=_usage(reader.object("usage"), where),
            req=reader.digest("req"),
            dst=reader.string("dst"),
            content=Content.from_claim(payload["content"], where=f"{where} content") if covers else None,
            completion=reader.word("completion", Completion) if final else None,
            aud=reader.string("aud") if "aud" in payload else None,
            nonce=reader.string("nonce", 1, MAX_NONCE_CHARS) if "nonce" in payload else None,
            exp=reader.integer("exp") if "exp" in payload else None,
            grant=reader.string("grant") if "grant" in payload else None,
            status=reader.object("status") if "status" in payload else None,
            ledger=_ledger(reader.object("ledger"), where) if "ledger" in payload else None,
        )


def _terms(members: dict[str, Any], where: str) -> Terms:
    reader = ClaimReader(members, f"{where} terms")
    receipt = reader.string("receipt") if "receipt" in members else None
    return Terms(reader.string("uri"), reader.string("version"), reader.digest("sha256"), receipt)


def _usage(members: dict[str, Any], where: str) -> Usage:
    reader = ClaimReader(members, f"{where} usage")
    clauses = members.get("clauses")
    if not isinstance(clauses, list) or len(clauses) > MAX_CLAUSES or not all(isinstance(clause, str) for clause in clauses):
        raise MalformedError(f"clauses is not an array of up to {MAX_CLAUSES} ids", where=f"{where} usage")
    return Usage(reader.digest("sha256"), tuple(clauses), reader.string("content_usage"))


def _ledger(members: dict[str, Any], where: str) -> dict[str, Any]:
    reader = ClaimReader(members, f"{where} ledger")
    reader.string("origin")
    reader.integer("size")
    reader.digest("root")
    if "index" in members:
        reader.integer("index")
    return members
