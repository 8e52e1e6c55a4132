"""The library gives every vector its expected verdict, as the independent verifier does."""

from __future__ import annotations

import base64
import importlib.util
import json
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tos_guard.errors import AbsentError, IncompleteError, MalformedError, VerificationError
from tos_guard.keys import KeyHistory, KeySet, open_key_history, parse_key_set
from tos_guard.types import SubjectKind
from tos_guard.verify import (
    Expected,
    ExpectedReceipt,
    Trust,
    Verified,
    VerifiedReceipt,
    verify_body,
    verify_lines,
    verify_messages,
    verify_receipt,
    verify_stream,
    verify_text,
)


def _beside(name: str) -> ModuleType:
    """A module of this folder; the folder is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FOLDER = Path(__file__).parent / "v1"
cuts_of = _beside("mutants").cuts_of
METHODS = {
    "infer": "/inference.GRPCInferenceService/ModelInfer",
    "infer-stream": "/inference.GRPCInferenceService/ModelStreamInfer",
}
FILES = sorted([FOLDER / "good.json", *(FOLDER / "bad").glob("*.json")])


def vectors(path: Path) -> list[dict[str, Any]]:
    """The vectors of a file."""
    found: list[dict[str, Any]] = json.loads(path.read_bytes())["vectors"]
    return found


def trust_of(document: dict[str, Any]) -> Trust:
    """The trust a vector describes; an issuer whose set or history is refused has no trusted key."""
    issuers = {}
    for issuer, given in document.items():
        try:
            issuers[issuer] = keys_of(issuer, given)
        except (MalformedError, VerificationError):
            continue
    return Trust(issuers)


def keys_of(issuer: str, given: dict[str, Any]) -> KeySet:
    """The key set of one issuer, out of a set or a history."""
    if "keys" in given:
        return parse_key_set(given["keys"].encode("utf-8", "surrogatepass"))
    trusted = parse_key_set(given["history_keys"].encode())
    history = open_history(given["history"], trusted, issuer)
    if "earlier" in given:
        history.check_follows(open_history(given["earlier"], trusted, issuer))
    return history.to_key_set()


def open_history(text: str, trusted: KeySet, issuer: str) -> KeyHistory:
    """A verified history."""
    return open_key_history(text, trusted=trusted, expected_issuer=issuer)


def run_receipt(vector: dict[str, Any]) -> VerifiedReceipt:
    """What the library says of a receipt."""
    expect = dict(vector.get("expect", {}))
    if "subject_kind" in expect:
        expect["subject_kind"] = SubjectKind(expect["subject_kind"])
    return verify_receipt(
        vector["content"],
        trust=trust_of(vector["trust"]),
        now=datetime.fromtimestamp(vector["now"], UTC),
        terms_document=vector["terms_document"].encode() if "terms_document" in vector else None,
        terms_text=vector.get("terms_text"),
        expected=ExpectedReceipt(**expect),
    )


def run(vector: dict[str, Any]) -> Verified | VerifiedReceipt:
    """What the library says of a vector."""
    if vector["kind"] == "receipt":
        return run_receipt(vector)
    request = vector.get("request")
    expected = Expected(
        audience=vector.get("audience"),
        nonce=vector.get("nonce"),
        request=None if request is None else request.encode(),
        salt=vector.get("salt"),
    )
    given = {"trust": trust_of(vector["trust"]), "now": datetime.fromtimestamp(vector["now"], UTC), "expected": expected}
    token = vector.get("token")
    if "messages_b64" in vector:
        messages = [base64.b64decode(message) for message in vector["messages_b64"]] * vector.get("times", 1)
        method = METHODS.get(vector["kind"])
        return verify_messages(messages, token=token, pending=vector.get("pending"), method=method, **given)
    content = base64.b64decode(vector["content_b64"]) if "content_b64" in vector else vector["content"].encode("utf-8", "surrogatepass")
    content += b" " * vector.get("pad", 0)
    match vector["kind"]:
        case "body":
            return verify_body(content, token=token, content_digest=vector.get("content_digest"), **given)
        case "stream":
            return verify_stream(content, token=token, **given)
        case "lines":
            return verify_lines(content, token=token, pending=vector.get("pending"), **given)
        case "text":
            if token is None:
                raise AbsentError("no token")
            text = content.decode("utf-8", "surrogatepass")
            return verify_text(text, token=token, leaves=vector.get("leaves"), choice=vector.get("choice"), **given)
    raise AssertionError(vector["kind"])


def proven_by(error: IncompleteError) -> dict[str, str]:
    """How far the newest checkpoint proves what was cut."""
    if error.proven is None:
        return {}
    messages = error.proven.messages
    return {"proven": f"{error.proven.size_bytes} bytes" if messages is None else f"{messages} messages"}


def verdict(vector: dict[str, Any]) -> dict[str, str]:
    """Verdict, terminator, and how far what was cut is proven."""
    try:
        verified = run(vector)
    except IncompleteError as error:
        return {"verdict": error.verdict, **proven_by(error)}
    except VerificationError as error:
        return {"verdict": error.verdict}
    if (
        not isinstance(verified, Verified)
        or vector["kind"] != "stream"
        or verified.claims.content.projection not in {"chat-1", "completions-1"}
    ):
        return {"verdict": "valid"}
    notes = dict(note.split(": ", 1) for note in verified.notes)
    return {"verdict": "valid", "terminator": notes.get("terminator", "present")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_vector_has_its_verdict(path: Path) -> None:
    """Library and independent verifier say the same of every vector, good and bad."""
    found = {vector["id"]: verdict(vector) for vector in vectors(path)}
    expected = {vector["id"]: vector["expected"] for vector in vectors(path)}
    assert {name: value for name, value in found.items() if value != expected[name]} == {}


def test_the_frozen_streams_are_valid_from_the_end_of_the_event_with_their_token_on() -> None:
    """Cut anywhere before, a stream is never valid; cut anywhere after, it is, and the missing terminator is named."""
    document = json.loads((FOLDER / "cut_stream.json").read_bytes())
    trust, now = trust_of(document["trust"]), datetime.fromtimestamp(document["now"], UTC)
    assert document["streams"]
    for stream in document["streams"]:
        content = stream["content"].encode()
        for size in range(len(content) + 1):
            try:
                verify_stream(content[:size], trust=trust, now=now)
                valid = True
            except VerificationError:
                valid = False
            assert valid == (size >= stream["token_event_ends_at"]), f"cut at {size}"


DIALECT_CUTS = json.loads((FOLDER / "cut_dialects.json").read_bytes())


@pytest.mark.parametrize("stream", DIALECT_CUTS["streams"], ids=lambda stream: f"{stream['form']}, {stream['line_ends']}")
def test_a_cut_stream_of_any_form_is_proven_up_to_its_newest_checkpoint(stream: dict[str, Any]) -> None:
    """The library proves as many bytes as the independent verifier, wherever a stream is cut."""
    trust, content = trust_of(DIALECT_CUTS["trust"]), stream["content"].encode()
    for size, wanted, proven in cuts_of(stream):
        try:
            verify_stream(content[:size], trust=trust, now=datetime.fromtimestamp(DIALECT_CUTS["now"], UTC))
            found = {"verdict": "valid"}
        except IncompleteError as error:
            found = {"verdict": error.verdict, **proven_by(error)}
        except VerificationError as error:
            found = {"verdict": error.verdict}
        assert found == {"verdict": wanted, **({"proven": f"{proven} bytes"} if proven and wanted != "valid" else {})}, size
