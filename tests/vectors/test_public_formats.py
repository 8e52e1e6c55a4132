"""Public vectors for JSON, structured fields, Content-Digest, event streams and Merkle trees, from ``../shared/vectors``.

Every row is checked as its file says; where a row allows either answer, it must end in a value or in our own error.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import http_sf
import pytest

from tos_guard._canonical import leaf_hash, merkle_root, parse_json
from tos_guard._content_digest import check_content_digest
from tos_guard.dialects import EventStream, ServerSentEvent
from tos_guard.errors import ContentMismatchError, MalformedError

MAX_SECONDS = 0.1
"""No row may take longer (vectors/README.md)."""


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def quick(work: Callable[[], Any]) -> Any:
    """Do *work*, and hold it to the time a row may take: the best of three, since the machine does other things too."""
    best = MAX_SECONDS
    result: Any = None
    failure: Exception | None = None
    for _ in range(3):
        failure = None
        began = time.thread_time()
        try:
            result = work()
        except Exception as error:
            failure = error
        best = min(best, time.thread_time() - began)
        if best < MAX_SECONDS:
            break
    assert best < MAX_SECONDS
    if failure is not None:
        raise failure
    return result


# JSON

REFUSED_FOR_THEIR_DUPLICATE_NAMES = {"y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json"}
"""RFC 8259 lets a reader choose here, and the suite says accept; our format chooses to refuse (docs/spec/token.md T3, DESIGN D8)."""


def json_input(case: dict[str, Any]) -> bytes:
    if "b64" in case:
        return base64.b64decode(case["b64"])
    generated = {"b'['*100000": b"[" * 100_000, "b'[{\"\":'*50000 + b'\\n'": b'[{"":' * 50_000 + b"\n"}[case["gen"]]
    assert hashlib.sha256(generated).hexdigest() == case["sha256"]
    return generated


def parses(data: bytes) -> bool:
    try:
        quick(lambda: parse_json(data, where="vector", max_depth=512, max_bytes=1_000_000, lone_surrogates=True))
    except MalformedError:
        return False
    return True


def test_json_test_suite(shared: Path) -> None:
    """340 documents: 188 refused with our error, 93 read, 57 either; 2 more are refused because a name occurs twice."""
    cases = load(shared / "vectors" / "json" / "JSONTestSuite.json")
    assert Counter(case["expect"].split()[0] for case in cases) == {"reject": 188, "accept": 95, "either": 57}
    answers = {case["file"]: "accept" if parses(json_input(case)) else "reject" for case in cases}
    wrong = {case["file"] for case in cases if not case["expect"].startswith("either") and answers[case["file"]] != case["expect"]}
    assert wrong == REFUSED_FOR_THEIR_DUPLICATE_NAMES


def test_duplicate_names_are_all_that_is_wrong_with_the_two_refused_documents(shared: Path) -> None:
    for case in load(shared / "vectors" / "json" / "JSONTestSuite.json"):
        if case["file"] in REFUSED_FOR_THEIR_DUPLICATE_NAMES:
            with pytest.raises(MalformedError, match="a name occurs twice"):
                parse_json(json_input(case), where="vector", max_depth=8, max_bytes=1_000)


def test_json_test_suite_as_claims(shared: Path) -> None:
    """Read as strictly as claims are, nothing that must be refused is read either, and the rest ends in a value or our error."""
    read = 0
    for case in load(shared / "vectors" / "json" / "JSONTestSuite.json"):
        data = json_input(case)
        try:
            quick(lambda data=data: parse_json(data, where="vector", max_depth=8, max_bytes=65_536, integers_only=True))  # type: ignore[misc]
        except MalformedError:
            continue
        assert case["expect"] != "reject", case["file"]
        read += 1
    assert read > 60


# structured fields (RFC 9651)


def structured_fields(shared: Path, folder: str) -> Iterator[dict[str, Any]]:
    for path in sorted((shared / "vectors" / "structured-fields" / folder).glob("*.json")):
        for case in json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal):
            yield {**case, "file": path.stem}


def plain(value: Any) -> Any:
    """What the parser returns, in the suite's own JSON form, so that the two compare type by type."""
    match value:
        case dict():
            return [[name, plain(member)] for name, member in value.items()]
        case list():
            return [plain(member) for member in value]
        case tuple((inner, parameters)):
            return [plain(inner), [[name, plain(parameter)] for name, parameter in parameters.items()]]
        case bool() | int():
            return value
        case Decimal():
            return {"decimal": value.normalize()}
        case bytes():
            return {"__type": "binary", "value": base64.b32encode(value).decode("ascii")}
        case http_sf.Token() | http_sf.DisplayString():
            return {"__type": type(value).__name__.lower(), "value": str(value)}
        case datetime():
            return {"__type": "date", "value": (value - EPOCH) // timedelta(seconds=1)}
    return value


def with_decimals(value: Any) -> Any:
    """The suite's JSON form, its fractions made as exact as they are written."""
    if isinstance(value, Decimal):
        return {"decimal": value.normalize()}
    if isinstance(value, list):
        return [with_decimals(member) for member in value]
    return value


def structure(value: Any, kind: str) -> Any:
    """The suite's JSON form as what the serialiser takes."""
    if kind == "dictionary":
        return {name: structure(member, "item") for name, member in value}
    if kind == "list":
        return [structure(member, "item") for member in value]
    inner, parameters = value
    bare = [structure(member, "item") for member in inner] if isinstance(inner, list) else bare_item(inner)
    return bare, {name: bare_item(parameter) for name, parameter in parameters}


def bare_item(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    text = value["value"]
    match value["__type"]:
        case "token":
            return http_sf.Token(text)
        case "displaystring":
            return http_sf.DisplayString(text)
        case "binary":
            return base64.b32decode(text)
    return EPOCH + timedelta(seconds=text)


def written(value: Any) -> str:
    # An empty list or dictionary has no form: the field is left out, which the suite writes as no lines at all.
    return http_sf.ser(value) if value != [] and value != {} else ""


def test_structured_field_parsing(shared: Path) -> None:
    """1,591 fields: every must_fail is refused, every other value is as expected and serialises to its canonical form."""
    wrong, count = [], 0
    for case in structured_fields(shared, "."):
        count += 1
        raw = ", ".join(case["raw"]).encode("utf-8")
        label = f"{case['file']}: {case['name']}"
        try:
            value = quick(lambda raw=raw, case=case: http_sf.parse(raw, tltype=case["header_type"]))  # type: ignore[misc]
        except (http_sf.StructuredFieldError, ValueError) as error:
            if not case.get("must_fail") and not case.get("can_fail"):
                wrong.append(f"{label}: refused: {error}")
            continue
        if case.get("must_fail"):
            wrong.append(f"{label}: read as {value!r}")
        elif plain(value) != with_decimals(case["expected"]):
            wrong.append(f"{label}: read as {plain(value)!r}")
        elif (text := written(value)) != ", ".join(case.get("canonical", case["raw"])):
            wrong.append(f"{label}: written as {text!r}")
    assert wrong == []
    assert count == 1_591


def test_structured_field_serialisation(shared: Path) -> None:
    """544 values: every must_fail is refused, every other has its canonical form."""
    wrong, count = [], 0
    for case in structured_fields(shared, "serialisation-tests"):
        count += 1
        label = f"{case['file']}: {case['name']}"
        try:
            text = http_sf.ser(structure(case["expected"], case["header_type"]))
        except (http_sf.StructuredFieldError, ValueError) as error:
            if not case.get("must_fail"):
                wrong.append(f"{label}: refused: {error}")
            continue
        if case.get("must_fail") or text != ", ".join(case["canonical"]):
            wrong.append(f"{label}: written as {text!r}")
    assert wrong == []
    assert count == 544


# Content-Digest (RFC 9530)


def digest_answer(value: str, body: bytes) -> str:
    try:
        compared = quick(lambda: check_content_digest(value, body))
    except MalformedError:
        return "malformed"
    except ContentMismatchError:
        return "mismatch"
    return "match" if compared else "no-usable-algorithm"


def test_content_digest(shared: Path) -> None:
    """26 fields: match, mismatch, malformed, or no algorithm worth comparing, as each says."""
    cases = load(shared / "vectors" / "http-signatures" / "content-digest.json")["cases"]
    answers = {case["id"]: digest_answer(case["content_digest"], base64.b64decode(case["body_b64"])) for case in cases}
    allowed = {
        "match-or-malformed": {"match", "malformed"},
        "mismatch-or-malformed": {"mismatch", "malformed"},
    }
    wrong = {case["id"]: answers[case["id"]] for case in cases if answers[case["id"]] not in allowed.get(case["expect"], {case["expect"]})}
    assert wrong == {}
    assert len(cases) == 26


# event streams (WHATWG HTML section 9.2)


def chunks_of(case: dict[str, Any]) -> list[bytes]:
    if "chunks_b64" in case:
        return [base64.b64decode(chunk) for chunk in case["chunks_b64"]]
    return [chunk.encode("utf-8") for chunk in case["chunks"]]


def events_of(chunks: list[bytes]) -> tuple[list[ServerSentEvent], bytes]:
    stream = EventStream()
    return [event for chunk in chunks for event in stream.feed(chunk)], stream.tail


def dispatched(events: list[ServerSentEvent]) -> list[dict[str, str]]:
    """What a browser would dispatch: the rest of WHATWG 9.2.6 over our fields, the last event id among them."""
    found = []
    last_id: str | None = None
    for event in events:
        kind = "message"
        for name, value in event.fields:
            if name == "event":
                kind = value or "message"
            elif name == "id" and "\0" not in value:
                last_id = value
        if event.data is not None:
            data = event.data.decode("utf-8", "replace")
            found.append({"event": kind, "data": data} | ({} if last_id is None else {"id": last_id}))
    return found


def test_event_streams(shared: Path) -> None:
    """26 streams: the events a browser dispatches, whole, as given, and byte by byte; no byte is lost or moved."""
    cases = load(shared / "vectors" / "sse" / "event-stream.json")["cases"]
    wrong = []
    for case in cases:
        chunks = chunks_of(case)
        whole = b"".join(chunks)
        for cut in (chunks, [whole], [whole[i : i + 1] for i in range(len(whole))]):
            events, tail = events_of(cut)
            assert b"".join(event.raw for event in events) + tail == whole, case["id"]
            if dispatched(events) != case["events"]:
                wrong.append((case["id"], dispatched(events)))
    assert wrong == []
    assert len(cases) == 26


def test_digest_of_a_stream_does_not_depend_on_chunking(shared: Path) -> None:
    for case in load(shared / "vectors" / "sse" / "event-stream.json")["cases"]:
        chunks = chunks_of(case)
        whole = b"".join(chunks)
        digests = set()
        for size in (1, 2, 3, 7, len(whole) or 1):
            events, _ = events_of([whole[i : i + size] for i in range(0, len(whole), size)])
            digests.add(hashlib.sha256(b"\n\n".join(event.data for event in events if event.data is not None)).hexdigest())
        assert len(digests) == 1, case["id"]


# Merkle trees (RFC 6962)


def root_from_proof(index: int, size: int, leaf: bytes, proof: list[bytes]) -> bytes:
    """RFC 9162 section 2.1.3.2, written down a second time."""
    node, last = leaf, size - 1
    for sibling in proof:
        if index & 1 or index == last:
            node = hashlib.sha256(b"\x01" + sibling + node).digest()
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            node = hashlib.sha256(b"\x01" + node + sibling).digest()
        index, last = index >> 1, last >> 1
    return node


def test_merkle_roots_agree_with_the_golden_log(shared: Path) -> None:
    """Tessera's golden log: our root over the first n leaves is the root of checkpoint n, for all 16 checkpoints."""
    document = load(shared / "vectors" / "tlog" / "tessera-golden-log.json")
    leaves = [leaf_hash(text.encode()) for text in document["leaves_in_order"]]
    sizes = []
    for name, content in document["files"].items():
        if name.startswith("checkpoint."):
            _, size, root, *_ = base64.b64decode(content).decode().split("\n")
            assert base64.b64encode(merkle_root(leaves[: int(size)])).decode() == root, name
            sizes.append(int(size))
    assert sorted(sizes) == list(range(16))


def test_the_happy_inclusion_proofs_end_in_their_root(shared: Path) -> None:
    cases = [case for case in load(shared / "vectors" / "merkle" / "inclusion.json") if not case["wantErr"]]
    assert len(cases) == 6
    for case in cases:
        proof = [base64.b64decode(node) for node in case["proof"] or ()]
        root = root_from_proof(case["leafIdx"], case["treeSize"], base64.b64decode(case["leafHash"]), proof)
        assert base64.b64encode(root).decode() == case["root"], case["desc"]
