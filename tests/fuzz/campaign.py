"""The fuzz campaign: mutated valid inputs for every parser of hostile bytes, and what must hold of each (STYLE, "Values and errors").

Each input ends in a value or in our error, within 50 ms, and opens no connection. Beyond that: a token that we did not sign again is
never believed in another form, and a stream that cannot be sealed loses no byte. Runs are seeded, so an input that fails can be made again.
"""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, NoReturn
from unittest import mock

from fuzz import seeds
from fuzz.mutation import mutate_bytes, mutate_events, mutate_json, mutate_json_text, write_json
from tos_guard._canonical import b64url_decode, canonical_json, parse_json
from tos_guard._content_digest import check_content_digest, content_digest
from tos_guard.dialects import (
    ChatDialect,
    ChatFormat,
    InferProjection,
    LinesSealing,
    PlainDialect,
    StreamFormat,
    StreamSealing,
    dialect_named,
    read_infer_tag,
)
from tos_guard.dialects._forms import is_form, parse_form
from tos_guard.errors import TosGuardError
from tos_guard.guard._batch import _read_lines
from tos_guard.keys import KEY_HISTORY_TYP, KeyRecord, open_key_history, parse_key_set
from tos_guard.keys._foreign import parse_foreign_jws, parse_foreign_key_set
from tos_guard.rights import BearerPolicy, check_bearer_type, parse_api_key, read_bearer_claims
from tos_guard.terms import RECEIPT_TYP, terms_from_document
from tos_guard.verify import (
    Expected,
    Trust,
    Verified,
    verify_body,
    verify_lines,
    verify_messages,
    verify_receipt,
    verify_stream,
    verify_text,
    verify_token,
)

__all__ = ["MAX_SECONDS", "Row", "run", "table"]

MAX_SECONDS = 0.05
_SUSPECT_SECONDS = 0.01
"""What takes longer is measured again: the machine does other things too, and the shortest of four is the parser's own."""

_READERS = (
    "tos_guard.keys._jws",
    "tos_guard.keys._set",
    "tos_guard.keys._foreign",
    "tos_guard.dialects._body",
    "tos_guard.dialects._messages",
    "tos_guard.rights._bearer",
    "tos_guard.terms._document",
    "tos_guard.verify._receipt",
)
"""Modules that read JSON; the campaign watches their reader, to know which inputs got past it."""

TRUST = Trust.of(seeds.KEYS)
TOKENS = [seeds.token(None), seeds.token(None, seeds.EC_KEY, nonce="n", aud="a", exp=seeds.IAT + 60), seeds.token(None, grant="research")]
BODIES = [
    *(seeds.sealed_body(messages, key) for messages in seeds.MESSAGES for key in (seeds.KEY, seeds.EC_KEY)),
    seeds.sealed_json({"answer": [1, 2.5, "x"], "deep": {"a": {"b": None}}}),
]
PLAIN = [seeds.bytes_and_token(b"\x89PNG\r\n\x00"), seeds.bytes_and_token(b"no JSON at all")]
STREAMS = [seeds.sealed_stream(messages, key) for messages in seeds.MESSAGES for key in (seeds.KEY, seeds.EC_KEY)]
UNSEALED_STREAMS = [seeds.plain_stream(messages) for messages in seeds.MESSAGES]
DIALECT_BODIES = seeds.dialect_bodies()
DIALECT_STREAMS = [seeds.seal_events(events, stream_format) for stream_format, events in seeds.FORMS]
CALLS = seeds.calls()
LINES, LINES_TOKEN = seeds.sealed_lines()
REQUESTS = [(dialect_named(name, action="generate", model="small-1"), request) for name, request in seeds.REQUESTS]
TEXT = seeds.MESSAGES[0][0]["content"]
TEXT_TOKEN = json.loads(seeds.sealed_body(seeds.MESSAGES[0]))["ai_provenance"]["token"]
KEY_SETS = [seeds.KEYS.to_document(), {"keys": [seeds.KEY.with_times(revoked=seeds.IAT, reason="superseded").to_jwk()]}]
FOREIGN = seeds.foreign()
FOREIGN_KEYS = parse_foreign_key_set(json.dumps(FOREIGN.keys).encode())
BEARER = BearerPolicy(
    issuer=FOREIGN.payload["iss"],
    audiences=frozenset({"api"}),
    organization_claim="org",
    end_user_claim="user",
    scopes=frozenset({"generate"}),
)
SECRETS = {"keys": [{"kty": "oct", "k": "A" * 86, "alg": "HS256", "kid": "s1"}, {"kty": "oct", "k": "A" * 87, "alg": "HS512", "kid": "s2"}]}
HISTORY_HEADER = seeds.header_of(seeds.HISTORY_KEY, KEY_HISTORY_TYP)
HISTORY_PAYLOAD = json.loads(b64url_decode(seeds.history_text().split(".")[1]))
RECEIPT_TRUST = Trust.of(seeds.RECEIPT_KEYS)
RECEIPT_HEADER = seeds.header_of(seeds.RECEIPT_KEY, RECEIPT_TYP)
RECEIPT_PAYLOAD = seeds.RECEIPT_CLAIMS.to_payload()
API_KEY = "tg-" + "a" * 12 + "-" + "A" * 43
CHAT = ChatDialect()
OTHER = PlainDialect(model="small-1")


