"""What of a gRPC call's responses a token covers (docs/spec/projection.md grpc-1)."""

from __future__ import annotations

import tracemalloc

import pytest

from tos_guard._canonical import sha256_b64url
from tos_guard.dialects import PROJECTIONS, GrpcProjection, projection_named
from tos_guard.dialects._grpc import MAX_MESSAGE_BYTES
from tos_guard.errors import MalformedError
from tos_guard.provenance import Leaf


def leaves(*messages: bytes) -> tuple[Leaf, ...]:
    projection = GrpcProjection()
    for message in messages:
        assert projection.add_message(message)
    return projection.content().leaves or ()


def test_each_message_follows_its_length_in_four_bytes() -> None:
    assert leaves(b"ab", b"") == ((0, "messages", sha256_b64url(b"\0\0\0\2ab\0\0\0\0")),)


def test_a_verifier_finds_it_by_the_name_in_a_token() -> None:
    assert isinstance(projection_named("grpc-1", PROJECTIONS), GrpcProjection)


def test_without_a_message_there_is_no_part() -> None:
    assert leaves() == ()


@pytest.mark.parametrize("others", [(b"abc",), (b"a", b"bc"), (b"ab", b"c", b""), (b"c", b"ab"), (b"", b"ab", b"c")])
def test_messages_cannot_be_joined_split_moved_or_added(others: tuple[bytes, ...]) -> None:
    assert leaves(*others) != leaves(b"ab", b"c")


def test_the_content_so_far_can_be_asked_for_while_messages_come() -> None:
    projection = GrpcProjection()
    for length in range(1, 4):
        projection.add_message(b"m")
        assert projection.content().leaves == leaves(*[b"m"] * length)


def test_a_copy_goes_on_by_itself() -> None:
    projection = GrpcProjection()
    projection.add_message(b"a")
    copy = projection.copy()
    copy.add_message(b"b")
    assert projection.content().leaves == leaves(b"a")
    assert copy.content().leaves == leaves(b"a", b"b")
    assert (projection.count, copy.count) == (1, 2)


def test_a_long_stream_takes_no_more_memory_than_a_short_one() -> None:
    projection = GrpcProjection()
    message = bytes(10_000)
    tracemalloc.start()
    try:
        for _ in range(1_000):
            projection.add_message(message)
        projection.content()
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_message_whose_length_four_bytes_cannot_say_is_refused() -> None:
    class Endless(bytes):
        def __len__(self) -> int:
            return MAX_MESSAGE_BYTES + 1

    with pytest.raises(MalformedError, match="larger"):
        GrpcProjection().add_message(Endless())


@pytest.mark.parametrize("body", [{}, [], b"", None])
def test_a_body_is_no_message(body: object) -> None:
    with pytest.raises(MalformedError, match="grpc-1"):
        GrpcProjection().add_body(body)
