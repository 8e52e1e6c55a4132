"""Terms of service that a program can read: documents, clauses, conditions, acceptance (DESIGN §3, D2).

A terms version is a TOML document beside its Markdown text. It never changes, and one digest covers both
(docs/spec/discovery.md). What a document may say is told in docs/guides/terms.md.

Names are fetched when they are first used (PEP 562): receipts are verified without pydantic, which documents need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tos_guard.terms._acceptance import Acceptance as Acceptance
    from tos_guard.terms._acceptance import Bound as Bound
    from tos_guard.terms._acceptance import Withdrawal as Withdrawal
    from tos_guard.terms._acceptance import new_acceptance as new_acceptance
    from tos_guard.terms._acceptance import new_withdrawal as new_withdrawal
    from tos_guard.terms._acceptance import standing_of as standing_of
    from tos_guard.terms._actions import ACTIONS as ACTIONS
    from tos_guard.terms._actions import Action as Action
    from tos_guard.terms._actions import Scope as Scope
    from tos_guard.terms._check import BareRequest as BareRequest
    from tos_guard.terms._check import Finding as Finding
    from tos_guard.terms._check import bare_requests as bare_requests
    from tos_guard.terms._check import check_terms as check_terms
    from tos_guard.terms._clause import ASSERTED_FACTS as ASSERTED_FACTS
    from tos_guard.terms._clause import CLAUSE_FACTS as CLAUSE_FACTS
    from tos_guard.terms._clause import Clause as Clause
    from tos_guard.terms._clause import Condition as Condition
    from tos_guard.terms._clause import Effect as Effect
    from tos_guard.terms._document import GENERAL as GENERAL
    from tos_guard.terms._document import AcceptanceRule as AcceptanceRule
    from tos_guard.terms._document import GrantType as GrantType
    from tos_guard.terms._document import TermsVersion as TermsVersion
    from tos_guard.terms._document import parse_terms as parse_terms
    from tos_guard.terms._document import terms_from_document as terms_from_document
    from tos_guard.terms._receipt import RECEIPT_TYP as RECEIPT_TYP
    from tos_guard.terms._receipt import ReceiptClaims as ReceiptClaims
    from tos_guard.terms._receipt import ReceiptEvent as ReceiptEvent
    from tos_guard.terms._receipt import ReceiptTerms as ReceiptTerms
    from tos_guard.terms._receipt import UnverifiedReceipt as UnverifiedReceipt
    from tos_guard.terms._receipt import parse_receipt as parse_receipt
    from tos_guard.terms._receipt import receipt_signing_input as receipt_signing_input
    from tos_guard.terms._shelf import TermsBinding as TermsBinding
    from tos_guard.terms._shelf import TermsShelf as TermsShelf
    from tos_guard.terms._shelf import TermsStack as TermsStack

_HOME: Final = {
    "ACTIONS": "_actions",
    "ASSERTED_FACTS": "_clause",
    "CLAUSE_FACTS": "_clause",
    "GENERAL": "_document",
    "RECEIPT_TYP": "_receipt",
    "Acceptance": "_acceptance",
    "AcceptanceRule": "_document",
    "Action": "_actions",
    "BareRequest": "_check",
    "Bound": "_acceptance",
    "Clause": "_clause",
    "Condition": "_clause",
    "Effect": "_clause",
    "Finding": "_check",
    "GrantType": "_document",
    "ReceiptClaims": "_receipt",
    "ReceiptEvent": "_receipt",
    "ReceiptTerms": "_receipt",
    "Scope": "_actions",
    "TermsBinding": "_shelf",
    "TermsShelf": "_shelf",
    "TermsStack": "_shelf",
    "TermsVersion": "_document",
    "UnverifiedReceipt": "_receipt",
    "Withdrawal": "_acceptance",
    "bare_requests": "_check",
    "check_terms": "_check",
    "new_acceptance": "_acceptance",
    "new_withdrawal": "_acceptance",
    "parse_receipt": "_receipt",
    "parse_terms": "_document",
    "receipt_signing_input": "_receipt",
    "standing_of": "_acceptance",
    "terms_from_document": "_document",
}
"""Public name → the file that defines it. The imports above tell the same to type checkers; tests/packaging compares the two."""

__all__ = [
    "ACTIONS",
    "ASSERTED_FACTS",
    "CLAUSE_FACTS",
    "GENERAL",
    "RECEIPT_TYP",
    "Acceptance",
    "AcceptanceRule",
    "Action",
    "BareRequest",
    "Bound",
    "Clause",
    "Condition",
    "Effect",
    "Finding",
    "GrantType",
    "ReceiptClaims",
    "ReceiptEvent",
    "ReceiptTerms",
    "Scope",
    "TermsBinding",
    "TermsShelf",
    "TermsStack",
    "TermsVersion",
    "UnverifiedReceipt",
    "Withdrawal",
    "bare_requests",
    "check_terms",
    "new_acceptance",
    "new_withdrawal",
    "parse_receipt",
    "parse_terms",
    "receipt_signing_input",
    "standing_of",
    "terms_from_document",
]

if not TYPE_CHECKING:  # a checker that saw it would accept every name

    def __getattr__(name: str) -> Any:
        """Fetch a public name from its file.

        Raises:
            AttributeError: There is no such name.
        """
        try:
            home = _HOME[name]
        except KeyError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
        value = getattr(import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value
