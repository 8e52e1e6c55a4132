"""Verifying bearer tokens of others' authorization servers: strict reading, keys that are at hand, claims (DESIGN D8; RFC 9068).

The order is the defence: a token is read without being believed, the issuer it names must be one of ours before anything else happens,
its signature is checked with keys that were fetched beforehand, and only then do its claims count. A token that was accepted is
remembered by a digest of all of it, signature included, so that it costs one signature check and not one per request; it is forgotten
at its expiry, and with the keys that proved it.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from cachetools import LRUCache

from tos_guard.config import BearerSettings
from tos_guard.errors import BearerError, MalformedError, SignatureError, UnknownKeyError
from tos_guard.keys._foreign import ForeignKeySet, parse_foreign_jws
from tos_guard.remote._discovery import utc_now
from tos_guard.remote._jwks import JWKSource, JWKSourceStatus, JWKSPolicy, Told
from tos_guard.rights import BearerIdentity, BearerPolicy, check_bearer_type, read_bearer_claims, unverified_issuer

__all__ = ["BearerVerifier", "bearer_from_settings"]

MAX_REMEMBERED: Final = 10_000  # accepted tokens, about a kilobyte each; as many as accounts are kept at hand


@dataclass(frozen=True, slots=True)
class _Accepted:
    """A token that was accepted, and what that rests on."""

    identity: BearerIdentity
    source: JWKSource
    keys: ForeignKeySet
    leeway: timedelta

    def holds(self, now: datetime) -> bool:
        """Whether it is still within its own times, and its keys still in force."""
        return self.identity.not_before - self.leeway <= now < self.identity.expires and self.source.in_force() is self.keys


class BearerVerifier:
    """Verifies tokens of the issuers that it is given, and of nobody else. A `BearerAuthenticator`; any thread may call.

    Args:
        issuers: For each issuer, what its tokens must say and where its keys come from.

    Raises:
        ValueError: There is no issuer, or one of them twice.
    """

    def __init__(self, issuers: Iterable[tuple[BearerPolicy, JWKSource]]) -> None:
        given = list(issuers)
        self._issuers = {policy.issuer: (policy, source) for policy, source in given}
        if not self._issuers or len(self._issuers) != len(given):
            raise ValueError("name at least one issuer, and each of them once")
        self._accepted: LRUCache[bytes, _Accepted] = LRUCache(MAX_REMEMBERED)
        self._lock = threading.Lock()

    def verify(self, token: str, now: datetime) -> BearerIdentity:
        """Prove who asks. Never waits for the network; see `first_keys`.

        Args:
            token: As the caller sent it.
            now: The present.

        Raises:
            BearerError: The token is not accepted; one text for all reasons.
            StoreError: The keys of its issuer are not known, or too old for the configured mode.
        """
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        with self._lock:
            accepted = self._accepted.get(digest)
        if accepted is not None and accepted.holds(now):
            return accepted.identity
        accepted = self._proven(token, now)
        with self._lock:
            self._accepted[digest] = accepted
        return accepted.identity

    def _proven(self, token: str, now: datetime) -> _Accepted:
        try:
            unverified = parse_foreign_jws(token)
        except MalformedError as error:
            raise BearerError("malformed") from error
        check_bearer_type(unverified.header)
        policy, source = self._of(unverified_issuer(unverified.unverified_payload))
        keys = source.in_force()
        try:
            payload = keys.verify(unverified)
        except UnknownKeyError as error:
            source.want()
            raise BearerError("unknown_key") from error
        except SignatureError as error:
            raise BearerError("signature") from error
        return _Accepted(read_bearer_claims(payload, policy, now), source, keys, policy.leeway)

    def _of(self, issuer: str) -> tuple[BearerPolicy, JWKSource]:
        found = self._issuers.get(issuer)
        if found is None:
            raise BearerError("issuer")
        return found

    def first_keys(self, token: str) -> Future[None] | None:
        """What to wait for before `verify` can know the keys of this token's issuer. None where there is nothing to wait for.

        Only until its keys have come for the first time. The future ends when its issuer has answered, or failed to.
        """
        if all(source.is_known for _, source in self._issuers.values()):
            return None
        try:
            unverified = parse_foreign_jws(token)
            _, source = self._of(unverified_issuer(unverified.unverified_payload))
        except (MalformedError, BearerError):
            return None
        return source.first_answer()

    def watch(self, told: Told) -> None:
        """Tell *told* what happens to the keys of all issuers; see `JWKSource.watch`."""
        for _, source in self._issuers.values():
            source.watch(told)

    def refresh(self) -> tuple[JWKSourceStatus, ...]:
        """Ask each issuer now, unless it was asked a moment ago, and wait for the answers. For a start that waits, and for people."""
        return tuple(source.refresh() for _, source in self._issuers.values())

    def status(self) -> tuple[JWKSourceStatus, ...]:
        """How things stand with the keys of each issuer. Asks nothing."""
        return tuple(source.status() for _, source in self._issuers.values())

    def fetched(self) -> dict[str, datetime]:
        """When the keys of each issuer were last fetched; without those whose keys never were."""
        return {status.issuer: status.fetched_at for status in self.status() if status.fetched_at is not None}

    def close(self) -> None:
        """Stop asking for keys."""
        for _, source in self._issuers.values():
            source.close()


def bearer_from_settings(
    settings: Sequence[BearerSettings],
    *,
    mode: Literal["local", "deny"] = "local",
    clock: Callable[[], datetime] = utc_now,
    monotonic: Callable[[], float] = time.monotonic,
) -> BearerVerifier:
    """The verifier that the settings describe. It asks for keys when it is first used.

    Args:
        settings: One for each issuer.
        mode: What becomes of keys that are overdue (``[failure] bearer_keys``).
        clock: Tells the time.
        monotonic: Seconds that never go back.

    Raises:
        ConfigurationError: An address of keys is none that we ask.
        ValueError: There is no issuer.
    """

    def source(of: BearerSettings) -> JWKSource:
        return JWKSource(
            of.issuer,
            of.jwks_uri,
            policy=JWKSPolicy(
                refresh_after=timedelta(seconds=of.refresh_seconds), max_stale=timedelta(seconds=of.max_stale_seconds), mode=mode
            ),
            assumed_algorithm=of.algorithm,
            unsafe_any_address=of.unsafe_any_address,
            clock=clock,
            monotonic=monotonic,
        )

    def policy(of: BearerSettings) -> BearerPolicy:
        return BearerPolicy(
            issuer=of.issuer,
            audiences=frozenset(of.audience),
            account_claim=of.account_claim,
            account_prefix=of.account_prefix,
            organization_claim=of.organization_claim,
            end_user_claim=of.end_user_claim,
            person_claim=of.person_claim,
            scopes=frozenset(of.scopes),
            leeway=timedelta(seconds=of.leeway_seconds),
            max_lifetime=timedelta(seconds=of.max_lifetime_seconds),
        )

    return BearerVerifier((policy(of), source(of)) for of in settings)