def _tokens_in(data: bytes) -> set[str]:
    return {part.split(b'"', 1)[0].decode() for part in data.split(b'"token": "')[1:]}


KNOWN_TOKENS = {
    *TOKENS,
    *(token for _, token in PLAIN),
    *(token for _, token, _ in CALLS),
    LINES_TOKEN,
    *_tokens_in(b"".join([*BODIES, *DIALECT_BODIES, *(b"".join(stream) for stream in [*STREAMS, *DIALECT_STREAMS])])),
}


# making inputs


def _inside_token(random: Random, text: str) -> tuple[str, bool]:
    """A token with its header, payload or signature changed. Whether it was signed again."""
    header_part, payload_part, signature = text.split(".")
    try:
        header, payload = b64url_decode(header_part), b64url_decode(payload_part)
        values = json.loads(header), json.loads(payload)
    except (TosGuardError, ValueError, RecursionError):  # changed before
        return mutate_bytes(random, text.encode("utf-8", "surrogatepass")).decode("latin-1"), False
    key = seeds.EC_KEY if b"ES256" in header else seeds.KEY
    kind = random.randrange(20)
    if kind < 3:
        return mutate_bytes(random, text.encode()).decode("latin-1"), False
    if kind < 5:
        payload = mutate_json_text(random, payload)
    elif kind < 6:
        header = mutate_json_text(random, header)
    elif kind < 9:
        header = write_json(random, mutate_json(random, values[0]))
    else:
        payload = write_json(random, mutate_json(random, values[1]))
    if random.random() < 0.15:
        made = seeds.compact(header, payload, key)
        return f"{made.rsplit('.', 1)[0]}.{signature}", False
    return seeds.compact(header, payload, key), True


def _inside_json(random: Random, data: bytes) -> tuple[bytes, bool]:
    """A JSON document changed as bytes, as text, as a value, or in the token that it carries."""
    kind = random.randrange(20)
    if kind < 3:
        return mutate_bytes(random, data), False
    if kind < 5:
        return mutate_json_text(random, data), False
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # changed before
        return mutate_bytes(random, data), False
    tag = value.get("ai_provenance") if isinstance(value, dict) else None
    if kind < 12 or not isinstance(tag, dict) or str(tag.get("token")).count(".") != 2:
        return write_json(random, mutate_json(random, value)), False
    tag["token"], signed = _inside_token(random, tag["token"])
    return write_json(random, value), signed


def _inside_event(random: Random, event: bytes) -> tuple[bytes, bool]:
    name, field, data = event.partition(b"data: {")
    if not field or name[:7] not in (b"", b"event: "):
        return mutate_bytes(random, event), False
    data, signed = _inside_json(random, b"{" + data[:-2])
    # Line ends from an indented form would end the field: one more way to write the same value.
    return name + b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n", signed


