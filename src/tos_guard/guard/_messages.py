"""Request streams: each message is a request of its own, decided and reserved before the handler sees it (docs/adr/0008)."""

from __future__ import annotations

from copy import copy
from typing import Final

from tos_guard.errors import StoreError
from tos_guard.exchange import Exchange
from tos_guard.guard._admitting import Admitting, decided
from tos_guard.guard._needs import Caller, Cancel, RequestView, Route, Settle, Steps
from tos_guard.limits import Amounts, LimitRefusal, Quantity
from tos_guard.rights import Holder, Plan
from tos_guard.types import Decision, Facts

__all__ = ["AdmittingMessages"]

MAX_FURTHER: Final = 1_000
"""Reservations of one call that wait for its end. Of a longer stream the oldest keep their estimates: it could go on for days."""


class AdmittingMessages(Admitting):
    """The steps of a call whose requests are a stream."""

    def admit_message(
        self, caller: Caller, view: RequestView, route: Route, exchange: Exchange, message: bytes, *, first: bool = False
    ) -> Steps[Caller]:
        """Decide a message of a request stream, and reserve what it may take. The exchange's own slot serves all of them.

        Args:
            caller: Who asks.
            view: Head of the call.
            route: Its route.
            exchange: Its exchange, as `admit` gave it.
            message: The message as received.
            first: Whether it is the first. That was counted with the call, but for its size, and decided with it, unless it came later: a
                call can wait for its first message while its account is suspended.

        Returns:
            Who asks, with its rights as they are now.

        Raises:
            DeniedError: It is not allowed. The exchange is then a denial.
            AuthenticationError: The account was deleted, or its key revoked, since the call began.
            MalformedRequestError: The message cannot be read.
            RequestError: 503, where the limits engine failed and the settings deny.
            StoreError: Published terms or the account could not be read.
        """
        return self._timed(exchange.observed, self._admit_message(caller, view, route, exchange, message, first=first))

    def _admit_message(
        self, caller: Caller, view: RequestView, route: Route, exchange: Exchange, message: bytes, *, first: bool
    ) -> Steps[Caller]:
        request = route.dialect.read_request(message, view.head)
        estimate = self.meter.estimate(request, message)
        known, caller = caller, (yield from self.still(caller))
        if first and caller is known:
            amounts = _beyond(estimate, exchange.estimate)
            yield from self._reserve_further(exchange, caller.holder, exchange.plan, exchange.facts, amounts)
            return caller
        facts = self._facts(caller, view, request)
        yield from self._read_terms()
        plan = self.rulebook.plan(caller.holder, request.model, self.clock())
        decision = decided(plan, caller.key, facts)
        if not decision.allowed:
            self._met(exchange, facts, decision)
        amounts = _beyond(estimate, exchange.estimate) if first else estimate
        yield from self._reserve_further(exchange, caller.holder, plan, facts, amounts)
        if decision.allowed and not first:
            self.telemetry.decided(exchange.observed, decision, terms_version=exchange.in_force.terms.version)
        return caller

    def _reserve_further(self, exchange: Exchange, holder: Holder, plan: Plan, facts: Facts, amounts: Amounts) -> Steps[None]:
        if self._limits is None:
            return
        larger, share = plan.rights(facts).larger_limits, plan.rung.limit_share
        charges = tuple(
            charge
            for charge in self.meter.charges(holder, larger, facts, amounts, share=share)
            if charge.amount and charge.limit.quantity is not Quantity.CONCURRENCY
        )
        if not charges:
            return
        exchange.messages += 1
        answer, _ = yield from self._charge(charges, f"{exchange.ids.rid}.{exchange.messages}")
        if isinstance(answer, LimitRefusal):
            self._met(exchange, facts, self._over_limit(answer), answer)
            return
        exchange.further.append((answer, amounts))
        if exchange.settled:  # another thread, or task, has ended the call meanwhile: the message goes nowhere
            yield from self._end_further(Cancel(answer))
            return
        if len(exchange.further) > MAX_FURTHER:
            reservation, estimate = exchange.further.pop(0)
            yield from self._end_further(Settle(reservation, estimate))

    def _end_further(self, need: Settle | Cancel) -> Steps[None]:
        try:
            yield need
        except StoreError as failure:
            self.report_failure("limits", failure)

    def _met(self, exchange: Exchange, facts: Facts, decision: Decision, refusal: LimitRefusal | None = None) -> None:
        """A message is not allowed: from now on the exchange is a denial, unless its response has ended.

        Raises:
            DeniedError: Unless the guard only monitors.
        """
        asked = copy(exchange) if exchange.answered else exchange
        asked.facts, asked.decision = facts, decision
        asked.limit_refusal = refusal or asked.limit_refusal
        self._told(asked)
        if not exchange.monitored:
            raise self.denied(asked)


def _beyond(wanted: Amounts, reserved: Amounts) -> Amounts:
    """What a first message takes that the call, of which no byte was known, has not reserved."""
    return Amounts(
        requests=0,
        input_tokens=max(0, wanted.input_tokens - reserved.input_tokens),
        output_tokens=max(0, wanted.output_tokens - reserved.output_tokens),
        reasoning_tokens=max(0, wanted.reasoning_tokens - reserved.reasoning_tokens),
        cost=max(0, wanted.cost - reserved.cost),
    )
