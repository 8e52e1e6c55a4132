"""Keys as values: what a key is for, when it may sign, and sets and histories of keys (docs/spec/keys.md).

Loading and keeping key files is the work of `tos_guard.stores`; fetching sets that of `tos_guard.remote`. Keys of others' bearer tokens
are read in `tos_guard.keys._foreign`, whose names are not among these: it needs PyJWT, and verification must not.
"""

from tos_guard.keys._history import KEY_HISTORY_TYP, KeyHistory, key_history_payload, open_key_history
from tos_guard.keys._jws import UnverifiedJWS, encode_jws_signing_input, join_jws, parse_jws
from tos_guard.keys._reader import ID, ORIGIN, ClaimReader
from tos_guard.keys._record import ALGORITHM_NAME, KeyRecord, PublicKey, parse_jwk, record_of, thumbprint
from tos_guard.keys._set import KeySet, parse_key_set
from tos_guard.keys._webhook import (
    WEBHOOK_TOLERANCE,
    UnverifiedWebhook,
    parse_webhook_head,
    parse_webhook_secret,
    sign_webhook,
    verify_webhook,
)

__all__ = [
    "ALGORITHM_NAME",
    "ID",
    "KEY_HISTORY_TYP",
    "ORIGIN",
    "WEBHOOK_TOLERANCE",
    "ClaimReader",
    "KeyHistory",
    "KeyRecord",
    "KeySet",
    "PublicKey",
    "UnverifiedJWS",
    "UnverifiedWebhook",
    "encode_jws_signing_input",
    "join_jws",
    "key_history_payload",
    "open_key_history",
    "parse_jwk",
    "parse_jws",
    "parse_key_set",
    "parse_webhook_head",
    "parse_webhook_secret",
    "record_of",
    "sign_webhook",
    "thumbprint",
    "verify_webhook",
]