def _stream(random: Random, events: list[bytes]) -> tuple[bytes, bool]:
    signed = False

    def inside(event: bytes) -> bytes:
        nonlocal signed
        changed, was_signed = _inside_event(random, event)
        signed = signed or was_signed
        return changed

    if random.random() < 0.1:
        return mutate_bytes(random, b"".join(events)), False
    return mutate_events(random, events, inside), signed


def _document(random: Random, value: Any) -> bytes:
    kind = random.randrange(10)
    if kind == 0:
        return mutate_bytes(random, write_json(random, value))
    if kind == 1:
        return mutate_json_text(random, write_json(random, value))
    return write_json(random, mutate_json(random, value))


def _jws(random: Random, header: dict[str, Any], payload: dict[str, Any], key: KeyRecord) -> str:
    kind = random.randrange(10)
    if kind == 0:
        made = seeds.compact(json.dumps(header).encode(), json.dumps(payload).encode(), key)
        return mutate_bytes(random, made.encode()).decode("latin-1")
    if kind < 4:
        return seeds.compact(_document(random, header), json.dumps(payload).encode(), key)
    return seeds.compact(json.dumps(header).encode(), _document(random, payload), key)


def _cuts(random: Random, data: bytes) -> list[bytes]:
    at = sorted(random.randrange(len(data) + 1) for _ in range(random.choice((0, 1, 3, 20))))
    return [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]


# parsers


@dataclass(frozen=True)
class Parser:
    """A parser under test: how much of the campaign it gets, how its inputs are made, and how one is read."""

    name: str
    share: int
    make: Callable[[Random], tuple[Any, bool]]
    read: Callable[[Any], Any]
    reads_json: bool = True


def _make_token(random: Random) -> tuple[Any, bool]:
    text, signed = _inside_token(random, random.choice(TOKENS))
    expected = random.choice((None, None, Expected(audience="a", nonce="n"), Expected(request=seeds.REQUEST, salt="B" * 43)))
    return (text, expected), signed


def _make_body(random: Random) -> tuple[Any, bool]:
    if random.random() < 0.05:
        body, token = random.choice(PLAIN)
        text, signed = _inside_token(random, token)
        return (body, text, None), signed
    body, signed = _inside_json(random, random.choice(BODIES))
    return (body, None, content_digest(body) if random.random() < 0.1 else None), signed


def _make_stream(random: Random) -> tuple[Any, bool]:
    data, signed = _stream(random, random.choice(STREAMS))
    if random.random() < 0.2:
        pending, signed_too = _inside_token(random, TOKENS[0])
        return (data, pending), signed or signed_too
    return (data, None), signed


def _make_sealing(random: Random) -> tuple[Any, bool]:
    data, _ = _stream(random, random.choice([*UNSEALED_STREAMS, *STREAMS]))
    return _cuts(random, data), True


def _make_dialect_body(random: Random) -> tuple[Any, bool]:
    body, signed = _inside_json(random, random.choice(DIALECT_BODIES))
    return (body, None, None), signed


def _make_dialect_stream(random: Random) -> tuple[Any, bool]:
    data, signed = _stream(random, random.choice(DIALECT_STREAMS))
    return (data, None), signed


def _make_dialect_sealing(random: Random) -> tuple[Any, bool]:
    stream_format, events = random.choice(seeds.FORMS)
    data, _ = _stream(random, events)
    return (_cuts(random, data), stream_format), True


def _make_call(random: Random) -> tuple[Any, bool]:
    """Messages of a call, mostly one, and their token; one in ten as they were."""
    message, token, method = random.choice(CALLS)
    messages = [message if random.random() < 0.1 else mutate_bytes(random, message) for _ in range(random.choice((1, 1, 1, 2)))]
    return (messages, token, random.choice((method, method, CALLS[0][2]))), False


def _make_tensors(random: Random) -> tuple[Any, bool]:
    return (mutate_bytes(random, random.choice((seeds.TENSORS, CALLS[0][0]))), random.random() < 0.2), True


def _read_tensors(made: tuple[bytes, bool]) -> Any:
    message, streamed = made
    projection = InferProjection()
    projection.add_message(message, streamed=streamed)
    projection.note_message(message, streamed=streamed)
    return projection.content(), read_infer_tag(message, streamed=streamed)


