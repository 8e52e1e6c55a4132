"""What an account may do: accounts, grants, API keys, and plans that decide (DESIGN D2, D3)."""

from tos_guard.rights._account import Account, AuthorizedPerson, Grant, Holder, Organization
from tos_guard.rights._key import API_KEY_PREFIX, ApiKey, hash_secret, new_api_key, parse_api_key
from tos_guard.rights._plan import Plan, PlanCache, compile_plan

__all__ = [
    "API_KEY_PREFIX",
    "Account",
    "ApiKey",
    "AuthorizedPerson",
    "Grant",
    "Holder",
    "Organization",
    "Plan",
    "PlanCache",
    "compile_plan",
    "hash_secret",
    "new_api_key",
    "parse_api_key",
]
