"""All published terms of an issuer, and which of them hold together (docs/adr/0007).

- Within a series versions replace one another by their effective day, UTC; of one day, the one that was published last.
- Several series hold at once: the general terms, policies for everyone, the contracts of the account's organization, the supplements for
  the model. Their clauses are joined, and forbid beats permit as within one document.
- A contract or supplement sets clauses of the general terms aside by naming them in ``replaces``: nothing else loosens them.
- Clauses of other series go by ``series/clause``, so that no two documents' clauses can be taken for one another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import lru_cache

from tos_guard._canonical import b64url_encode, encode_claims
from tos_guard.terms._acceptance import Acceptance, Bound, standing_of
from tos_guard.terms._actions import Action
from tos_guard.terms._clause import Clause
from tos_guard.terms._document import GENERAL, GrantType, TermsVersion, facts_required_by

__all__ = ["TermsShelf", "TermsStack"]


@dataclass(frozen=True, slots=True)
class TermsStack:
    """The documents that hold together, as one: it takes the place of a `TermsVersion` wherever clauses are asked for.

    Attributes:
        documents: The general terms first, then policies for all, contracts and supplements, each by name of their series.
        sha256: Names the combination; of the general terms alone, their own digest.
        clauses: The general terms' own but for those that are set aside, then the others' by ``series/clause``.
        grants: Kinds of grants of all documents; where two declare one, the first does.
        actions: The vocabulary with the actions of all documents.
        required_facts: Asserted facts that a clause on requests asks for.
    """

    documents: tuple[TermsVersion, ...]
    sha256: str = field(compare=False)
    clauses: tuple[Clause, ...] = field(compare=False, repr=False)
    grants: tuple[GrantType, ...] = field(compare=False, repr=False)
    actions: Mapping[str, Action] = field(compare=False, repr=False)
    required_facts: frozenset[str] = field(compare=False)

    def __hash__(self) -> int:
        return hash(self.sha256)

    @classmethod
    def of(cls, general: TermsVersion, others: Iterable[TermsVersion] = ()) -> TermsStack:
        """The general terms with these beside them, in any order."""
        return _joined((general, *sorted(others, key=_place)))

    @property
    def general(self) -> TermsVersion:
        """The general terms: what the token's ``terms`` names."""
        return self.documents[0]


def _place(terms: TermsVersion) -> tuple[bool, bool, str]:
    return bool(terms.models), terms.organization is not None, terms.series


@lru_cache(maxsize=4096)  # one for each combination of documents that accounts have: all of them share it
def _joined(documents: tuple[TermsVersion, ...]) -> TermsStack:
    general, *others = documents
    if not others:
        return TermsStack(documents, general.sha256, general.clauses, general.grants, general.actions, general.required_facts)
    replaced = frozenset[str]().union(*(terms.replaces for terms in others))
    kept = tuple(clause for clause in general.clauses if clause.id not in replaced)
    clauses = (*kept, *(replace(clause, id=f"{terms.series}/{clause.id}") for terms in others for clause in terms.clauses))
    grants: dict[str, GrantType] = {}
    actions: dict[str, Action] = {}
    for terms in documents:
        grants |= {grant.id: grant for grant in terms.grants if grant.id not in grants}
        actions |= {name: action for name, action in terms.actions.items() if name not in actions}
    digest = hashlib.sha256(encode_claims([terms.sha256 for terms in documents])).digest()
    return TermsStack(documents, b64url_encode(digest), clauses, tuple(grants.values()), actions, facts_required_by(clauses))