def _make_dialect_request(random: Random) -> tuple[Any, bool]:
    dialect, request = random.choice(REQUESTS)
    return (dialect, _document(random, request)), True


def _make_batch(random: Random) -> tuple[Any, bool]:
    line = {"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions", "body": seeds.CHAT_REQUEST}
    return [_document(random, line) for _ in range(random.choice((1, 2, 5)))], True


def _make_form(random: Random) -> tuple[Any, bool]:
    body, content_type = random.choice(seeds.FORMS_SENT)
    changed = random.random()
    body = body if changed < 0.2 else mutate_bytes(random, body)
    return (body, (mutate_bytes(random, content_type) if changed < 0.3 else content_type).decode("latin-1")), True


def _read_form(made: tuple[bytes, str]) -> Any:
    body, content_type = made
    return parse_form(body, content_type) if is_form(content_type.split(";", 1)[0]) else None


def _make_lines(random: Random) -> tuple[Any, bool]:
    lines = [random.choice(seeds.LINES) for _ in range(random.choice((1, 3, 9)))]
    return _cuts(random, mutate_bytes(random, b"".join(lines))), True


def _seal_lines(chunks: list[bytes]) -> Any:
    sealing = LinesSealing()
    out = [sealing.feed(chunk) for chunk in chunks]
    return out, sealing.finish(), sealing.content


def _make_sealed_lines(random: Random) -> tuple[Any, bool]:
    *lines, tag_line = LINES.splitlines(keepends=True)
    line = random.randrange(4)
    if line < 3:
        lines[line] = _document(random, json.loads(lines[line])) + b"\n" * (random.random() < 0.9)
        return (b"".join([*lines, tag_line]), None), False
    tag_line, signed = _inside_json(random, tag_line)
    return (b"".join([*lines, tag_line]), random.choice((None, LINES_TOKEN))), signed


def _make_text(random: Random) -> tuple[Any, bool]:
    text, signed = _inside_token(random, TEXT_TOKEN)
    leaves = random.choice((None, mutate_json(random, [[0, "text", "A" * 43], [1, "text", None]])))
    return (text, leaves), signed


def _make_terms(random: Random) -> tuple[Any, bool]:
    """Published terms, changed; mostly in canonical form, so that more than the form is read."""
    value = mutate_json(random, json.loads(seeds.TERMS.document_bytes))
    if random.random() < 0.2:
        return _document(random, value), True
    try:
        return canonical_json(value), True
    except TosGuardError:  # changed into what has no canonical form
        return write_json(random, value), True


def _make_foreign_keys(random: Random) -> tuple[Any, bool]:
    return _document(random, FOREIGN.keys if random.random() < 0.7 else SECRETS), True


def _make_digest(random: Random) -> tuple[Any, bool]:
    value = f"{content_digest(seeds.REQUEST)}, md5=:AAAA:;q=1, x-new=:{'QUJD' * 20}:".encode()
    return mutate_bytes(random, value).decode("latin-1"), True


def _read_bearer(text: str) -> Any:
    unverified = parse_foreign_jws(text)
    check_bearer_type(unverified.header)
    return read_bearer_claims(FOREIGN_KEYS.verify(unverified), BEARER, seeds.NOW)


def _read_body(made: Any) -> Verified:
    body, token, digest = made
    return verify_body(body, trust=TRUST, now=seeds.NOW, token=token, content_digest=digest)


@dataclass(frozen=True)
class _Sealed:
    """A stream that went through the sealing machine."""

    sealing: StreamSealing
    taken: list[bytes]
    sent: list[bytes]

    def check(self) -> None:
        """Comments overtake a held chunk, so the order may differ; what was not sealed must still be all there."""
        if self.sealing.unsealed is not None and not self.sealing.removed_tags:
            assert sorted(b"".join(self.sent)) == sorted(b"".join(self.taken)), "a stream that was not sealed lost bytes"


def _seal(chunks: list[bytes], stream_format: StreamFormat | None = None) -> _Sealed:
    sealing = StreamSealing(stream_format or ChatFormat())
    out = []
    for chunk in (*chunks, None):
        step = sealing.finish() if chunk is None else sealing.feed(chunk)
        out.append(step.out)
        if step.seal:
            after = sealing.sealed(b'{"token":"a.b.c"}')
            assert not after.seal
            out.append(after.out)
    return _Sealed(sealing, chunks, out)


