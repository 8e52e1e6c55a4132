"""Terms of service that a program can read: documents, clauses, conditions (DESIGN §3, D2).

A terms version is a TOML document beside its Markdown text. It never changes, and one digest covers both
(docs/spec/discovery.md). What a document may say is told in docs/guides/terms.md.
"""

from tos_guard.terms._actions import ACTIONS, Action, Scope
from tos_guard.terms._check import BareRequest, Finding, bare_requests, check_terms
from tos_guard.terms._clause import ASSERTED_FACTS, CLAUSE_FACTS, Clause, Condition, Effect
from tos_guard.terms._document import GrantType, TermsVersion, parse_terms

__all__ = [
    "ACTIONS",
    "ASSERTED_FACTS",
    "CLAUSE_FACTS",
    "Action",
    "BareRequest",
    "Clause",
    "Condition",
    "Effect",
    "Finding",
    "GrantType",
    "Scope",
    "TermsVersion",
    "bare_requests",
    "check_terms",
    "parse_terms",
]
