"""The usage policy of an account's terms and grants (docs/spec/discovery.md, "Usage policy")."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from tos_guard._canonical import b64url_encode, encode_claims
from tos_guard.terms import Clause, Effect, Scope, TermsVersion

__all__ = ["UsagePolicy", "usage_policy"]

MAX_CLAUSES_IN_TOKEN: Final = 8
MAX_CLAUSE_CHARS_IN_TOKEN: Final = 160  # quotes and commas included: what the 1.8 KB of a token leave for them (docs/adr/0004)

_TRAINING: Final = frozenset({"train-model", "train-competing-model", "distil"})
_INPUT: Final = frozenset({"use-as-input"})


@dataclass(frozen=True, slots=True)
class UsagePolicy:
    """What may be done with the output of one account.

    Attributes:
        sha256: Digest of the document, base64url: the claim ``usage.sha256``.
        clauses: The first clause ids, for the token: at most eight, and as many as its size leaves room for.
        content_usage: The AIPREF projection, a `Content-Usage` field value. Lossy: "competing models" has no word there, so a ban
            on training them reads ``train-ai=n``.
        document: RFC 8785 bytes.
    """

    sha256: str
    clauses: tuple[str, ...]
    content_usage: str
    document: bytes


def usage_policy(terms: TermsVersion, grants: Collection[str]) -> UsagePolicy:
    """The usage policy of an account with these kinds of grants.

    A clause on later use is in force if it counts with these grants: a prohibition that a grant lifts is absent, a permission that a
    grant gives is there.
    """
    return _usage_policy(terms, frozenset(grants))


@lru_cache(maxsize=256)
def _usage_policy(terms: TermsVersion, grants: frozenset[str]) -> UsagePolicy:
    facts = {"grant": grants}
    in_force = [c for c in terms.clauses if c.scope is Scope.OUTPUT and not c.shadow and c.counts(facts)]
    content_usage = _content_usage(in_force)
    document = encode_claims(
        {
            "clauses": [{"actions": list(c.actions), "effect": c.effect.value, "id": c.id, "text": c.text} for c in in_force],
            "content_usage": content_usage,
            "terms": {"sha256": terms.sha256, "version": terms.version},
            "ver": 1,
        }
    )
    return UsagePolicy(b64url_encode(hashlib.sha256(document).digest()), _first_ids(in_force), content_usage, document)


def _first_ids(clauses: Collection[Clause]) -> tuple[str, ...]:
    ids: list[str] = []
    room = MAX_CLAUSE_CHARS_IN_TOKEN
    for clause in clauses:
        room -= len(clause.id) + 3
        if room < 0 or len(ids) == MAX_CLAUSES_IN_TOKEN:
            break
        ids.append(clause.id)
    return tuple(ids)


def _content_usage(clauses: Collection[Clause]) -> str:
    """The AIPREF dictionary: ``n`` where anything it names is prohibited, ``y`` where it is permitted, nothing where terms are silent."""
    members = []
    for label, actions in (("train-ai", _TRAINING), ("ai-use", _INPUT)):
        effects = {clause.effect for clause in clauses if actions & set(clause.actions)}
        if Effect.PROHIBIT in effects:
            members.append(f"{label}=n")
        elif Effect.PERMIT in effects:
            members.append(f"{label}=y")
    return ", ".join(members)
