"""Valid inputs of every parser, made by the library itself with fixed keys and times."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, derive_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from tos_guard._canonical import b64url_encode
from tos_guard.dialects import (
    BytesProjection,
    ChatFormat,
    ChatProjection,
    CompletionsFormat,
    GrpcProjection,
    InferProjection,
    JSONProjection,
    LinesProjection,
    MessagesFormat,
    MessagesProjection,
    Projection,
    ResponsesFormat,
    ResponsesProjection,
    StreamFormat,
    StreamSealing,
    splice_infer_tag,
    splice_tag,
)
from tos_guard.keys import KEY_HISTORY_TYP, KeyHistory, KeyRecord, KeySet, join_jws, key_history_payload, record_of
from tos_guard.provenance import TOKEN_TYP, Claims, Content, Terms, Usage, request_mac
from tos_guard.terms import ReceiptClaims, ReceiptEvent, ReceiptTerms, parse_terms
from tos_guard.types import Completion, KeyPurpose, Stage, SubjectKind

ISSUER = "https://api.example.com"
IAT = 1_795_000_000
NOW = datetime.fromtimestamp(IAT + 10, UTC)
SALT = b"\x07" * 32
REQUEST = b'{"model":"small-1","messages":[{"role":"user","content":"Hello"}]}'

ED25519 = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
HISTORY = Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)
RECEIPT = Ed25519PrivateKey.from_private_bytes(b"\x03" * 32)
P256 = derive_private_key(0xC0FFEE, SECP256R1())
KEY = record_of(ED25519.public_key(), KeyPurpose.PROVENANCE, not_before=IAT - 1_000)
EC_KEY = record_of(P256.public_key(), KeyPurpose.PROVENANCE, not_before=IAT - 1_000)
HISTORY_KEY = record_of(HISTORY.public_key(), KeyPurpose.KEY_HISTORY, not_before=IAT - 1_000)
KEYS = KeySet(ISSUER, (KEY, EC_KEY, HISTORY_KEY))
RECEIPT_KEY = record_of(RECEIPT.public_key(), KeyPurpose.RECEIPT, not_before=IAT - 1_000)
RECEIPT_KEYS = KeySet(ISSUER, (RECEIPT_KEY,))


def sign(key: KeyRecord, message: bytes) -> bytes:
    """The raw signature of a JWS."""
    if key == KEY:
        return ED25519.sign(message)
    if key == HISTORY_KEY:
        return HISTORY.sign(message)
    if key == RECEIPT_KEY:
        return RECEIPT.sign(message)
    r, s = decode_dss_signature(P256.sign(message, ECDSA(SHA256(), deterministic_signing=True)))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def header_of(key: KeyRecord, typ: str = TOKEN_TYP) -> dict[str, Any]:
    return {"alg": key.algorithm, "kid": key.kid, "typ": typ}


def compact(header: bytes, payload: bytes, key: KeyRecord) -> str:
    """A JWS over any bytes."""
    signing_input = f"{b64url_encode(header)}.{b64url_encode(payload)}".encode()
    return join_jws(signing_input, sign(key, signing_input))


def claims(content: Content | None, **members: Any) -> Claims:
    """Claims of a final token over *content*, or of a pending one."""
    final = content is not None
    defaults: dict[str, Any] = {
        "iss": ISSUER,
        "iat": IAT,
        "jti": "j-1",
        "rid": "r-1",
        "sub": "s-1",
        "stage": Stage.FINAL if final else Stage.PENDING,
        "model": "small-1",
        "terms": Terms(f"{ISSUER}/terms/2026-11-01", "2026-11-01", "A" * 43),
        "usage": Usage("A" * 43, ("no-training",), "train-ai=n"),
        "req": request_mac(SALT, REQUEST),
        "content": content,
        "completion": Completion.COMPLETE if final else None,
    }
    return Claims(**(defaults | members))


def token(content: Content | None, key: KeyRecord = KEY, **members: Any) -> str:
    payload = json.dumps(claims(content, **members).to_payload(), sort_keys=True).encode()
    return compact(json.dumps(header_of(key)).encode(), payload, key)


def tag_of(content: Content, key: KeyRecord = KEY, **members: Any) -> bytes:
    tag: dict[str, Any] = {"token": token(content, key, **members)}
    if not content.is_inline:
        tag["leaves"] = [list(leaf) for leaf in content.leaves or ()]
    return json.dumps(tag).encode()


TOOL_CALLS = [{"id": "t", "index": 0, "type": "function", "function": {"name": "find", "arguments": '{"q":1}'}}]
MESSAGES: list[list[dict[str, Any]]] = [
    [{"role": "assistant", "content": "Hello,\r\nworld. \U0001f600"}],
    [{"content": "one"}, {"content": "two", "refusal": "no"}, {"content": "three", "reasoning": "because"}],
    [{"content": None, "tool_calls": TOOL_CALLS, "function_call": {"name": "f", "arguments": {"a": [1, 2.5]}}}],
]


def body_of(messages: list[dict[str, Any]]) -> dict[str, Any]:
    choices = [{"index": i, "message": message, "finish_reason": "stop", "logprobs": None} for i, message in enumerate(messages)]
    return {"id": "chatcmpl-1", "object": "chat.completion", "model": "small-1", "choices": choices, "usage": {"total_tokens": 3}}


def sealed_body(messages: list[dict[str, Any]], key: KeyRecord = KEY, **members: Any) -> bytes:
    projection = ChatProjection()
    projection.add_body(body_of(messages))
    return splice_tag(json.dumps(body_of(messages)).encode(), tag_of(projection.content(), key, **members))


def sealed_json(document: dict[str, Any]) -> bytes:
    projection = JSONProjection()
    projection.add_body(document)
    return splice_tag(json.dumps(document).encode(), tag_of(projection.content()))


def bytes_and_token(body: bytes) -> tuple[bytes, str]:
    projection = BytesProjection()
    projection.add_body(body)
    return body, token(projection.content())


def _event(value: Any, name: str | None = None) -> bytes:
    return (f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(value).encode() + b"\n\n"


def plain_stream(messages: list[dict[str, Any]]) -> list[bytes]:
    """The events of a stream as a handler sends it, text in two pieces."""
    events = [b": hello\n\n"]
    for index, message in enumerate(messages):
        text = message.get("content") or ""
        deltas: tuple[dict[str, Any], ...] = ({**message, "content": text[:3]}, {"content": text[3:]}, {})
        reasons = (None, None, "stop")
        for delta, reason in zip(deltas, reasons, strict=True):
            choice = {"index": index, "delta": delta, "finish_reason": reason}
            events += [_event({"id": "c", "model": "small-1", "choices": [choice]})]
    return [*events, _event({"id": "c", "choices": [], "usage": {"total_tokens": 3}}), b"data: [DONE]\n\n"]


def sealed_stream(messages: list[dict[str, Any]], key: KeyRecord = KEY, **members: Any) -> list[bytes]:
    """The same events with the tag in the one that carries it."""
    return seal_events(plain_stream(messages), ChatFormat(), key, **members)


def seal_events(events: list[bytes], stream_format: StreamFormat, key: KeyRecord = KEY, **members: Any) -> list[bytes]:
    """Events as they leave, with the tag in the one that carries it."""
    sealing = StreamSealing(stream_format)
    out = b""
    for event in events:
        step = sealing.feed(event)
        out += step.out
        if step.seal:
            out += sealing.sealed(tag_of(sealing.content, key, **members)).out
    out += sealing.finish().out
    return [event + b"\n\n" for event in out.split(b"\n\n") if event]


# other dialects

RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "output": [
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}], "encrypted_content": "gAAA"},
        {"type": "message", "id": "m_1", "content": [{"type": "output_text", "text": "Hello."}, {"type": "refusal", "refusal": "No."}]},
        {"type": "function_call", "id": "fc_1", "name": "find", "arguments": '{"q":1}'},
        {"type": "web_search_call", "id": "ws_1", "action": {"type": "search", "query": "x"}},
    ],
}
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "content": [
        {"type": "thinking", "thinking": "Hm.", "signature": "EqQB"},
        {"type": "text", "text": "Hello."},
        {"type": "tool_use", "id": "t", "name": "find", "input": {"q": [1, 2.5]}},
    ],
}
INFERENCE: dict[str, Any] = {
    "model_name": "m",
    "outputs": [
        {"name": "T", "datatype": "BYTES", "shape": [2], "data": ["Hello", "\u20ac"]},
        {"name": "N", "datatype": "FP32", "shape": [1, 2], "data": [[0.5, 2]]},
    ],
}


def _said(kind: str, **members: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "output_index": 1, "content_index": 0, **members}


RESPONSE_EVENTS = [
    {"type": "response.created", "response": {**RESPONSE, "status": "in_progress", "output": []}},
    _said("output_item.added", item={"type": "message", "content": []}),
    _said("output_text.delta", delta="Hel"),
    _said("output_text.delta", delta="lo."),
    _said("output_text.done", text="Hello."),
    _said("function_call_arguments.delta", output_index=2, delta='{"q":1}'),
    {"type": "response.completed", "response": RESPONSE},
]
MESSAGE_EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": {**MESSAGE, "content": []}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello."}},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "name": "find", "input": {}}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"q":'}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "[1]}"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
    {"type": "message_stop"},
]
LEGACY_EVENTS: list[dict[str, Any]] = [
    {"object": "text_completion", "choices": [{"index": 0, "text": text, "finish_reason": reason}]}
    for text, reason in (("Hel", None), ("lo.", None), ("", "stop"))
]
FORMS: list[tuple[StreamFormat, list[bytes]]] = [
    (ResponsesFormat(), [_event(event) for event in RESPONSE_EVENTS]),
    (MessagesFormat(), [_event(event, event["type"]) for event in MESSAGE_EVENTS]),
    (CompletionsFormat(), [*(_event(event) for event in LEGACY_EVENTS), b"data: [DONE]\n\n"]),
]


def sealed_document(projection: Projection, document: dict[str, Any]) -> bytes:
    projection.add_body(document)
    return splice_tag(json.dumps(document).encode(), tag_of(projection.content()))


def dialect_bodies() -> list[bytes]:
    projections: list[tuple[Projection, dict[str, Any]]] = [
        (ResponsesProjection(), RESPONSE),
        (MessagesProjection(), MESSAGE),
        (InferProjection(), INFERENCE),
    ]
    return [sealed_document(*each) for each in projections]


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2, len(data)]) + data


TENSORS = b"".join(
    (
        _field(1, b"m"),
        _field(5, _field(1, b"T") + _field(2, b"BYTES") + _field(3, b"\x01") + _field(5, _field(8, b"Hello"))),
        _field(5, _field(1, b"N") + _field(2, b"INT64") + _field(3, b"\x01\x02") + _field(5, _field(3, b"\x07\xff\x01"))),
    )
)
"""A ``ModelInferResponse``."""


def calls() -> list[tuple[bytes, str, str | None]]:
    """A message, the token of its call, and the method, where its messages are read."""
    tensors, streamed, plain = InferProjection(), InferProjection(), GrpcProjection()
    tensors.add_message(TENSORS)
    streamed.add_message(_field(2, TENSORS), streamed=True)
    plain.add_message(TENSORS)
    service = "/inference.GRPCInferenceService"
    unary = token(tensors.content())
    return [
        (splice_infer_tag(TENSORS, unary)[0], unary, f"{service}/ModelInfer"),
        (_field(2, TENSORS), token(streamed.content()), f"{service}/ModelStreamInfer"),
        (TENSORS, token(plain.content()), None),
    ]


FORMS_SENT: list[tuple[bytes, bytes]] = [
    (b"model=small-1&prompt=a%20b+c&n=1", b"application/x-www-form-urlencoded; charset=utf-8"),
    (
        (
            b'--b1\r\nContent-Disposition: form-data; name="model"\r\n\r\nsmall-1\r\n--b1\r\n'
            b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\nRIFF\x00\xff\r\n--b1--\r\n'
        ),
        b"multipart/form-data; boundary=b1",
    ),
]


def sealed_lines() -> tuple[bytes, str]:
    """Lines whose last is the tag's, and their token."""
    projection = LinesProjection()
    for value in ({"a": 1, "b": [2.5, None]}, "x", [1, 2]):
        projection.add_line(value)
    made = tag_of(projection.content())
    return b'{"a": 1, "b": [2.5, null]}\n"x"\n[1, 2]\n{"ai_provenance": ' + made + b"}\n", json.loads(made)["token"]


