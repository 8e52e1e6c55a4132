"""Seals of responses that leave again: stored and background responses, idempotent retries (docs/adr/0008-every-door.md, "Kept seals").

- What an account asks for again is found among its own seals alone.
- The same content leaves with the token it had before, under the request id it had, and is charged once. Any other content is sealed as
  its own; where the head has already told the earlier request id, it is withheld, since two final tokens of one request would be a lie.
- An open seal is closed once, by whoever finds the response ended first.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import datetime, timedelta
from typing import Final

from tos_guard._canonical import b64url_encode
from tos_guard.dialects import RequestFacts
from tos_guard.errors import ConfigurationError, MalformedRequestError, RequestError, StoreError
from tos_guard.exchange import Exchange, Sealable, Sealed, SealName, covers, kept_content, kept_facts, opened, original_of
from tos_guard.guard._base import GuardBase
from tos_guard.guard._needs import FindSeal, KeepSeals, RequestView, Route, Steps, UndecidedError
from tos_guard.ledger import ExchangeRecord, KeptSeal, SealKind
from tos_guard.provenance import Content
from tos_guard.types import Completion, Facts

__all__ = ["NO_EXCHANGE", "IdempotencyMismatchError", "Keeping", "Retry", "SealConflictError", "UnknownResponseError", "damaged", "is_of"]

MAX_KEY_CHARS: Final = 255  # of an Idempotency-Key, as OpenAI's and other providers' clients send them


NO_EXCHANGE: Final = (KeyError, TypeError, ValueError, ConfigurationError)
"""What reading a kept exchange raises where it is damaged, or names a time zone that this machine does not know."""


class UnknownResponseError(RequestError):
    """No response of this id was sealed for the account: what it made itself, it may have again, and nothing else."""

    code = "tos_unknown_response"
    status = 404

    def __init__(self) -> None:
        super().__init__("No response of this id is kept for this account", cure="Ask with the account that made it, while it is kept.")


class IdempotencyMismatchError(RequestError):
    """The ``Idempotency-Key`` was given with another request."""

    code = "tos_idempotency_mismatch"
    status = 422

    def __init__(self) -> None:
        super().__init__("was given with another request before", where="header idempotency-key", cure="Give each request its own.")


class SealConflictError(RequestError):
    """Another content was sealed under the request id that the head of this response has told."""

    code = "tos_seal_conflict"
    status = 409

    def __init__(self) -> None:
        super().__init__("Another response was sealed under this request id", cure="Ask again, without the stream or the key.")


class Retry(tuple[str, str, bytes]):
    """What an ``Idempotency-Key`` makes of a request: the key hashed, the keyed hash of the request, and the salt of its exchange."""

    __slots__ = ()


class Keeping(GuardBase):
    """Finding kept seals, and keeping them."""

    def detached_seal(self, account_id: str, rid: str) -> Steps[KeptSeal | None]:
        """The seal of a response of the account whose final token nothing could carry, by its request id; None where there is none.

        Raises:
            StoreError: The store did not answer.
        """
        return (yield from self._kept(account_id, SealKind.REQUEST, rid))

    # Before the handler runs

    def _retrieved(self, account_id: str, response_id: str) -> Steps[KeptSeal]:
        """The seal of a response of the account.

        Raises:
            UnknownResponseError: There is none.
            StoreError: The store did not answer.
        """
        seal = yield from self._kept(account_id, SealKind.RESPONSE, response_id)
        if seal is None:
            raise UnknownResponseError
        return seal

    def _retry(self, account_id: str, view: RequestView, route: Route, body: bytes) -> Retry | None:
        """What the request's ``Idempotency-Key`` makes of it; None without one, or where the route's handler knows of none.

        Raises:
            MalformedRequestError: The key is none.
        """
        key = view.header("idempotency-key") if route.idempotent else None
        if key is None:
            return None
        if not 1 <= len(key) <= MAX_KEY_CHARS:
            raise MalformedRequestError(f"has not 1 to {MAX_KEY_CHARS} characters", where="header idempotency-key")
        # In one JSON text, so that no two of them say the same; the request itself names what it is sent to.
        named = json.dumps([self.settings.issuer, account_id, key])
        request = json.dumps([self.settings.issuer, account_id, view.method, view.path, hashlib.sha256(body).hexdigest()])
        return Retry((self._keyed("key", named), self._keyed("request", request), self._mac("salt", named)))

    def _repeated(self, account_id: str, retry: Retry) -> Steps[KeptSeal | None]:
        """The seal that an earlier request with this key was answered with, or None.

        Raises:
            IdempotencyMismatchError: It was another request.
            StoreError: The store did not answer.
        """
        seal = yield from self._kept(account_id, SealKind.IDEMPOTENCY, retry[0])
        if seal is not None and not hmac.compare_digest(seal.request_hash or "", retry[1]):
            raise IdempotencyMismatchError
        return seal

    def _kept(self, account_id: str, kind: SealKind, key: str) -> Steps[KeptSeal | None]:
        if self.seals is None:
            return None
        found: KeptSeal | None = yield FindSeal(account_id, kind, key, self.clock())
        return found

    def _keyed(self, what: str, text: str) -> str:
        return b64url_encode(self._mac(what, text))

    def _mac(self, what: str, text: str) -> bytes:
        return hmac.digest(self._retry_key, f"{what}\n{text}".encode("ascii"), hashlib.sha256)

    @staticmethod
    def _facts_of(seal: KeptSeal) -> Facts:
        try:
            return kept_facts(seal)
        except (KeyError, TypeError) as error:
            raise damaged(seal) from error

    @staticmethod
    def _expect(exchange: Exchange, seal: KeptSeal, *, salt: bytes) -> None:
        """Let the exchange repeat a kept one, if its response turns out to be the same."""
        try:
            request = RequestFacts(action=exchange.facts.action, model=exchange.facts.model)
            exchange.original = original_of(
                seal, dialect=exchange.dialect, plan=exchange.plan, request=request, observed=exchange.observed, salt=salt
            )
        except NO_EXCHANGE as error:
            raise damaged(seal) from error
        exchange.kept = seal

    # Once the response is known

    def _names(self, exchange: Exchange, response: Sealable, status: int, now: datetime) -> tuple[SealName, ...]:
        """Under which names the seal of a response is kept."""
        if self.seals is None:
            return ()
        retention = self.settings.retention
        until = _until(now, retention.kept_seal)
        names: list[SealName] = []
        if response.carrier == "detached":
            names.append((SealKind.REQUEST, exchange.ids.rid, until))
        if status < 400 and response.response_id is not None and (exchange.request.stores or exchange.request.background):
            names.append((SealKind.RESPONSE, response.response_id, until))
        # A handler that failed may be asked once more.
        if exchange.key is not None and status < 400 and response.completion is Completion.COMPLETE:
            names.append((SealKind.IDEMPOTENCY, exchange.key, _until(now, retention.idempotency)))
        return tuple(names)

    def _repeat(self, exchange: Exchange, seal: KeptSeal, content: Content) -> Sealed:
        """The seal that the same content had before."""
        assert seal.token is not None  # noqa: S101 - an open seal covers nothing
        exchange.repeats = exchange.uncharged = True
        self.telemetry.kept("reused")
        return Sealed(seal.token, kept_content(seal, content))

    def _is_the_same(self, exchange: Exchange, seal: KeptSeal, content: Content) -> bool:
        """Whether another request with the same key was sealed meanwhile, over the same content: that one is charged for both."""
        if not covers(seal, content):
            return False
        exchange.uncharged = True
        return True

    def _open(
        self, exchange: Exchange, names: tuple[SealName, ...], now: datetime, *, instead: ExchangeRecord | None = None
    ) -> Steps[KeptSeal | None]:
        """Keep an exchange whose response goes on after its head and body have left. Gives the seal that stands in the way.

        Raises:
            StoreError: It is not kept, or nobody knows. Then what was reserved is left to whoever finds it all the same.
        """
        try:
            in_the_way: KeptSeal | None = yield KeepSeals(opened(exchange, names, now, request_hash=exchange.request_hash), instead=instead)
        except StoreError as failure:
            is_kept = yield from self._is_kept(exchange, names[0], failure)
            if not is_kept:
                raise
            self.report_failure("record", failure)
            in_the_way = None
        if in_the_way is None:
            self.telemetry.kept("opened")
        return in_the_way

    def _is_kept(self, exchange: Exchange, name: SealName, failure: StoreError) -> Steps[bool]:
        """Whether an exchange is kept although the store has failed: it may have kept it before."""
        try:
            seal = yield from self._kept(exchange.account_id, name[0], name[1])
        except StoreError:
            self._settle_later(exchange)
            return False
        if seal is not None and seal.rid == exchange.ids.rid:
            return True
        if isinstance(failure, UndecidedError):
            self._settle_later(exchange)
        return False

    def _settle_later(self, exchange: Exchange) -> None:
        """Leave what was reserved to whoever finds the response ended. Nothing renews it until then.

        Where nobody asked for the background its slot was not taken apart from the rest: with the lease it comes back, and the rest keeps
        its estimate.
        """
        exchange.settled = True
        if self._leases is not None and exchange.reservation is not None:
            self._leases.let_go(exchange.reservation)

    @staticmethod
    def _ends(seal: KeptSeal, exchange: Exchange, response: Sealable, status: int) -> bool:
        """Whether a response is the end of an open exchange: the response itself, and not what else is said of it."""
        assert response.content is not None  # noqa: S101 - it is sealed
        is_whole = response.content.projection == exchange.dialect.projection.name
        return status < 400 and is_whole and is_of(seal, response)


def is_of(seal: KeptSeal, response: Sealable) -> bool:
    """Whether a response gives itself the id of the one that a seal is of."""
    ids = {key for kind, key, _ in seal.exchange.get("names", ()) if kind == SealKind.RESPONSE}
    return response.response_id in (ids | {seal.key} if seal.kind is SealKind.RESPONSE else ids)


def _until(now: datetime, days: int) -> int:
    return int((now + timedelta(days=days)).timestamp() * 1000)


def damaged(seal: KeptSeal) -> StoreError:
    """What was kept cannot be read."""
    return StoreError("a kept seal cannot be read", where=f"kept seal {seal.rid}")
