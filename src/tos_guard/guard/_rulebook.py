"""Which terms are published, and the plans under them. Published terms are read again only when the archive says it has changed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

from tos_guard.errors import ConfigurationError, TermsError
from tos_guard.policy import UsagePolicy
from tos_guard.protocols import PublishedTerms
from tos_guard.rights import DEFAULT_LADDER, Holder, Ladder, Plan, PlanCache
from tos_guard.terms import TermsShelf, TermsVersion, terms_from_document

__all__ = ["Rulebook"]

_log = logging.getLogger("tos_guard")

MAX_POLICIES: Final = 10_000  # digests of policies known to be kept; forgetting one costs a look at the store


class Rulebook:
    """The terms of one issuer as this process knows them. Any thread may call.

    Args:
        issuer: Whose.
        terms: What was given at start; on the shelf whether or not it was published.
        check: Raises `ConfigurationError` for terms that this guard cannot fulfil.
        ladder: What the steps of standing do.

    Attributes:
        shelf: All published versions.
        ladder: As given.
    """

    def __init__(self, issuer: str, terms: TermsVersion, check: Callable[[TermsVersion], None], ladder: Ladder = DEFAULT_LADDER) -> None:
        self._issuer = issuer
        self._first = terms
        self._check = check
        self._plans = PlanCache(ladder=ladder)
        self._read_at: int | None = None
        self._parsed: dict[str, TermsVersion] = {terms.sha256: terms}
        self._refused: set[str] = set()
        self._kept: set[str] = set()
        self._lock = threading.Lock()
        self.shelf: TermsShelf = TermsShelf.of((terms,))
        self.ladder: Ladder = ladder

    @property
    def has_read(self) -> bool:
        """Whether the archive has been read at all."""
        return self._read_at is not None

    def is_current(self, version: int) -> bool:
        """Whether the shelf is what the archive had at this version of it."""
        return self._read_at == version

    def read(self, published: Iterable[PublishedTerms], version: int) -> list[ConfigurationError]:
        """Take what the archive has at *version*.

        Returns:
            Why some of it cannot be used. Such terms are left out: they are said to be published, and this guard cannot keep them. Each is
            told once.
        """
        problems: list[ConfigurationError] = []
        with self._lock:
            found: list[TermsVersion] = []
            for stored in published:
                if stored.sha256 in self._refused:
                    continue
                try:
                    found.append(self._of(stored))
                except ConfigurationError as error:
                    self._refused.add(stored.sha256)
                    problems.append(error)
            if all(terms.sha256 != self._first.sha256 for terms in found):
                found.append(self._first)
            if tuple(found) != self.shelf.versions:
                self.shelf = TermsShelf.of(found)
                _log.info("tos_guard terms: %s", ", ".join(f"{terms.series} {terms.version}" for terms in found))
            self._read_at = version
        return problems

    def _of(self, stored: PublishedTerms) -> TermsVersion:
        terms = self._parsed.get(stored.sha256)
        if terms is None:
            terms = terms_from_document(stored.document, stored.text)
            if terms.sha256 != stored.sha256:
                raise TermsError("the stored document is not the one that was published", where=f"terms {terms.version}")
            self._check(terms)
            self._parsed[stored.sha256] = terms
        return terms

    def plan(self, holder: Holder, model: str, now: datetime) -> Plan:
        """The plan of *holder* for requests on *model*."""
        return self._plans.plan(holder, self.shelf, model, issuer=self._issuer, now=now)

    def general(self, now: datetime) -> TermsVersion:
        """The newest general terms in effect, or the first ones where none is yet."""
        found = self.shelf.in_force(now).get("general")
        return found if found is not None else self.shelf.versions_of("general")[0]

    def is_kept(self, policy: UsagePolicy) -> bool:
        """Whether a usage policy is known to be in the store."""
        return policy.sha256 in self._kept

    def note_kept(self, policy: UsagePolicy) -> None:
        """Remember that it is."""
        if len(self._kept) >= MAX_POLICIES:
            self._kept.clear()
        self._kept.add(policy.sha256)
