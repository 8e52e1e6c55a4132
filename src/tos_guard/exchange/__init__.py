"""One request as a machine without I/O: begin → decide → feed → seal (DESIGN §5).

`Exchange` knows what was asked, by whom and under which plan. `respond` looks at the head of the handler's response and gives
the `Response` that fits: a whole body, a chat stream, or bytes that pass untouched. A response takes the handler's bytes and says
what to send and when to seal; its driver (`tos_guard.guard`) makes tokens, writes records and sends. Clock, randomness and keys
come in as arguments.
"""

from tos_guard.exchange._call import CallResponse, Sealable
from tos_guard.exchange._exchange import Exchange, ExchangeIds, Head, Headers, Sealed, TermsInForce
from tos_guard.exchange._kept import SealName, closed, covers, kept_content, kept_facts, opened, original_of
from tos_guard.exchange._limit_fields import limit_fields
from tos_guard.exchange._responses import Response, respond

__all__ = [
    "CallResponse",
    "Exchange",
    "ExchangeIds",
    "Head",
    "Headers",
    "Response",
    "SealName",
    "Sealable",
    "Sealed",
    "TermsInForce",
    "closed",
    "covers",
    "kept_content",
    "kept_facts",
    "limit_fields",
    "opened",
    "original_of",
    "respond",
]