LINES = [b'{"a": 1, "b": [2.5, null]}\n', b'"x"\n', b"\n", b"[1, 2]\r\n"]
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    (
        "openai-responses",
        {
            "model": "small-1",
            "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}],
            "instructions": "Be kind.",
            "stream": True,
            "max_output_tokens": 100,
            "background": False,
            "store": True,
            "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
        },
    ),
    (
        "anthropic-messages",
        {
            "model": "small-1",
            "max_tokens": 100,
            "system": [{"type": "text", "text": "Be kind."}],
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
            "tools": [{"name": "f", "input_schema": {"type": "object"}}],
            "metadata": {"user_id": "u"},
            "stream": True,
        },
    ),
    ("openai-completions", {"model": "small-1", "prompt": ["Hello", "Hi"], "n": 2, "max_tokens": 5, "best_of": 2, "echo": True}),
    ("ndjson", {"model": "small-1", "stream": True}),
    ("openai-embeddings", {"model": "small-1", "input": ["Hello", "Hi"], "dimensions": 8, "encoding_format": "base64"}),
]


def history_text() -> str:
    payload = key_history_payload(KeyHistory(ISSUER, 3, IAT, (KEY, EC_KEY, HISTORY_KEY)))
    return compact(json.dumps(header_of(HISTORY_KEY, KEY_HISTORY_TYP)).encode(), json.dumps(payload).encode(), HISTORY_KEY)


