"""verifying.md runs as it stands there, and names the errors that there are."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import openai
from tritonclient.grpc.service_pb2 import ModelInferResponse

import tos_guard.errors
from loopback_issuer import Keys
from provider_grpc.text_pb2 import Prompt
from provider_grpc.text_pb2_grpc import TextStub
from sealing_rpc import ISSUER, serve_sealing
from tos_guard.dialects import InferProjection, splice_infer_tag
from tos_guard.errors import VerificationError
from tos_guard.verifier import Verifier
from tos_guard.verify import Trust

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "verifying.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


def test_the_client_of_the_guide_is_made() -> None:
    """What it checks is tested in tests/integrations/test_verifier_end_to_end.py."""
    made: dict[str, Any] = {}
    exec(BLOCKS[0].replace("openai.OpenAI(", 'openai.OpenAI(api_key="none", '), made)
    assert list(made["verifier"].issuers) == ["https://api.example.com"]
    made["client"].close()
    made["verifier"].close()


def test_a_request_of_the_guide_has_a_key() -> None:
    """What such a request is answered with is tested in tests/integrations/test_kept_seals_verified.py."""
    seen: list[Any] = []
    transport = httpx2.MockTransport(lambda request: seen.append(request) or httpx2.Response(200, json={"choices": []}))
    with openai.OpenAI(api_key="none", http_client=httpx2.Client(transport=transport)) as client:
        exec(BLOCKS[1], {"client": client, "messages": []})
    assert len(uuid.UUID(seen[0].headers["idempotency-key"]).bytes) == 16


def test_the_channel_of_the_guide_verifies() -> None:
    with serve_sealing() as server:
        made: dict[str, Any] = {}
        pinned = Verifier(pinned=server.keys.key_set())
        block = BLOCKS[2].replace("127.0.0.1:50051", server.target).replace('Verifier(["https://api.example.com"])', "pinned")
        exec(block, made | {"pinned": pinned}, made)
        with made["channel"] as channel, pinned:
            response, call = TextStub(channel).Complete.with_call(Prompt(text="x"))
            assert (response.text, made["verified"](call).claims.iss) == ("Hello!", ISSUER)


def test_what_triton_s_client_hands_out_is_proven() -> None:
    keys = Keys(ISSUER)
    response = ModelInferResponse(model_name="m")
    projection = InferProjection()
    projection.add_message(response.SerializeToString())
    tagged = splice_infer_tag(response.SerializeToString(), keys.token(projection.content()))[0]
    result = SimpleNamespace(get_response=lambda: ModelInferResponse.FromString(tagged))
    names: dict[str, Any] = {"result": result, "trust": Trust.of(keys.key_set())}
    exec(BLOCKS[3], names)
    assert names["verified"].claims.iss == ISSUER


def test_the_table_of_errors_is_that_of_the_library() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", GUIDE[GUIDE.index("## What the errors mean") :], re.MULTILINE)
    named = {error: verdict for verdict, errors in rows for error in re.findall(r"`(\w+Error)`", errors)}
    assert {verdict for verdict, _ in rows} == {"invalid", "incomplete", "undecidable", "unacceptable", "absent"}
    for name, verdict in named.items():
        error = getattr(tos_guard.errors, name)
        assert issubclass(error, VerificationError)
        assert error.verdict == verdict
