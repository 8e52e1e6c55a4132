"""From a response to its seal: tokens, records, and what is settled in the end (DESIGN §5)."""

from __future__ import annotations

import time

from tos_guard.errors import SignerError, StoreError
from tos_guard.exchange import Exchange, Sealable, Sealed
from tos_guard.guard._base import GuardBase
from tos_guard.guard._needs import CurrentKey, Keep, Settle, Sign, Steps
from tos_guard.keys import KeyRecord, join_jws
from tos_guard.limits import Amounts
from tos_guard.provenance import MAX_WRITTEN_CHARS, Claims, token_signing_input
from tos_guard.types import Completion

__all__ = ["Sealing"]


class Sealing(GuardBase):
    """The steps after the handler began to answer."""

    def pending(self, exchange: Exchange) -> Steps[str | None]:
        """The pending token, or None where the signer failed and the settings allow that.

        Raises:
            SignerError: No token could be made, and the settings deny.
        """
        now = self.clock()
        try:
            key: KeyRecord = yield CurrentKey(now)
            token = yield from _signed(exchange.pending_claims(now), key)
        except SignerError as failure:
            self.report_failure("signer", failure)
            if self.denies_without("signer"):
                raise
            self.report_degraded("signer", "allow")
            token = None
        self.telemetry.stream_started(exchange.observed)
        return token

    def seal(self, exchange: Exchange, response: Sealable, status: int) -> Steps[Sealed]:
        """Make the final token, and give it out once its record is durable: whoever holds one can demand its record.

        Signed first, so that the record of an exchange whose signer failed does not speak of a token that nobody made.

        Raises:
            SignerError, StoreError: No token could be made.
        """
        began = time.perf_counter()
        try:
            sealed = yield from self._seal(exchange, response, status)
        except (SignerError, StoreError) as failure:
            self.telemetry.not_sealed(exchange.observed, "signer" if isinstance(failure, SignerError) else "store")
            raise
        self.telemetry.sealed(exchange.observed, carrier=response.carrier, seconds=time.perf_counter() - began)
        return sealed

    def _seal(self, exchange: Exchange, response: Sealable, status: int) -> Steps[Sealed]:
        now = self.clock()
        content = response.content
        assert content is not None  # noqa: S101 - a response that asks to be sealed has content
        key: KeyRecord = yield CurrentKey(now)
        token = yield from _signed(exchange.final_claims(now, content, response.completion), key)
        if len(token) > MAX_WRITTEN_CHARS and content.is_inline:
            content = content.with_leaves_beside()
            token = yield from _signed(exchange.final_claims(now, content, response.completion), key)
        record = exchange.record(
            now=now, status=status, content=content, completion=response.completion, kid=key.kid, carrier=response.carrier
        )
        wait, signed = self.settings.records == "durable", time.perf_counter()
        yield Keep(record, wait=wait)
        if wait:
            self.telemetry.recorded(time.perf_counter() - signed)
        return Sealed(token, content)

    def close(self, exchange: Exchange, response: Sealable | None, *, status: int, sealed: bool, reason: str = "") -> Steps[None]:
        """Count how the exchange ended, record it if no final token did, and settle what was reserved where that is still to do.

        Recorded first: a task that is cancelled again and again gets no further than its first wait, and only settling may wait.

        Args:
            exchange: The exchange.
            response: The response, or None where the handler never began one.
            status: HTTP status sent, 0 for none.
            sealed: Whether the final token was made.
            reason: Why not, where the response does not know (``client_gone``, ``handler_raised``, ``denied``).
        """
        if response is not None:
            self.telemetry.filtered(removed_tokens=response.removed_tags, dropped_events=response.dropped_events)
        if sealed:
            self.telemetry.ended(exchange.observed, carrier=response.carrier if response is not None else "none")
        else:
            yield from self._record_unsealed(exchange, response, status=status, reason=reason)
        yield from self.settle(exchange, response, status=status, reason=reason)

    def _record_unsealed(self, exchange: Exchange, response: Sealable | None, *, status: int, reason: str) -> Steps[None]:
        why = reason or (response.unsealed if response else None) or "no_response"
        self.telemetry.ended(exchange.observed, unsealed=why)
        completion = Completion.ABORTED if why == "client_gone" else Completion.ERROR if why == "handler_raised" else None
        content = response.content if response is not None else None
        record = exchange.record(now=self.clock(), status=status, content=content, completion=completion, unsealed=why)
        try:
            yield Keep(record, wait=False)
        except StoreError as failure:
            self.report_failure("record", failure)

    def settle(self, exchange: Exchange, response: Sealable | None, *, status: int, reason: str = "") -> Steps[None]:
        """Settle what was reserved, once: before the last of the response leaves, so that whoever has read it finds its slot free.

        Args:
            exchange: The exchange.
            response: The response, or None where the handler never began one.
            status: HTTP status sent, 0 for none.
            reason: As `close` has it.
        """
        reservation = exchange.reservation
        if self._leases is None or exchange.settled:
            return
        exchange.settled = True
        yield from self._settle_further(exchange, response)
        if reservation is None:
            return
        try:
            yield Settle(reservation, self._used(exchange, response, status=status, reason=reason))
            self.telemetry.settled()
        except StoreError as failure:
            self.report_failure("limits", failure)
        finally:
            self._leases.let_go(reservation)

    def _settle_further(self, exchange: Exchange, response: Sealable | None) -> Steps[None]:
        """Settle what further messages of a request stream had reserved. What the host reports is of all of them, and the call's own."""
        said = exchange.reported or (response.usage if response is not None else None)
        for reservation, estimate in exchange.further:
            used = estimate if said is None else self.meter.nothing_served(reserved=estimate, model=exchange.facts.model)
            try:
                yield Settle(reservation, used)
            except StoreError as failure:
                self.report_failure("limits", failure)
        exchange.further.clear()

    def _used(self, exchange: Exchange, response: Sealable | None, *, status: int, reason: str) -> Amounts:
        """What an exchange took: as the host reports it, else as the response says. What neither says keeps the estimate.

        An error in place of a response served nothing. A stream that broke off may have served all it could.
        """
        said = exchange.reported or (response.usage if response is not None else None)
        failed = status >= 400 or (response is None and reason == "handler_raised")
        if said is None and failed:
            return self.meter.nothing_served(reserved=exchange.estimate, model=exchange.facts.model)
        return self.meter.actual(said, reserved=exchange.estimate, model=exchange.facts.model)


def _signed(claims: Claims, key: KeyRecord) -> Steps[str]:
    message = token_signing_input(claims, key)
    signature: bytes = yield Sign(key, message)
    return join_jws(message, signature)
