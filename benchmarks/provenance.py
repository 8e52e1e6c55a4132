"""Sealing, verifying and streaming against the raw primitives (DESIGN §9), measured in one run.

    python benchmarks/provenance.py

Prints medians and their ratio; these machines are noisy, so only the ratios mean anything.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from measure import Budget, interleaved, report

from tos_guard.dialects import ChatFormat, ChatProjection, StreamSealing
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


def chat_chunk(text: str, finish: str | None = None) -> bytes:
    """One event as a provider sends it."""
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": finish}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "smollm2-135m", "choices": [choice]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


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
    events = [chat_chunk(f"word{n} ") for n in range(500)]
    payloads = [event[6:-2] for event in events]

    def parse_only() -> None:
        for payload in payloads:
            json.loads(payload)

    def through_guard() -> None:
        stream = StreamSealing(ChatFormat())
        for event in events:
            stream.feed(event)

    parse_raw, streamed = interleaved(parse_only, through_guard, number=4)
    per_chunk = (streamed - parse_raw) / len(events)
    return report(
        "provenance",
        [
            ("one raw Ed25519 signature", sign_raw, None),
            ("seal a response (project, encode, sign)", sealing, Budget(sealing / sign_raw, 1.8, "× raw signature")),
            ("one raw Ed25519 verification", verify_raw, None),
            ("verify a token", verify_one, Budget(verify_one / verify_raw, 1.5, "× raw verification")),
            ("verify a JSON body of 1.8 KB with its token", verify_all, None),
            ("json.loads of one chunk", parse_raw / len(events), None),
            ("one chunk through the guard, over that", per_chunk, Budget(per_chunk * 1e6, 3.0, "µs per chunk")),
        ],
    )


if __name__ == "__main__":
    sys.exit(min(main(), 1))