@dataclass(frozen=True, slots=True)
class TermsBinding:
    """What binds one account at one moment, in all series that are for it.

    Attributes:
        bounds: For each series, the general one first.
    """

    bounds: tuple[Bound, ...]

    @property
    def changes(self) -> datetime | None:
        """When the answer may be another although nothing new is published, accepted or withdrawn; None for never."""
        return min((bound.changes for bound in self.bounds if bound.changes is not None), default=None)

    @property
    def models(self) -> frozenset[str]:
        """Models for which other terms hold than for the rest."""
        found = [terms.models for bound in self.bounds if (terms := bound.version or bound.to_accept) is not None]
        return frozenset[str]().union(*found)

    def refusing(self, model: str | None) -> tuple[Bound, ...]:
        """The series because of which a request on this model is refused: their `Bound.to_accept` is to be accepted first."""
        return tuple(bound for bound in self.bounds if bound.refused and bound.concerns(model))

    def owed(self) -> tuple[Bound, ...]:
        """The series of which a version is still to be accepted, in grace or not."""
        return tuple(bound for bound in self.bounds if bound.to_accept is not None)

    def stack(self, model: str | None) -> TermsStack | None:
        """The documents that bind the account for this model; None where no general terms do.

        Args:
            model: The model asked for, or None for one that no terms name.
        """
        binding = [bound.version for bound in self.bounds if bound.version is not None and bound.version.is_for(model)]
        if not binding or binding[0].series != GENERAL:
            return None
        return TermsStack.of(binding[0], binding[1:])


@dataclass(frozen=True, slots=True)
class TermsShelf:
    """Every published version of every series of one issuer; a version more makes a new shelf.

    Attributes:
        versions: In the order in which they were published.
    """

    versions: tuple[TermsVersion, ...]
    _by_series: Mapping[str, tuple[TermsVersion, ...]] = field(compare=False, repr=False)

    @classmethod
    def of(cls, versions: Iterable[TermsVersion]) -> TermsShelf:
        """The shelf of these versions, in the order in which they were published."""
        published = tuple(versions)
        by_series: dict[str, tuple[TermsVersion, ...]] = {}
        for terms in sorted(published, key=lambda terms: terms.effective):  # stable: of one day, the one published last comes last
            by_series[terms.series] = (*by_series.get(terms.series, ()), terms)
        return cls(published, {name: by_series[name] for name in sorted(by_series, key=lambda name: (name != GENERAL, name))})

    def series(self) -> tuple[str, ...]:
        """Names of all series, the general one first."""
        return tuple(self._by_series)

    def versions_of(self, series: str) -> tuple[TermsVersion, ...]:
        """Versions of a series by their effective day; none where there is no such series."""
        return self._by_series.get(series, ())

    def version(self, name: str) -> TermsVersion | None:
        """A version by its name, which no two of an issuer share."""
        return next((terms for terms in self.versions if terms.version == name), None)

    def in_force(self, now: datetime) -> Mapping[str, TermsVersion]:
        """Series → its newest version in effect at *now*, whoever has accepted it. A series without one is absent."""
        return self._in_effect(now.astimezone(UTC).date())

    def _in_effect(self, today: date) -> dict[str, TermsVersion]:
        found = {name: [terms for terms in versions if terms.effective <= today] for name, versions in self._by_series.items()}
        return {name: versions[-1] for name, versions in found.items() if versions}

    def documents_for(self, organization: str | None, model: str | None, today: date) -> tuple[TermsVersion, ...]:
        """The newest documents in effect for an organization's accounts and a model, whoever has accepted them; the general terms first.

        Args:
            organization: The account's organization, or None.
            model: The model asked for, or None for one that no terms name.
            today: The day, UTC.
        """
        found = [terms for terms in self._in_effect(today).values() if terms.organization in (None, organization) and terms.is_for(model)]
        return tuple(sorted(found, key=lambda terms: (terms.series != GENERAL, _place(terms))))

    def binding(self, organization: str | None, acceptances: Sequence[Acceptance], now: datetime) -> TermsBinding:
        """What binds an account (`standing_of` for each series that is for it).

        Args:
            organization: The account's organization, or None.
            acceptances: Those of the account and of its organization, withdrawn ones too.
            now: The moment, present or past.
        """
        ours = ([terms for terms in versions if terms.organization in (None, organization)] for versions in self._by_series.values())
        return TermsBinding(tuple(standing_of(versions, acceptances, now) for versions in ours if versions))
