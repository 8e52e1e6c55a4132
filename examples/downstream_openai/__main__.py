"""Ask the provider of `provider_fastapi` through the official client, use only what is proven, and keep the evidence.

python -m downstream_openai http://127.0.0.1:8000/v1 --key tg_... --evidence evidence "Why do leaves turn yellow?"

Exit code: 0 when every answer was proven, else the one of the verdict (1 altered or cut, 3 undecidable, 4 unacceptable, 5 no tag); 6 when
the provider refused or failed. ``--through-gateway`` asks through a gateway that strips what it does not know: that ends with 5.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import openai

from tos_guard.errors import EXIT_CODES, VerificationError
from tos_guard.remote import ResponseChecks
from tos_guard.remote.httpx2 import VerifyingTransport
from tos_guard.verifier import Verifier
from tos_guard.verify import Verified

from .wire import Keeping, Stripping

REFUSED = 6


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="downstream_openai", description="Ask a provider and verify its answers.")
    parser.add_argument("base_url")
    parser.add_argument("question")
    parser.add_argument("--key", required=True, help="API key")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--issuer", help="who must have sealed the answers, where it is not the origin of the base URL")
    parser.add_argument("--evidence", type=Path, default=Path("evidence"), help="folder for what was received")
    parser.add_argument("--through-gateway", action="store_true", help="strip tags on the way, to see what happens")
    options = parser.parse_args(arguments)
    options.evidence.mkdir(parents=True, exist_ok=True)

    origin = str(httpx2.URL(options.base_url).copy_with(path="", query=None, fragment=None)).rstrip("/")
    issuer = options.issuer or origin
    network: httpx2.BaseTransport = httpx2.HTTPTransport()
    keeping = Keeping(options.evidence, Stripping(network) if options.through_gateway else network)
    checks = ResponseChecks(origins={origin: issuer}, on_verified=report)
    with Verifier([issuer]) as verifier:  # it fetches the issuer's keys, and no other's
        http = httpx2.Client(transport=VerifyingTransport(verifier, checks, transport=keeping))
        with openai.OpenAI(base_url=options.base_url, api_key=options.key, http_client=http, max_retries=0) as client:
            try:
                ask(client, options.model, options.question)
            except VerificationError as error:
                print(f"not used: {error}", file=sys.stderr)
                return EXIT_CODES[error.verdict]
            except openai.APIError as error:
                print(f"refused: {error}", file=sys.stderr)
                return REFUSED
    print("kept: " + ", ".join(str(file) for file in keeping.kept))
    return 0


def ask(client: openai.OpenAI, model: str, question: str) -> None:
    """Once whole and once streamed. This is code as it was before anyone thought of verifying."""
    messages: Any = [{"role": "user", "content": question}]
    answer = client.chat.completions.create(model=model, messages=messages)
    print(answer.choices[0].message.content)
    parts = []
    for chunk in client.chat.completions.create(model=model, messages=messages, stream=True):
        parts += [choice.delta.content or "" for choice in chunk.choices]
    print("".join(parts))


def report(proven: Verified, _: Any) -> None:
    claims = proven.claims
    print(f"  sealed by {claims.iss} under terms {claims.terms.version}: {claims.usage.content_usage}")


if __name__ == "__main__":
    sys.exit(main())
