"""The network: keys of allow-listed issuers and authorization servers, and transports that verify what a client reads.

`KeyDiscovery` and `AsyncKeyDiscovery` find keys of provenance tokens; `tos_guard.verifier` uses them. `BearerVerifier` verifies the bearer
tokens that accounts present, `EntitlementClient` asks for entitlements, `WebhookClient` sends messages. The transports live in
`tos_guard.remote.httpx` and `tos_guard.remote.httpx2`, each imported only by whoever has that client.
"""

from tos_guard.remote._attempt import ResponseCheck, ResponseChecks
from tos_guard.remote._bearer import BearerVerifier, bearer_from_settings
from tos_guard.remote._cache import CachePolicy, IssuerStatus
from tos_guard.remote._discovery import AsyncKeyDiscovery, KeyDiscovery, utc_now
from tos_guard.remote._entitlements import EntitlementClient, WebhookClient
from tos_guard.remote._jwks import JWKSource, JWKSourceStatus, JWKSPolicy, KeyEvent
from tos_guard.remote._network import DEFAULT_TIMEOUT

__all__ = [
    "DEFAULT_TIMEOUT",
    "AsyncKeyDiscovery",
    "BearerVerifier",
    "CachePolicy",
    "EntitlementClient",
    "IssuerStatus",
    "JWKSPolicy",
    "JWKSource",
    "JWKSourceStatus",
    "KeyDiscovery",
    "KeyEvent",
    "ResponseCheck",
    "ResponseChecks",
    "WebhookClient",
    "bearer_from_settings",
    "utc_now",
]