TERMS_TEXT = b"# Terms\n"
TERMS = parse_terms(
    b"""[terms]
version = "1"
title = "Terms"
uri = "https://api.example.com/terms/1"
text = "terms.md"
effective = 2026-11-01
series = "contract-7"
organization = "acme"
models = ["small"]
acceptance = "required"
replaces = ["regions"]
[[grant]]
id = "research"
[[action]]
id = "translate"
scope = "output"
[[clause]]
id = "use"
effect = "permit"
action = "generate"
when = { region = ["US"], grant = "research" }
[[clause]]
id = "seal"
effect = "oblige"
action = ["generate", "embed"]
duties = ["seal"]
""",
    TERMS_TEXT,
)
RECEIPT_CLAIMS = ReceiptClaims(
    iss=ISSUER,
    iat=IAT,
    jti="acc_" + "A" * 22,
    event=ReceiptEvent.ACCEPTANCE,
    at=IAT - 5,
    terms=ReceiptTerms(series=TERMS.series, version="1", uri=TERMS.uri, locale="en", sha256=TERMS.sha256, text_sha256=TERMS.text_sha256),
    subject_kind=SubjectKind.ORGANIZATION,
    subject_id="acme",
    person="jane",
    authority="counsel",
    method="cli",
    identified_by="host",
    exp=IAT + 60,
)


