"""Sealing, verifying and streaming against the raw primitives (DESIGN §9), measured in one run.

    python benchmarks/provenance.py

Prints medians and their ratio; these machines are noisy, so only the ratios mean anything.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from measure import Budget, interleaved, report

from tos_guard.dialects import (
    ChatFormat,
    ChatProjection,
    CompletionsFormat,
    LinesSealing,
    MessagesFormat,
    ResponsesFormat,
    StreamFormat,
    StreamSealing,
)
from tos_guard.keys import KeySet, join_jws, record_of
from tos_guard.provenance import Claims, Terms, Usage, token_signing_input
from tos_guard.types import Completion, KeyPurpose, Stage
from tos_guard.verify import Trust, verify_body, verify_token

ISSUER = "https://api.example.com"
NOW = datetime(2026, 11, 22, tzinfo=UTC)
TEXT = "The quick brown fox jumps over the lazy dog. " * 40


def claims(body: dict[str, object]) -> Claims:
    """The claims of a usual final token."""
    projection = ChatProjection()
    projection.add_body(body)
    return Claims(
        iss=ISSUER,
        iat=int(NOW.timestamp()),
        jti="q" * 22,
        rid="req_" + "r" * 22,
        sub="s" * 22,
        stage=Stage.FINAL,
        model="smollm2-135m",
        terms=Terms(f"{ISSUER}/terms/2026-11", "2026-11", "A" * 43),
        usage=Usage("A" * 43, ("no-competing-model", "no-resale", "keep-provenance"), "train-ai=n, ai-use=y"),
        req="A" * 43,
        content=projection.content(),
        completion=Completion.COMPLETE,
    )


CHUNKS = 500


def event(data: dict[str, object], name: str | None = None) -> bytes:
    """One event as a provider sends it."""
    return (f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(data).encode() + b"\n\n"


def typed(kind: str, **members: object) -> bytes:
    """An event that bears its type."""
    return event({"type": kind, **members}, kind)


def chat_chunk(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    return event({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "smollm2-135m", "choices": [choice]})


def completions_chunk(text: str) -> bytes:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": None}
    return event({"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "smollm2-135m", "choices": [choice]})


def responses_chunk(text: str) -> bytes:
    where = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    return typed("response.output_text.delta", sequence_number=4, **where, delta=text, logprobs=[])


def messages_chunk(text: str) -> bytes:
    return typed("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


def line(text: str) -> bytes:
    return json.dumps({"model": "smollm2-135m", "created_at": "2026-11-22T00:00:00Z", "response": text, "done": False}).encode() + b"\n"


def responses_opening() -> list[bytes]:
    """What an official server sends before the first text of a response."""
    response = {"id": "resp_1", "object": "response", "status": "in_progress", "model": "smollm2-135m", "output": []}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "in_progress", "content": []}
    part = {"type": "output_text", "text": "", "annotations": []}
    return [
        typed("response.created", sequence_number=0, response=response),
        typed("response.in_progress", sequence_number=1, response=response),
        typed("response.output_item.added", sequence_number=2, output_index=0, item=item),
        typed("response.content_part.added", sequence_number=3, item_id="msg_1", output_index=0, content_index=0, part=part),
    ]


def messages_opening() -> list[bytes]:
    """The same of Messages."""
    usage = {"input_tokens": 3, "output_tokens": 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "smollm2-135m", "content": [], "usage": usage}
    return [
        typed("message_start", message=message),
        typed("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    ]


STREAMS: dict[str, tuple[StreamFormat | None, list[bytes], Callable[[str], bytes]]] = {
    "chat": (ChatFormat(), [], chat_chunk),
    "completions": (CompletionsFormat(), [], completions_chunk),
    "responses": (ResponsesFormat(), responses_opening(), responses_chunk),
    "messages": (MessagesFormat(), messages_opening(), messages_chunk),
    "lines": (None, [], line),
}
"""Dialect → its format (none: lines), what opens a stream, and how a piece of text is sent."""


def chunk_costs(name: str) -> list[tuple[str, float, Budget | None]]:
    """What one event costs to parse, and what it costs beside that to go through the machine of its dialect."""
    stream_format, opening, chunk = STREAMS[name]
    events = [*opening, *(chunk(f"word{number} ") for number in range(CHUNKS))]
    payloads = [part[part.index(b"{") :].rstrip() for part in events]

    def parse_only() -> None:
        for payload in payloads:
            json.loads(payload)

    def through_guard() -> None:
        stream = StreamSealing(stream_format) if stream_format is not None else LinesSealing()
        out = [stream.feed(part).out for part in events]
        if out != events:
            raise RuntimeError(f"a stream of {name} did not leave as it came")

    parse, streamed = (seconds / len(events) for seconds in interleaved(parse_only, through_guard, number=4))
    budget = Budget((streamed - parse) * 1e6, 3.0, "µs per chunk")
    return [
        (f"{name}: json.loads of one chunk", parse, None),
        (f"{name}: one chunk through the guard, over that", streamed - parse, budget),
    ]


def main() -> int:
    """Run and print. Returns how many budgets are missed."""
    private = Ed25519PrivateKey.generate()
    public, key = private.public_key(), record_of(private.public_key(), KeyPurpose.PROVENANCE)
    trust = Trust.of(KeySet(ISSUER, (key,)))
    message = {"role": "assistant", "content": TEXT}
    body: dict[str, object] = {"id": "x", "model": "m", "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
    known = claims(body)
    signing_input = token_signing_input(known, key)
    signature = private.sign(signing_input)
    token = join_jws(signing_input, signature)
    tagged = json.dumps({**body, "ai_provenance": {"token": token}}).encode()

    def seal() -> str:
        fresh = token_signing_input(claims(body), key)
        return join_jws(fresh, private.sign(fresh))

    sign_raw, sealing = interleaved(lambda: private.sign(signing_input), seal, number=300)
    verify_raw, verify_one, verify_all = interleaved(
        lambda: public.verify(signature, signing_input),
        lambda: verify_token(token, trust=trust, now=NOW),
        lambda: verify_body(tagged, trust=trust, now=NOW),
        number=200,
    )
    return report(
        "provenance",
        [
            ("one raw Ed25519 signature", sign_raw, None),
            ("seal a response (project, encode, sign)", sealing, Budget(sealing / sign_raw, 1.8, "× raw signature")),
            ("one raw Ed25519 verification", verify_raw, None),
            ("verify a token", verify_one, Budget(verify_one / verify_raw, 1.5, "× raw verification")),
            ("verify a JSON body of 1.8 KB with its token", verify_all, None),
            *(row for name in STREAMS for row in chunk_costs(name)),
        ],
    )


if __name__ == "__main__":
    sys.exit(min(main(), 1))
