"""The documents anyone may read (docs/spec/discovery.md): metadata, keys, terms, usage policies."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from itertools import combinations
from typing import Final, Protocol

from tos_guard._canonical import encode_claims
from tos_guard.config import GuardSettings
from tos_guard.dialects import PROJECTIONS
from tos_guard.errors import ConfigurationError
from tos_guard.keys import KeySet
from tos_guard.policy import usage_policy
from tos_guard.protocols import TermsArchive
from tos_guard.terms import Scope, TermsVersion, terms_from_document

__all__ = ["PREFIX", "Document", "KeyDocuments", "WellKnown", "account_addresses", "addresses", "is_well_known"]

PREFIX: Final = "/.well-known/ai-provenance"
JWKS_PATH: Final = "/.well-known/jwks.json"
_DIGEST: Final = re.compile(r"[A-Za-z0-9_-]{43}")
MAX_GRANT_TYPES: Final = 10  # every set of them has a usage policy that anyone may ask for: 1,024 documents of a few KB

Document = tuple[int, list[tuple[bytes, bytes]], bytes]
"""Status, header fields and body."""


class KeyDocuments(Protocol):
    """Where the published keys come from; `tos_guard.stores.KeyFolder` is one."""

    def public_set(self, now: datetime) -> KeySet:
        """The key set in force. Raises `KeyFileError`."""
        ...

    def signed_history(self) -> str:
        """The signed key history. Raises `KeyFileError`."""
        ...


def addresses(issuer: str, terms: TermsVersion) -> dict[str, str]:
    """Where an issuer's documents are; names as in its metadata (docs/spec/discovery.md)."""
    return {
        "issuer": issuer,
        "jwks_uri": issuer + JWKS_PATH,
        "key_history_uri": f"{issuer}{PREFIX}/key-history",
        "terms_uri": f"{issuer}{PREFIX}/terms/{terms.version}",
        "usage_policy_uri": f"{issuer}{PREFIX}/usage/{{sha256}}",
    }


def account_addresses(issuer: str, account_routes: str | None) -> dict[str, str]:
    """Where accounts find what is their own, and the seals of responses that could not carry them; nothing without such routes."""
    if account_routes is None:
        return {}
    return {"account_uri": issuer + account_routes, "seals_uri": f"{issuer}{account_routes}/seals/{{request_id}}"}


def is_well_known(path: str) -> bool:
    """Whether a path is that of a document which anyone may read."""
    return path in (PREFIX, JWKS_PATH) or path.startswith(f"{PREFIX}/")


class WellKnown:
    """Serves the well-known documents of one guard."""

    def __init__(
        self,
        settings: GuardSettings,
        terms: Callable[[], TermsVersion],
        keys: KeyDocuments,
        clock: Callable[[], datetime],
        *,
        archive: TermsArchive | None = None,
    ) -> None:
        self._settings = settings
        self._terms = terms
        self._keys = keys
        self._archive = archive
        self._clock = clock
        self._policies = _policies_of(terms())

    def _issuer_metadata(self) -> dict[str, object]:
        account = self._settings.account_routes
        return {
            **addresses(self._settings.issuer, self._terms()),
            **account_addresses(self._settings.issuer, account),
            "carriers": [projection.name for projection in PROJECTIONS],
            # On exempt paths alone do sockets and tool servers answer, and nothing of them is sealed.
            "sealed": {"exempt": list(self._settings.exempt), "routes": list(self._settings.routes), "sockets": "refused"},
            "ver": 1,
        }

    def owns(self, path: str) -> bool:
        """Whether a path is one of ours."""
        return is_well_known(path)

    def get(self, method: str, path: str) -> Document:
        """The document of a path.

        Raises:
            KeyFileError: Key set or history cannot be read.
            StoreError: An earlier version of the terms cannot be read.
        """
        if method not in ("GET", "HEAD"):
            return _answer(405, b"application/json", b'{"error":"use GET"}', cache=b"no-store")
        if path == PREFIX:
            return _answer(200, b"application/json", encode_claims(self._issuer_metadata()))
        if path == JWKS_PATH:
            return _answer(200, b"application/json", self._keys.public_set(self._clock()).to_bytes())
        name, _, rest = path.removeprefix(f"{PREFIX}/").partition("/")
        if name == "key-history" and not rest:
            return _answer(200, b"application/jwt", self._keys.signed_history().encode("ascii"))
        if name == "terms" and (found := self._terms_version(rest.removesuffix(".txt"))) is not None:
            document, text = found
            if rest.endswith(".txt"):
                return _answer(200, b"text/markdown; charset=utf-8", text.encode("utf-8"), cache=_FOR_EVER)
            return _answer(200, b"application/json", document, cache=_FOR_EVER)
        if name == "usage" and (policy := self._usage_policy(rest)) is not None:
            return _answer(200, b"application/json", policy, cache=_FOR_EVER)
        return _answer(404, b"application/json", b'{"error":"no such document"}', cache=b"no-store")

    def _terms_version(self, version: str) -> tuple[bytes, str] | None:
        """Document and text of a published version: tokens made under it point here for years."""
        current = self._terms()
        if version == current.version:
            return current.document_bytes, current.text
        stored = self._archive.terms(version) if self._archive is not None else None
        if stored is None or terms_from_document(stored.document, stored.text).organization is not None:
            return None  # a contract is for its organization's accounts, which find it in the account routes
        return stored.document, stored.text

    def _usage_policy(self, sha256: str) -> bytes | None:
        """A usage policy that some token names. Whoever asks for one holds the token: digests cannot be guessed."""
        if sha256 in self._policies:
            return self._policies[sha256]
        return self._archive.usage_policy(sha256) if self._archive is not None and _DIGEST.fullmatch(sha256) is not None else None


def _policies_of(terms: TermsVersion) -> dict[str, bytes]:
    """Every usage policy of the terms at start, whether or not a token has named it yet."""
    grants = _grants_on_output(terms)
    if len(grants) > MAX_GRANT_TYPES:
        raise ConfigurationError(
            f"{len(grants)} kinds of grants change what may be done with output; policies are served for {MAX_GRANT_TYPES}",
            where=f"terms {terms.version}",
        )
    held = (set(chosen) for size in range(len(grants) + 1) for chosen in combinations(grants, size))
    return {policy.sha256: policy.document for policy in (usage_policy(terms, granted) for granted in held)}


def _grants_on_output(terms: TermsVersion) -> list[str]:
    """Kinds of grants that some clause on later use asks for: only these make usage policies differ."""
    conditions = [condition for clause in terms.clauses if clause.scope is Scope.OUTPUT for condition in (*clause.when, *clause.unless)]
    asked = {value for condition in conditions if condition.fact == "grant" for value in condition.values}
    return [grant.id for grant in terms.grants if grant.id in asked]


_FOR_EVER: Final = b"public, max-age=31536000, immutable"


def _answer(status: int, media_type: bytes, body: bytes, *, cache: bytes = b"public, max-age=1800") -> Document:
    headers = [
        (b"content-type", media_type),
        (b"content-length", str(len(body)).encode("ascii")),
        (b"cache-control", cache),
        (b"access-control-allow-origin", b"*"),
        (b"x-content-type-options", b"nosniff"),
    ]
    return status, headers, body
