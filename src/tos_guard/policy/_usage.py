"""The usage policy of an account's terms and grants (docs/spec/discovery.md, "Usage policy")."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from tos_guard._canonical import b64url_encode, encode_claims
from tos_guard.terms import Clause, Effect, Scope, TermsStack, TermsVersion

__all__ = ["UsagePolicy", "usage_policy"]

MAX_CLAUSES_IN_TOKEN: Final = 8
MAX_CLAUSE_CHARS_IN_TOKEN: Final = 112  # quotes and commas included: what the 1.8 KB of a token leave for them (docs/adr/0004, 0007)

_LABELS: Final = {
    "train-model": ("train-ai", True),
    "train-competing-model": ("train-ai", False),
    "distil": ("train-ai", False),
    "use-as-input": ("ai-use", True),
}
"""Action → its label in draft-ietf-aipref-vocab, and whether the two say the same. ``search`` is never said: it would override both."""


@dataclass(frozen=True, slots=True)
class UsagePolicy:
    """What may be done with the output of one account.

    Attributes:
        sha256: Digest of the document, base64url: the claim ``usage.sha256``.
        clauses: The first clause ids, for the token: at most eight, and as many as its size leaves room for.
        content_usage: The AIPREF projection, a `Content-Usage` field value. Lossy: "competing models" has no word there, so a ban
            on training them reads ``train-ai=n``.
        document: RFC 8785 bytes.
        lossy: Labels of `content_usage` that do not say exactly what the clauses do (DESIGN D13).
    """

    sha256: str
    clauses: tuple[str, ...]
    content_usage: str
    document: bytes
    lossy: tuple[str, ...] = ()


def usage_policy(terms: TermsVersion | TermsStack, grants: Collection[str]) -> UsagePolicy:
    """The usage policy of an account with these kinds of grants, under these documents together.

    A clause on later use is in force if it counts with these grants: a prohibition that a grant lifts is absent, a permission that a
    grant gives is there.
    """
    return _usage_policy(terms, frozenset(grants))


@lru_cache(maxsize=256)
def _usage_policy(terms: TermsVersion | TermsStack, grants: frozenset[str]) -> UsagePolicy:
    facts = {"grant": grants}
    in_force = [c for c in terms.clauses if c.scope is Scope.OUTPUT and not c.shadow and c.counts(facts)]
    content_usage, lossy = _content_usage(in_force)
    also = [{"series": document.series, **_named(document)} for document in terms.documents[1:]]
    document = encode_claims(
        {
            "clauses": [{"actions": list(c.actions), "effect": c.effect.value, "id": c.id, "text": c.text} for c in in_force],
            "content_usage": content_usage,
            "terms": _named(terms.general) | ({"also": also} if also else {}),
            "ver": 1,
        }
    )
    return UsagePolicy(b64url_encode(hashlib.sha256(document).digest()), _first_ids(in_force), content_usage, document, lossy)


def _named(document: TermsVersion) -> dict[str, Any]:
    return {"sha256": document.sha256, "version": document.version}


def _first_ids(clauses: Collection[Clause]) -> tuple[str, ...]:
    ids: list[str] = []
    room = MAX_CLAUSE_CHARS_IN_TOKEN
    for clause in clauses:
        room -= len(clause.id) + 3
        if room < 0 or len(ids) == MAX_CLAUSES_IN_TOKEN:
            break
        ids.append(clause.id)
    return tuple(ids)


def _content_usage(clauses: Collection[Clause]) -> tuple[str, tuple[str, ...]]:
    """The AIPREF dictionary and its lossy labels.

    ``n`` where anything a label covers is prohibited, ``y`` where all of it is permitted, nothing otherwise: to forbid more than the
    clauses do is the honest side to err on, to permit more is not.
    """
    members: list[str] = []
    lossy: list[str] = []
    for label in dict.fromkeys(label for label, _ in _LABELS.values()):
        for effect, value in ((Effect.PROHIBIT, "n"), (Effect.PERMIT, "y")):
            said = [_LABELS[a] for clause in clauses if clause.effect is effect for a in clause.actions if a in _LABELS]
            exact = [exact for covering, exact in said if covering == label]
            if exact and (effect is Effect.PROHIBIT or any(exact)):
                members.append(f"{label}={value}")
                if not any(exact):
                    lossy.append(label)
                break
    return ", ".join(members), tuple(lossy)
