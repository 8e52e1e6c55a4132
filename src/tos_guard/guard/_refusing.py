"""Saying no: what a refusal is counted as, and how it is answered."""

from __future__ import annotations

from tos_guard._canonical import b64url_encode
from tos_guard.dialects import Dialect
from tos_guard.errors import RequestError, StoreError
from tos_guard.exchange import Exchange, Head
from tos_guard.guard._base import GuardBase
from tos_guard.guard._refusals import refusal
from tos_guard.telemetry import Observed
from tos_guard.terms import TermsVersion

__all__ = ["Refusing"]


class Refusing(GuardBase):
    """What refusals need beside their reason."""

    @property
    def terms(self) -> TermsVersion:
        """The newest general terms in effect."""
        return self.rulebook.general(self.clock())

    def count_refusal(self, error: RequestError, observed: Observed, *, monitored: bool = False) -> None:
        """Roll up a refusal before anything was decided: no account, or a request that cannot be read; *monitored* if it is let through."""
        self.telemetry.refused(observed, error.code, monitored=monitored)
        try:
            self._records.count_denial(error.code, self.clock())
        except StoreError as failure:
            self.report_failure("record", failure)

    def refuse(self, error: RequestError, dialect: Dialect | None = None, exchange: Exchange | None = None) -> tuple[Head, bytes]:
        """The answer to a request that is not served, in the dialect's own error shape."""
        rid, terms_url = self.named_in_refusals(exchange)
        states = exchange.limit_states if exchange is not None else ()
        now = exchange.started if exchange is not None else self.clock()
        return refusal(error, dialect, rid=rid, terms_url=terms_url, appeal_url=self.appeal_url, now=now, states=states)

    def named_in_refusals(self, exchange: Exchange | None) -> tuple[str, str]:
        """The request id and the address of the terms that a refusal names: of its exchange, or a fresh id where there is none."""
        if exchange is not None:
            return exchange.ids.rid, exchange.in_force.terms.uri
        return f"req_{b64url_encode(self._entropy(16))}", self.terms.uri
