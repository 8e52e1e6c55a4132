"""Responses of Triton and KServe as their own clients hand them out: parsed, and without metadata.

``tritonclient`` shows no trailing metadata and takes no channel, but a response carries its token among its parameters, and a token of
``infer-1`` covers tensors, so that what was parsed can be serialised again and proven.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from tos_guard.errors import IncompleteError
from tos_guard.verify import Expected, MessagesVerifier, Prefix, Trust, Verified, verify_messages

__all__ = ["verify_infer_result", "verify_infer_stream"]

_METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
_STREAM_METHOD: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
_INFER_RESPONSE: Final = b"\x12"  # field 2 of ModelStreamInferResponse, with a length


def verify_infer_result(response: Any, *, trust: Trust, now: datetime, expected: Expected | None = None) -> Verified:
    """Prove a response of ``ModelInfer`` by the token among its parameters.

    Args:
        response: A ``ModelInferResponse``; of ``tritonclient``, what ``result.get_response()`` gives.
        trust: Keys the caller trusts.
        now: The present.
        expected: Further demands. The salt is in metadata, which ``tritonclient`` does not show.

    Raises:
        VerificationError: As `tos_guard.verify.verify_messages`.
    """
    return verify_messages([response.SerializeToString()], trust=trust, now=now, token=None, method=_METHOD, expected=expected)


def verify_infer_stream(responses: Iterable[Any], *, trust: Trust, now: datetime, expected: Expected | None = None) -> Prefix:
    """Prove responses of ``ModelStreamInfer`` by the newest checkpoint among their parameters.

    The final token is in trailing metadata: without it nobody can tell whether more responses were to come.

    Args:
        responses: Each ``ModelInferResponse`` from the first, in order; of ``tritonclient``, what ``result.get_response()`` gives.
        trust: Keys the caller trusts.
        now: The present.
        expected: Further demands.

    Returns:
        How many of the responses are proven, and by what.

    Raises:
        IncompleteError: No response carries a checkpoint.
        VerificationError: As `tos_guard.verify.MessagesVerifier`.
    """
    verifier = MessagesVerifier(trust=trust, now=now, method=_STREAM_METHOD, expected=expected)
    for response in responses:
        verifier.feed(_streamed(response.SerializeToString()))
    proven = verifier.proven()
    if proven is None:
        raise IncompleteError("carries no checkpoint", where="call", cure="Only a stream whose responses carry one can be proven so.")
    return proven


def _streamed(response: bytes) -> bytes:
    """The ``ModelStreamInferResponse`` that holds a response."""
    size, length = len(response), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return _INFER_RESPONSE + bytes((*length, size)) + response