PARSERS = [
    Parser("token", 45, _make_token, lambda made: verify_token(made[0], trust=TRUST, now=seeds.NOW, expected=made[1])),
    Parser("text and token", 5, _make_text, lambda made: verify_text(TEXT, token=made[0], leaves=made[1], trust=TRUST, now=seeds.NOW)),
    Parser("key set", 25, lambda random: (_document(random, random.choice(KEY_SETS)), True), parse_key_set),
    Parser(
        "key history",
        10,
        lambda random: (_jws(random, HISTORY_HEADER, HISTORY_PAYLOAD, seeds.HISTORY_KEY), True),
        lambda text: open_key_history(text, trusted=seeds.KEYS, expected_issuer=seeds.ISSUER),
    ),
    Parser(
        "receipt",
        15,
        lambda random: (_jws(random, RECEIPT_HEADER, RECEIPT_PAYLOAD, seeds.RECEIPT_KEY), True),
        lambda text: verify_receipt(
            text, trust=RECEIPT_TRUST, now=seeds.NOW, terms_document=seeds.TERMS.document_bytes, terms_text=seeds.TERMS_TEXT
        ),
    ),
    Parser("terms document", 10, _make_terms, lambda data: terms_from_document(data, seeds.TERMS_TEXT)),
    Parser("others' key set", 15, _make_foreign_keys, lambda data: parse_foreign_key_set(data, assumed_algorithm="RS256")),
    Parser(
        "others' token",
        15,
        lambda random: (_jws(random, FOREIGN.header, FOREIGN.payload, seeds.KEY), True),
        lambda text: FOREIGN_KEYS.verify(parse_foreign_jws(text)),
    ),
    Parser("bearer token", 10, lambda random: (_jws(random, FOREIGN.header, FOREIGN.payload, seeds.KEY), True), _read_bearer),
    Parser("chat request", 20, lambda random: (_document(random, seeds.CHAT_REQUEST), True), CHAT.read_request),
    Parser("plain request", 5, lambda random: (_document(random, {"model": "m", "input": [1, "x"]}), True), OTHER.read_request),
    Parser("response body", 20, _make_body, _read_body),
    Parser("response stream", 20, _make_stream, lambda made: verify_stream(made[0], trust=TRUST, now=seeds.NOW, token=made[1])),
    Parser("stream to seal", 15, _make_sealing, _seal),
    Parser("dialect request", 10, _make_dialect_request, lambda made: made[0].read_request(made[1])),
    Parser("batch input", 5, _make_batch, lambda lines: list(_read_lines(lines, "/v1/chat/completions"))),
    Parser("lines", 5, _make_sealed_lines, lambda made: verify_lines(made[0], token=made[1], trust=TRUST, now=seeds.NOW)),
    Parser("form", 5, _make_form, _read_form, reads_json=False),
    Parser("lines to seal", 5, _make_lines, _seal_lines, reads_json=False),
    Parser("dialect body", 15, _make_dialect_body, _read_body),
    Parser("dialect stream", 20, _make_dialect_stream, lambda made: verify_stream(made[0], trust=TRUST, now=seeds.NOW)),
    Parser("dialect to seal", 10, _make_dialect_sealing, lambda made: _seal(*made)),
    Parser(
        "gRPC messages",
        10,
        _make_call,
        lambda made: verify_messages(made[0], token=made[1], method=made[2], trust=TRUST, now=seeds.NOW),
        reads_json=False,
    ),
    Parser("tensors", 10, _make_tensors, _read_tensors, reads_json=False),
    Parser("Content-Digest", 3, _make_digest, lambda value: check_content_digest(value, seeds.REQUEST), reads_json=False),
    Parser("API key", 2, lambda random: (mutate_bytes(random, API_KEY.encode()).decode("latin-1"), True), parse_api_key, reads_json=False),
]


# running


