"""Ask the provider of `provider_grpc` and use only what is proven.

python -m downstream_grpc 127.0.0.1:50051 --key tg_... --issuer https://api.example.com --keys keys.json "Once upon a time"

Exit code: 0 when every answer was proven, else the one of the verdict (1 altered or cut, 3 undecidable, 4 unacceptable, 5 no tag); 6 when
the provider refused or failed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc

from provider_grpc.text_pb2 import Prompt
from provider_grpc.text_pb2_grpc import TextStub
from tos_guard.errors import EXIT_CODES, VerificationError
from tos_guard.verifier import Verifier
from tos_guard.verify import Verified, parse_key_set
from tos_guard_grpc import verified, verified_channel

REFUSED = 6


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="downstream_grpc", description="Ask a provider and verify its answers.")
    parser.add_argument("target", help="host:port")
    parser.add_argument("prompt")
    parser.add_argument("--key", required=True, help="API key")
    parser.add_argument("--issuer", required=True, help="who must have sealed the answers")
    parser.add_argument("--keys", type=Path, help="pinned keys; without them they are fetched from the issuer")
    options = parser.parse_args(arguments)
    pinned = None if options.keys is None else parse_key_set(options.keys.read_bytes())
    credential = (("authorization", f"Bearer {options.key}"),)
    with (
        Verifier([] if pinned else [options.issuer], pinned=pinned) as verifier,
        # On loopback; elsewhere a secure channel. The wrapper is all there is to it: stubs stay as protoc made them.
        verified_channel(grpc.insecure_channel(options.target), verifier, issuer=options.issuer) as channel,
    ):
        stub = TextStub(channel)
        try:
            answer, call = stub.Complete.with_call(Prompt(text=options.prompt), metadata=credential, timeout=30)
            print(answer.text)  # it is here only because it is proven
            report("completion", verified(call))

            stream = stub.Stream(Prompt(text=options.prompt), metadata=credential, timeout=30)
            for piece in stream:
                print(piece.text, end="", flush=True)  # show it if you like; act on it when the loop has ended
            print()
            report("stream", verified(stream))
        except VerificationError as error:
            print(f"not used: {error}", file=sys.stderr)
            return EXIT_CODES[error.verdict]
        except grpc.RpcError as error:
            print(f"refused: {error.code().name}: {error.details()}", file=sys.stderr)
            return REFUSED
    return 0


def report(what: str, proven: Verified) -> None:
    claims = proven.claims
    print(f"  {what}: sealed by {claims.iss} under terms {claims.terms.version}, model {claims.model}, {claims.usage.content_usage}")


if __name__ == "__main__":
    sys.exit(main())
