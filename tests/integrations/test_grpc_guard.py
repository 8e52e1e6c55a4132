"""The guard at gRPC servers that run their handlers in threads: verdict, token, record, whatever a call does."""

from __future__ import annotations

import pytest

from grpc_kit import KINDS, ask, grpc_kit, serving


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_method_is_sealed_and_recorded(kind: str) -> None:
    """The final token proves the messages, the pending one is of the same exchange, and one record says so."""
    kit = grpc_kit()
    with serving(kit) as address:
        told = ask(address, kind, kit=kit)
    assert told.code.name == "OK", told
    assert told.messages
    told.verify(kit)
    assert told.pending is not None
    (record,) = kit.records()
    assert (record.carrier, record.completion, record.status, record.decision) == ("grpc", "complete", 200, "allow")