@dataclass
class Row:
    """What became of the inputs of one parser."""

    parser: str
    inputs: int = 0
    past_json: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    slowest_seconds: float = 0.0

    def add(self, other: Row) -> None:
        self.inputs += other.inputs
        self.past_json += other.past_json
        self.accepted += other.accepted
        self.refused.update(other.refused)
        self.slowest_seconds = max(self.slowest_seconds, other.slowest_seconds)


class _Watch:
    """Whether the JSON reader was reached, and let everything pass."""

    def __init__(self) -> None:
        self.calls = 0
        self.failed = False

    def parse_json(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        try:
            return parse_json(*args, **kwargs)
        except TosGuardError:
            self.failed = True
            raise


def _no_socket(*args: object, **kwargs: object) -> NoReturn:
    raise AssertionError("a parser opened a connection")


@contextmanager
def _watched() -> Iterator[_Watch]:
    FOREIGN_KEYS.verify(parse_foreign_jws(FOREIGN.compact(b'{"alg":"EdDSA","kid":"ed"}', b"")))  # imports PyJWT
    watch = _Watch()
    with ExitStack() as patches:
        for module in _READERS:
            patches.enter_context(mock.patch(f"{module}.parse_json", watch.parse_json))
        patches.enter_context(mock.patch.object(socket.socket, "__init__", _no_socket))
        for name in ("create_connection", "getaddrinfo", "socketpair"):
            patches.enter_context(mock.patch.object(socket, name, _no_socket))
        yield watch


def _timed(parser: Parser, made: Any) -> tuple[Any, Exception | None, float]:
    result, failure = None, None
    began = time.thread_time()
    try:
        result = parser.read(made)
    except Exception as error:
        failure = error
    return result, failure, time.thread_time() - began


def run(*, seed: int, inputs: int) -> list[Row]:
    """Try about so many inputs, the same for the same seed.

    Raises:
        AssertionError: An input ended otherwise than it must; the message tells which.
    """
    whole = sum(parser.share for parser in PARSERS)
    rows = []
    with _watched() as watch:
        for parser in PARSERS:
            random = Random(f"{seed} {parser.name}")
            row = Row(parser.name, inputs=round(inputs * parser.share / whole))
            for number in range(row.inputs):
                made, signed = parser.make(random)
                watch.calls, watch.failed = 0, False
                result, failure, seconds = _timed(parser, made)
                row.past_json += watch.calls > 0 and not watch.failed
                if seconds > _SUSPECT_SECONDS:
                    seconds = min(seconds, *(_timed(parser, made)[2] for _ in range(3)))
                row.slowest_seconds = max(row.slowest_seconds, seconds)
                which = f"{parser.name}, input {number} of seed {seed}: {str(made)[:2_000]}"
                if isinstance(failure, TosGuardError):
                    row.refused[failure.code] += 1
                    str(failure).encode("utf-8", "surrogatepass")
                elif failure is not None:
                    raise AssertionError(f"{failure!r} is none of our errors: {which}") from failure
                else:
                    row.accepted += 1
                    if isinstance(result, _Sealed):
                        result.check()
                    if isinstance(result, Verified) and not signed:
                        assert result.token in KNOWN_TOKENS | {TEXT_TOKEN}, f"forged: {which}"
                assert seconds < MAX_SECONDS, f"{seconds * 1_000:.0f} ms: {which}"
            rows.append(row)
    return rows


def table(rows: list[Row]) -> str:
    """The counts, for people."""
    total = Row("all")
    for row in rows:
        total.add(row)
    lines = [f"{'parser':<16} {'inputs':>8} {'past JSON':>16} {'accepted':>9} {'slowest':>9}  refused by code"]
    no_json = {parser.name for parser in PARSERS if not parser.reads_json}
    for row in (*rows, total):
        past = "-" if row.parser in no_json else f"{row.past_json} ({row.past_json / max(1, row.inputs):.0%})"
        refused = (
            ", ".join(f"{code} {count}" for code, count in row.refused.most_common()) if row is not total else sum(row.refused.values())
        )
        lines.append(f"{row.parser:<16} {row.inputs:>8} {past:>16} {row.accepted:>9} {row.slowest_seconds * 1_000:>6.1f} ms  {refused}")
    return "\n".join(lines)
