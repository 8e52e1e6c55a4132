"""From a response to its seal: tokens, records, and what is settled in the end (DESIGN §5)."""

from __future__ import annotations

import time
from datetime import datetime

from tos_guard.errors import SignerError, StoreError
from tos_guard.exchange import Exchange, Sealable, Sealed, closed, covers, opened
from tos_guard.guard._keeping import Keeping, SealConflictError, is_of
from tos_guard.guard._needs import Cancel, CurrentKey, Keep, KeepSeals, Settle, Sign, Steps
from tos_guard.keys import KeyRecord, join_jws
from tos_guard.ledger import ExchangeRecord, KeptSeal
from tos_guard.limits import Amounts, Reservation
from tos_guard.provenance import MAX_WRITTEN_CHARS, Claims, token_signing_input
from tos_guard.types import Completion

__all__ = ["Sealing"]


class Sealing(Keeping):
    """The steps after the handler began to answer."""

    def pending(self, exchange: Exchange) -> Steps[str | None]:
        """The pending token, or None where the signer failed and the settings allow that.

        Where a response may be one that was sealed before, it has the ids of that one: a final token must have those of the pending one.

        Raises:
            SignerError: No token could be made, and the settings deny.
        """
        now = self.clock()
        exchange.repeats = exchange.original is not None
        try:
            key: KeyRecord = yield CurrentKey(now)
            token = yield from _signed(exchange.shown.pending_claims(now), key)
        except SignerError as failure:
            self.report_failure("signer", failure)
            if self.denies_without("signer"):
                raise
            self.report_degraded("signer", "allow")
            token = None
        self.telemetry.stream_started(exchange.observed)
        return token

    def checkpoint(self, exchange: Exchange, response: Sealable) -> Steps[str | None]:
        """A token over the content so far, of which there is no record; None where none could be made.

        Without it the stream goes on: it proves itself later, and whether anything leaves unsealed is decided then.
        """
        now = self.clock()
        content = response.content
        assert content is not None  # noqa: S101 - a response that asks for a checkpoint has content
        try:
            key: KeyRecord = yield CurrentKey(now)
            token = yield from _signed(exchange.checkpoint_claims(now, content), key)
            if len(token) > MAX_WRITTEN_CHARS and content.is_inline:
                token = yield from _signed(exchange.checkpoint_claims(now, content.with_leaves_beside()), key)
        except SignerError as failure:
            self.report_failure("signer", failure)
            return None
        return token

    def seal(self, exchange: Exchange, response: Sealable, status: int) -> Steps[Sealed]:
        """Make the final token, and give it out once its record is durable: whoever holds one can demand its record.

        Signed first, so that the record of an exchange whose signer failed does not speak of a token that nobody made.

        What was sealed before leaves with the token that it had; what has not ended leaves with a pending one.

        Raises:
            SignerError, StoreError: No token could be made.
            SealConflictError: The head has told the request id of a response that was another one.
        """
        began = time.perf_counter()
        try:
            sealed = yield from self._seal(exchange, response, status)
        except SealConflictError:
            exchange.recording = None
            self.telemetry.not_sealed(exchange.observed, "seal_conflict")
            self.telemetry.kept("conflict")
            raise
        except (SignerError, StoreError) as failure:
            exchange.recording = None
            self.telemetry.not_sealed(exchange.observed, "signer" if isinstance(failure, SignerError) else "store")
            raise
        exchange.recording = None
        self.telemetry.sealed(exchange.observed, carrier=response.carrier, seconds=time.perf_counter() - began)
        return sealed

    def _seal(self, exchange: Exchange, response: Sealable, status: int) -> Steps[Sealed]:
        content, kept = response.content, exchange.kept
        assert content is not None  # noqa: S101 - a response that asks to be sealed has content
        if response.is_running:
            later = yield from self._seal_later(exchange, response, status)
            if later is not None:
                return later
        elif kept is not None:
            if covers(kept, content):
                return self._repeat(exchange, kept, content)
            if kept.is_open and self._ends(kept, exchange, response, status):
                sealed = yield from self._seal_open(exchange, kept, response, status)
                if sealed is not None:
                    return sealed
            if exchange.repeats:
                raise SealConflictError
        return (yield from self._seal_own(exchange, response, status))

    def _seal_own(self, exchange: Exchange, response: Sealable, status: int) -> Steps[Sealed]:
        """Seal a response as what its own request made."""
        now = self.clock()
        sealed, record = yield from self._final(exchange, response, status)
        names = self._names(exchange, response, status, now) if exchange.request.retrieves is None else ()
        exchange.recording = exchange
        if names:
            began = time.perf_counter()
            seals = closed(opened(exchange, names, now, request_hash=exchange.request_hash)[0], sealed)
            in_the_way: KeptSeal | None = yield KeepSeals(seals, record)
            self.telemetry.recorded(time.perf_counter() - began)
            if in_the_way is None:
                self.telemetry.kept("kept")
                return sealed
            # Two requests with one key ran at once, and the other has ended first.
            if self._is_the_same(exchange, in_the_way, sealed.content) and not response.early:
                self._expect(exchange, in_the_way, salt=exchange.ids.salt)
                return self._repeat(exchange, in_the_way, sealed.content)
            if others := tuple(seal for seal in seals if seal.kind is not in_the_way.kind):
                yield KeepSeals(others, record)
                return sealed
        yield from self._keep_record(record)
        return sealed

    def _seal_open(self, exchange: Exchange, kept: KeptSeal, response: Sealable, status: int) -> Steps[Sealed | None]:
        """Seal a response that has ended at last under the ids of the request that made it, and settle that one.

        None where another was faster, and had another content.
        """
        original = exchange.original
        assert original is not None and response.content is not None  # noqa: S101, PT018 - `kept` came with it, and it is sealed
        sealed, record = yield from self._final(original, response, status)
        exchange.recording = original
        try:
            in_the_way: KeptSeal | None = yield KeepSeals(closed(kept, sealed), record)
        except StoreError:
            # It may be closed all the same, and whoever finds it so repeats its token. If it is not, settling again changes nothing.
            yield from self.settle(original, response, status=status)
            raise
        if in_the_way is not None:
            return self._repeat(exchange, in_the_way, response.content) if covers(in_the_way, response.content) else None
        exchange.repeats = exchange.uncharged = True
        self.telemetry.kept("closed")
        yield from self.settle(original, response, status=status)
        return sealed

    def _seal_later(self, exchange: Exchange, response: Sealable, status: int) -> Steps[Sealed | None]:
        """Let a response that has not ended leave with a pending token, and keep its exchange for whoever finds it ended.

        None where nothing keeps it, so that its first answer is all that there will be of it.
        """
        now = self.clock()
        if exchange.kept is not None and not is_of(exchange.kept, response):
            self._forget_kept(exchange)
        if exchange.kept is None:
            is_open = yield from self._open_or_expect(exchange, response, status, now)
            if not is_open:
                return None
        if exchange.kept is None:
            self._settle_later(exchange)
        else:
            exchange.repeats = exchange.uncharged = True
        assert response.content is not None  # noqa: S101 - it is sealed, by its first token
        key: KeyRecord = yield CurrentKey(now)
        token = yield from _signed(exchange.shown.pending_claims(now), key)
        return Sealed(token, response.content, pending=True)

    def _open_or_expect(self, exchange: Exchange, response: Sealable, status: int, now: datetime) -> Steps[bool]:
        """Keep an exchange open, or find out that it repeats one with the same response. Says whether anything keeps it."""
        names = self._names(exchange, response, status, now)
        in_the_way = (yield from self._open(exchange, names, now)) if names else None
        if in_the_way is None:
            return bool(names)
        if is_of(in_the_way, response):
            self._expect(exchange, in_the_way, salt=exchange.ids.salt)
            return True
        self._forget_kept(exchange)
        if names := self._names(exchange, response, status, now):  # its own, which nothing else has
            yield from self._open(exchange, names, now)
        return bool(names)

    @staticmethod
    def _forget_kept(exchange: Exchange) -> None:
        """Take an exchange for one by itself: what is kept under its ``Idempotency-Key`` is of another response, which has the key."""
        exchange.key = exchange.kept = exchange.original = None

    def _final(self, exchange: Exchange, response: Sealable, status: int) -> Steps[tuple[Sealed, ExchangeRecord]]:
        """The final token of an exchange, and its record."""
        now, content, completion = self.clock(), response.content, response.completion
        assert content is not None  # noqa: S101 - a response that asks to be sealed has content
        key: KeyRecord = yield CurrentKey(now)
        token = yield from _signed(exchange.final_claims(now, content, completion), key)
        if len(token) > MAX_WRITTEN_CHARS and content.is_inline:
            content = content.with_leaves_beside()
            token = yield from _signed(exchange.final_claims(now, content, completion), key)
        record = exchange.record(now=now, status=status, content=content, completion=completion, kid=key.kid, carrier=response.carrier)
        return Sealed(token, content), record

    def _keep_record(self, record: ExchangeRecord) -> Steps[None]:
        wait, began = self.settings.records == "durable", time.perf_counter()
        yield Keep(record, wait=wait)
        if wait:
            self.telemetry.recorded(time.perf_counter() - began)

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
        recording, exchange.recording = exchange.recording, None
        if sealed:
            self.telemetry.ended(exchange.observed, carrier=response.carrier if response is not None else "none")
        elif response is not None and recording is exchange:
            # Its token has not left; its record says all the same what it covers, unless the store fails: then another does.
            self.telemetry.ended(exchange.observed, carrier=response.carrier)
            yield from self._keep_unsealed(exchange, response, status, reason)
        elif response is not None and reason == "client_gone" and exchange.request.background and not _repeats(exchange, response):
            self._forget_kept(exchange)
            yield from self._leave_open(exchange, response, status)
        else:
            yield from self._record_unsealed(exchange, response, status=status, reason=reason)
        if recording is not None and recording is not exchange:
            yield from self.settle(recording, response, status=status)
        yield from self.settle(exchange, response, status=status, reason=reason)

    def _leave_open(self, exchange: Exchange, response: Sealable, status: int) -> Steps[None]:
        """Keep the exchange of a response that runs on although its reader has left, so that its stream can be resumed."""
        now = self.clock()
        names = self._names(exchange, response, status, now)
        if response.response_id is None or not names:
            yield from self._record_unsealed(exchange, response, status=status, reason="client_gone")
            return
        record = self._unsealed(exchange, response, status, "client_gone")
        is_open = False
        try:
            is_open = (yield from self._open(exchange, names, now, instead=record)) is None
        except StoreError as failure:
            self.report_failure("record", failure)
        if is_open:
            self.telemetry.ended(exchange.observed, unsealed="client_gone")
            self._settle_later(exchange)
        else:
            yield from self._record_unsealed(exchange, response, status=status, reason="client_gone")

    def _record_unsealed(self, exchange: Exchange, response: Sealable | None, *, status: int, reason: str) -> Steps[None]:
        why = reason or (response.unsealed if response else None) or "no_response"
        self.telemetry.ended(exchange.observed, unsealed=why)
        yield from self._keep_unsealed(exchange, response, status, why)

    def _keep_unsealed(self, exchange: Exchange, response: Sealable | None, status: int, why: str) -> Steps[None]:
        try:
            yield Keep(self._unsealed(exchange, response, status, why), wait=False)
        except StoreError as failure:
            self.report_failure("record", failure)

    def _unsealed(self, exchange: Exchange, response: Sealable | None, status: int, why: str) -> ExchangeRecord:
        """The record of an exchange without a final token. One with a token, which may yet be found to be kept, takes its place."""
        completion = Completion.ABORTED if why == "client_gone" else Completion.ERROR if why == "handler_raised" else None
        content = response.content if response is not None else None
        return exchange.record(now=self.clock(), status=status, content=content, completion=completion, unsealed=why)

    def settle(self, exchange: Exchange, response: Sealable | None, *, status: int, reason: str = "") -> Steps[None]:
        """Settle what was reserved, once: before the last of the response leaves, so that whoever has read it finds its slot free.

        What the same response was charged before is given back. What runs on in the background is settled by whoever finds it ended; its
        slot is free.

        Args:
            exchange: The exchange.
            response: The response, or None where the handler never began one.
            status: HTTP status sent, 0 for none.
            reason: As `close` has it.
        """
        slot, exchange.slot = exchange.slot, None
        if slot is not None:
            yield from self._end(slot, Cancel(slot))
        reservation = exchange.reservation
        if exchange.settled:
            return
        exchange.settled = True
        yield from self._settle_further(exchange, response)
        if reservation is None:
            return
        if exchange.uncharged:
            yield from self._end(reservation, Cancel(reservation))
        else:
            yield from self._end(reservation, Settle(reservation, self._used(exchange, response, status=status, reason=reason)))

    def _end(self, reservation: Reservation, need: Settle | Cancel) -> Steps[None]:
        if self._leases is None:
            return
        try:
            yield need
            self.telemetry.settled("settled" if isinstance(need, Settle) else "cancelled")
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


def _repeats(exchange: Exchange, response: Sealable) -> bool:
    """Whether the response is, or may yet turn out to be, the one that is kept."""
    return exchange.kept is not None and (response.response_id is None or is_of(exchange.kept, response))


def _signed(claims: Claims, key: KeyRecord) -> Steps[str]:
    message = token_signing_input(claims, key)
    signature: bytes = yield Sign(key, message)
    return join_jws(message, signature)
