"""Mutations of valid inputs: of bytes, of the JSON inside, and of the text that JSON is written as.

Most change the parsed value and write it again, so that the parser behind the JSON reader is reached and not only the reader itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

__all__ = ["mutate_bytes", "mutate_events", "mutate_json", "mutate_json_text", "write_json"]

STRINGS = [
    *("", " ", "\x00", "\r\n", "\ud800", "\udc00\ud800", "￿", "\u2028", "é", "A" * 43, "A" * 42 + "B", "a" * 97, "a" * 5_000, "../../x"),
    *("https://api.example.com", "http://169.254.169.254/", "https://evil.example\r\nX: y", "none", "HS256", "EdDSA", "Ed25519", "ES256"),
    *("final", "pending", "complete", "sig", "enc", "verify", "OKP", "EC", "P-256", "chat-1", "json-1", "bytes-1", "sse-9", "1", "true"),
    *("checkpoint", "responses-1", "messages-1", "infer-1", "grpc-1", "ndjson-1", "output_text", "tool_use", "reasoning", "message_start"),
    *("response.output_text.delta", "response.completed", "content_block_delta", "text_delta", "FP32", "INT64", "BYTES", "BOOL"),
]
NUMBERS = [0, 1, -1, 2, 255, 256, 65_535, 65_536, 65_537, 2**31, 2**53 - 1, 2**53, -(2**53), 2**64, 10**400, 0.5, -0.0, 1e308, 1.0]
NAMES = [
    *(
        "alg",
        "kid",
        "typ",
        "crit",
        "b64",
        "jwk",
        "jku",
        "x5u",
        "d",
        "k",
        "kty",
        "crv",
        "x",
        "use",
        "key_ops",
        "purpose",
        "nbf",
        "exp",
        "revoked",
    ),
    *(
        "ver",
        "iss",
        "iat",
        "aud",
        "stage",
        "content",
        "leaves",
        "root",
        "n",
        "proj",
        "completion",
        "ai_provenance",
        "token",
        "keys",
        "issuer",
    ),
    *(
        "choices",
        "index",
        "delta",
        "message",
        "tool_calls",
        "function",
        "custom",
        "function_call",
        "arguments",
        "error",
        "usage",
        "finish_reason",
    ),
    *("model", "stream", "max_tokens", "", "\x00", "__proto__", "é", "￿"),
    *("type", "output", "item", "part", "response", "summary", "text", "output_index", "content_index", "content_block", "partial_json"),
    *("input", "outputs", "shape", "data", "datatype", "parameters", "system", "prompt", "instructions"),
]
TOKENS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b":",
    b".",
    b"=",
    b"\\u0000",
    b"\\ud800",
    b"NaN",
    b"1e400",
    b"-",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\x00",
]
LINES = [
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"data: ",
    b"data:",
    b"event: x",
    b"id: \x00",
    b": ",
    b"retry: 1",
    b"\xef\xbb\xbf",
    b"data: [DONE]\n\n",
]


def _nested(random: Random) -> Any:
    value: Any = random.choice(STRINGS)
    for _ in range(random.choice((1, 3, 9, 17, 65, 70, 500))):
        value = [value] if random.random() < 0.5 else {random.choice(NAMES): value}
    return value


def _strange(random: Random) -> Any:
    kind = random.randrange(12)
    if kind < 4:
        return random.choice(STRINGS)
    if kind < 8:
        return random.choice(NUMBERS)
    if kind < 10:
        return random.choice((None, True, False, [], {}, [None], [[]], [{}], {"": None}))
    if kind == 10:
        return _nested(random)
    return [random.choice(NUMBERS)] * random.choice((2, 65, 300))


def _containers(value: Any) -> list[Any]:
    found: list[Any] = []
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            found.append(item)
            pending.extend(item.values())
        elif isinstance(item, list):
            found.append(item)
            pending.extend(item)
    return [item for item in found if item]


def _change(random: Random, place: Any) -> None:
    """One change in one container."""
    keys = list(place) if isinstance(place, dict) else list(range(len(place)))
    key = random.choice(keys)
    kind = random.randrange(9)
    if kind == 0:
        del place[key]
    elif kind == 1 and isinstance(place, dict):
        place[random.choice(NAMES)] = place.pop(key)
    elif kind == 2 and isinstance(place, dict):
        place[random.choice(NAMES)] = _strange(random)
    elif kind == 2:
        place.insert(random.randrange(len(place) + 1), place[key])
    elif kind == 3:
        other = random.choice(keys)
        place[key], place[other] = place[other], place[key]
    elif kind == 4 and isinstance(place[key], str) and place[key]:
        text, at = place[key], random.randrange(len(place[key]))
        place[key] = text[:at] + random.choice((chr(random.randrange(0x20, 0x250)), "", "\r", "\ud83d", text)) + text[at + 1 :]
    elif kind == 5 and type(place[key]) is int:
        place[key] += random.choice((-1, 1, 2**31, -(2**53)))
    else:
        place[key] = _strange(random)


def mutate_json(random: Random, value: Any) -> Any:
    """A copy with one to three changes."""
    try:
        value = json.loads(json.dumps(value))  # a copy, several times as quick as deepcopy
    except RecursionError:
        return _strange(random)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        places = _containers(value)
        if not places:
            return _strange(random)
        _change(random, random.choice(places))
    return value if random.random() > 0.01 else _strange(random)


def write_json(random: Random, value: Any) -> bytes:
    """The value as JSON in one of the ways writers have."""
    kind = random.randrange(8)
    try:
        if kind == 0:
            text = json.dumps(value, indent=random.choice((0, 1, "\t")))
        elif kind == 1:
            text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        elif kind == 2:
            text = json.dumps(value, separators=(" ,\t", "\n: "))
        else:
            text = json.dumps(value, separators=(",", ":"), sort_keys=kind > 5)
    except RecursionError:  # deeper than the interpreter writes: the text alone does it
        return b'[{"a":' * 5_000
    return text.encode("utf-8", "surrogatepass")


def mutate_json_text(random: Random, data: bytes) -> bytes:
    """Changes that only the text of JSON can have: a name twice, another spelling, something in front or behind."""
    kind = random.randrange(6)
    if kind == 0 and b'":' in data:
        at = data.index(b'"', random.randrange(max(1, data.rindex(b'":') - 40)))
        end = data.find(b",", at)
        return data[:at] + data[at : end + 1] + data[at:] if end > 0 else data
    if kind == 1:
        return data.replace(b"e", b"\\u0065", 1)
    if kind == 2:
        return random.choice((b"\xef\xbb\xbf", b" ", b"\x00", b"[")) + data
    if kind == 3:
        return data + random.choice((b" ", b"\n", b"\x00", b"}", b"{}", b","))
    if kind == 4:
        return data.decode("utf-8", "replace").encode(random.choice(("utf-16", "utf-32", "utf-8-sig")))
    return mutate_bytes(random, data)


def mutate_bytes(random: Random, data: bytes) -> bytes:
    """One to four changes of bytes."""
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(data) + 1)
        to = min(len(data), at + random.choice((1, 1, 2, 8, 64)))
        kind = random.randrange(7)
        if kind == 0:
            data = data[:at] + data[to:]
        elif kind == 1:
            data = data[:at] + bytes(value ^ (1 << random.randrange(8)) for value in data[at:to]) + data[to:]
        elif kind == 2:
            data = data[:at] + random.choice(TOKENS) + data[to:]
        elif kind == 3:
            data = data[:at] + random.choice(TOKENS) * random.choice((1, 2, 70, 3_000)) + data[at:]
        elif kind == 4:
            data = data[:at] + data[at:to] * random.choice((2, 3, 50)) + data[to:]
        elif kind == 5:
            data = data[:at] if random.random() < 0.7 else data[at:]
        else:
            data = data[:at] + random.randbytes(to - at) + data[to:]
    return data


def mutate_events(random: Random, events: list[bytes], inside: Callable[[bytes], bytes]) -> bytes:
    """A stream whose events were changed *inside*, dropped, doubled, swapped, written otherwise, or cut."""
    events = list(events)
    for _ in range(random.choice((1, 1, 2, 3))):
        at = random.randrange(len(events))
        other = random.randrange(len(events))
        kind = random.randrange(12)
        if kind < 5:
            events[at] = inside(events[at])
        elif kind == 5 and len(events) > 1:
            del events[at]
        elif kind == 6:
            events.insert(other, events[at])
        elif kind == 7:
            events[at], events[other] = events[other], events[at]
        elif kind == 8:
            events[at] = events[at].replace(b"\n", random.choice((b"\r", b"\r\n")))
        elif kind == 9:
            events.insert(
                at, random.choice((b": ping\n\n", b"data:\n\n", b"event: x\nid: 1\n\n", b"\n", b"\r\n", b"data: [DONE]\n\n", b"data\n\n"))
            )
        elif kind == 10:
            events[at] = events[at].replace(b",", b",\ndata: ", 1)
        else:
            cut = random.randrange(len(events[at]) + 1)
            events[at] = events[at][:cut] + random.choice(LINES) + events[at][cut:]
    stream = b"".join(events)
    return stream if random.random() > 0.05 else stream[: random.randrange(len(stream) + 1)]
