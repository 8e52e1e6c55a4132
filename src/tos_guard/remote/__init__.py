"""The network: keys of allow-listed issuers, and transports that verify what a client reads.

`KeyDiscovery` and `AsyncKeyDiscovery` find keys; `tos_guard.verifier` uses them. The transports live in `tos_guard.remote.httpx` and
`tos_guard.remote.httpx2`, each imported only by whoever has that client.
"""

from tos_guard.remote._cache import CachePolicy, IssuerStatus
from tos_guard.remote._discovery import AsyncKeyDiscovery, KeyDiscovery, utc_now
from tos_guard.remote._network import DEFAULT_TIMEOUT
from tos_guard.remote._transport import ResponseCheck, ResponseChecks

__all__ = [
    "DEFAULT_TIMEOUT",
    "AsyncKeyDiscovery",
    "CachePolicy",
    "IssuerStatus",
    "KeyDiscovery",
    "ResponseCheck",
    "ResponseChecks",
    "utc_now",
]
