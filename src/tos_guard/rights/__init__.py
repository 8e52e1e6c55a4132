"""What an account may do: accounts, grants, API keys, bearer tokens, and plans that decide (DESIGN D2, D3)."""

from tos_guard.rights._account import Account, AuthorizedPerson, Grant, Holder, Organization
from tos_guard.rights._bearer import BearerIdentity, BearerPolicy, check_bearer_type, read_bearer_claims, unverified_issuer
from tos_guard.rights._binding import UNBOUND, Binding, certificate_thumbprint
from tos_guard.rights._dpop import DPOP_ALGORITHMS, DPoPNonces, DPoPPolicy, DPoPProof, normal_uri, read_dpop_proof
from tos_guard.rights._end_user import end_user_key, hash_end_user
from tos_guard.rights._entitlements import (
    MAX_ENTITLEMENT_BYTES,
    Entitlement,
    EntitlementDocument,
    Given,
    entitlement_actor,
    entitlement_changes,
    parse_entitlements,
)
from tos_guard.rights._explain import Explanation, explain
from tos_guard.rights._key import (
    ADMIN_KEY_PREFIX,
    API_KEY_PREFIX,
    ApiKey,
    hash_secret,
    new_admin_key,
    new_api_key,
    parse_admin_key,
    parse_api_key,
)
from tos_guard.rights._key_terms import ACCOUNT_ROUTES, UNLIMITED_KEY, KeyedHolder, KeyTerms
from tos_guard.rights._measure import MAX_MEASURE_TEXT, Measure, Requirement, is_worse
from tos_guard.rights._plan import Plan, Rights, compile_plan
from tos_guard.rights._plans import PlanCache, holder_plan
from tos_guard.rights._standing import DEFAULT_LADDER, HeldStanding, Ladder, Rung, held_standing

__all__ = [
    "ACCOUNT_ROUTES",
    "ADMIN_KEY_PREFIX",
    "API_KEY_PREFIX",
    "DEFAULT_LADDER",
    "DPOP_ALGORITHMS",
    "MAX_ENTITLEMENT_BYTES",
    "MAX_MEASURE_TEXT",
    "UNBOUND",
    "UNLIMITED_KEY",
    "Account",
    "ApiKey",
    "AuthorizedPerson",
    "BearerIdentity",
    "BearerPolicy",
    "Binding",
    "DPoPNonces",
    "DPoPPolicy",
    "DPoPProof",
    "Entitlement",
    "EntitlementDocument",
    "Explanation",
    "Given",
    "Grant",
    "HeldStanding",
    "Holder",
    "KeyTerms",
    "KeyedHolder",
    "Ladder",
    "Measure",
    "Organization",
    "Plan",
    "PlanCache",
    "Requirement",
    "Rights",
    "Rung",
    "certificate_thumbprint",
    "check_bearer_type",
    "compile_plan",
    "end_user_key",
    "entitlement_actor",
    "entitlement_changes",
    "explain",
    "hash_end_user",
    "hash_secret",
    "held_standing",
    "holder_plan",
    "is_worse",
    "new_admin_key",
    "new_api_key",
    "normal_uri",
    "parse_admin_key",
    "parse_api_key",
    "parse_entitlements",
    "read_bearer_claims",
    "read_dpop_proof",
    "unverified_issuer",
]