@dataclass(frozen=True)
class Foreign:
    """A key set of an identity provider, and the bearer token it signed."""

    keys: dict[str, Any]
    header: dict[str, Any]
    payload: dict[str, Any]

    def compact(self, header: bytes, payload: bytes) -> str:
        return compact(header, payload, KEY)


def foreign() -> Foreign:
    ec = {**EC_KEY.to_jwk(), "kid": "ec", "alg": "ES256", "x5t": "AAAA"}
    okp = {**KEY.to_jwk(), "kid": "ed", "alg": "EdDSA", "key_ops": ["verify"]}
    n = b64url_encode(((1 << 2047) + (1 << 1000) + 12_345_677).to_bytes(256, "big"))
    rsa = {"kty": "RSA", "n": n, "e": "AQAB", "kid": "rsa", "alg": "RS256", "use": "sig"}
    encryption = {"kty": "RSA", "n": n, "e": "AQAB", "kid": "enc", "alg": "RSA-OAEP", "use": "enc"}
    payload = {"iss": "https://idp.example.com", "sub": "u-1", "aud": ["api"], "exp": IAT + 60, "iat": IAT, "scope": "generate"}
    payload |= {"client_id": "c-1", "jti": "t-1", "nbf": IAT, "org": "acme", "user": "e-1"}
    return Foreign({"keys": [okp, ec, rsa, encryption]}, {"alg": "EdDSA", "kid": "ed", "typ": "at+jwt"}, payload)


CHAT_REQUEST: dict[str, Any] = {
    "model": "small-1",
    "messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": [{"type": "text", "text": "x"}]}],
    "n": 3,
    "stream": True,
    "max_tokens": 100,
    "max_completion_tokens": 50,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"enum": [1, 2]}}}}}],
    "stream_options": {"include_usage": True},
}
