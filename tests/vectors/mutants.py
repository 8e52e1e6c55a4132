"""The mutation run: ``python tests/vectors/mutants.py`` leaves one rule out of the independent verifier at a time and prints which vectors notice.

For most rules the mutant is the verifier without the calls ``rule("<name>", …)``. Where a rule says how to compute rather than what to refuse,
leaving it out means computing carelessly; `CARELESS` holds these mutants. A bad vector *kills* the mutant of its rule when the mutant's verdict
is another than the expected one, and kills it *cleanly* when the mutant finds the content valid: then no other rule would have caught it.
"""

from __future__ import annotations

import base64
import functools
import importlib.util
import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
VERIFIER = HERE.parents[1] / "docs" / "spec" / "verifier.py"
DIALECT_VERIFIER, INFER_VERIFIER, RECEIPT_VERIFIER = (VERIFIER.with_name(f"{part}_verifier.py") for part in ("dialect", "infer", "receipt"))
RULES = [f"{page}{number}" for page, last in (("T", 16), ("P", 12), ("C", 18), ("K", 9), ("H", 3), ("R", 10)) for number in range(1, last + 1)]

Vector = dict[str, Any]


def load_verifier() -> ModuleType:
    """A fresh copy of the verifier in its parts (``dialects``, ``messages``, ``receipts``); one mutant leaves no trace in the next."""
    names = ("verifier", "dialect_verifier")
    before = {name: sys.modules[name] for name in names if name in sys.modules}
    sys.modules["verifier"] = verifier = _loaded(VERIFIER)
    try:
        sys.modules["dialect_verifier"] = verifier.dialects = _loaded(DIALECT_VERIFIER)  # type: ignore[attr-defined]
        verifier.messages = _loaded(INFER_VERIFIER)  # type: ignore[attr-defined]
        verifier.receipts = _loaded(RECEIPT_VERIFIER)  # type: ignore[attr-defined]
    finally:
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(before)
    return verifier


def _loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"independent_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def vectors_of(name: str) -> list[Vector]:
    """The vectors of a file under ``v1``: ``good`` or ``bad/T1``."""
    return json.loads((HERE / "v1" / f"{name}.json").read_text(encoding="utf-8"))["vectors"]


def all_vectors() -> Iterator[Vector]:
    yield from vectors_of("good")
    for rule in RULES:
        yield from vectors_of(f"bad/{rule}")


def cuts_of(stream: Vector) -> Iterator[tuple[int, str, int]]:
    """Where to cut a stream of ``cut_dialects.json``: the size, the verdict without a pending token beside it, and how many bytes are proven.

    Each byte around the end of an event, and every nineteenth between.
    """
    whole, points = stream["content"].encode(), stream["checkpoints"]
    ends = {match.end() for match in re.finditer(rb"\r?\n\r?\n", whole)}
    for size in range(len(whole) + 1):
        if size % 19 and not ends & {size - 1, size, size + 1}:
            continue
        behind = [point["proven_bytes"] for point in points if point["event_ends_at"] <= size]
        begun = behind or stream.get("pending_event_ends_at", len(whole) + 1) <= size
        yield size, "valid" if size >= stream["token_event_ends_at"] else "incomplete" if begun else "absent", min([*behind[-1:], size]) if behind else 0


def content_of(vector: Vector) -> bytes:
    """The bytes to verify; for a text, its UTF-8; for gRPC messages, as gRPC frames them."""
    if "messages_b64" in vector:
        messages = [base64.b64decode(message) for message in vector["messages_b64"]] * vector.get("times", 1)
        return b"".join(b"\0" + len(message).to_bytes(4, "big") + message for message in messages)
    data = base64.b64decode(vector["content_b64"]) if "content_b64" in vector else vector["content"].encode()
    return data + b" " * vector.get("pad", 0)


def trust_of(vector: Vector) -> dict[str, Any]:
    def entry(made: dict[str, str]) -> Any:
        if "keys" in made:
            return made["keys"].encode()
        earlier = made.get("earlier")
        return made["history"].encode(), made["history_keys"].encode(), None if earlier is None else earlier.encode()

    return {issuer: entry(made) for issuer, made in vector["trust"].items()}


def judge(verifier: ModuleType, vector: Vector) -> dict[str, str]:
    """What the verifier makes of the vector, in the form of its ``expected``."""
    if vector["kind"] == "receipt":
        return {"verdict": _receipt(verifier, vector)}
    content = content_of(vector)
    more = {name: vector[name] for name in ("token", "pending", "salt", "audience", "nonce", "choice", "content_digest", "leaves") if name in vector}
    request = {"request": vector["request"].encode()} if "request" in vector else {}
    shown = content.decode() if vector["kind"] == "text" else content
    verdict, detail = verifier.verify(vector["kind"], shown, trust=trust_of(vector), now=vector["now"], **more, **request)
    terminator = re.fullmatch("terminator: (.+)", detail) if verdict == "valid" else None
    proven = re.fullmatch(r"C11: proven: (\d+ \w+)", detail) if verdict == "incomplete" else None
    return {"verdict": verdict, **({"terminator": terminator[1]} if terminator else {}), **({"proven": proven[1]} if proven else {})}


def _receipt(verifier: ModuleType, vector: Vector) -> str:
    given = {name: vector[of].encode() for name, of in (("document", "terms_document"), ("words", "terms_text")) if of in vector}
    return verifier.receipts.verify_receipt(
        vector["content"], trust=trust_of(vector), now=vector["now"], expect=vector.get("expect"), **given
    )[0]


def _without_p2(verifier: ModuleType) -> None:
    """Folds compatibility characters and white space, of every value."""
    verifier.normal = lambda _name, value: " ".join(unicodedata.normalize("NFKC", value).split())


def _without_p3(verifier: ModuleType) -> None:
    """Replaces lone surrogates, and writes as JSON what is no string."""

    def encode(name: str, values: list[Any]) -> bytes:
        texts = [value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False) for value in values]
        spelt = "".join(texts).replace("Infinity", str(2**53))  # as which the verifier reads an integer beyond the safe ones
        return verifier.normal(name, _joined(spelt)).encode()

    verifier.encode = encode


def _joined(text: str) -> str:
    """UTF-16 halves that meet become a character, the others U+FFFD."""
    whole = re.sub("[\ud800-\udbff][\udc00-\udfff]", lambda m: m[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le"), text)
    return re.sub("[\ud800-\udfff]", "\ufffd", whole)


def _without_c6(verifier: ModuleType) -> None:
    """Takes the last event although no blank line ends it."""
    whole = verifier.dialects.events
    verifier.dialects.events = lambda content, *of: whole(content + b"\n\n", *of)


def _without_c8(verifier: ModuleType) -> None:
    """Never misses [DONE]."""
    whole = verifier.verify

    def verify(*args: Any, **options: Any) -> tuple[str, str]:
        verdict, detail = whole(*args, **options)
        return verdict, "terminator: present" if detail.startswith("terminator: ") else detail

    verifier.verify = verify


def _without_c13(verifier: ModuleType) -> None:
    """Believes the token about the form of its stream."""
    whole = verifier.dialects.form_of

    def form_of(bodies: list[Vector]) -> tuple[int, str]:
        found = re.search(r'"token": "[^".]*\.([^".]*)\.', json.dumps(bodies))
        claims, _ = verifier.read_json(verifier.unb64(found[1]), 8, True) if found else ({}, [])
        proj = (claims or {}).get("content", {}).get("proj")
        return (0, proj) if proj in verifier.dialects.STREAMS else whole(bodies)

    verifier.dialects.form_of = form_of


CARELESS: dict[str, Callable[[ModuleType], None]] = {"P2": _without_p2, "P3": _without_p3, "C6": _without_c6, "C8": _without_c8, "C13": _without_c13}


def mutant(*rules: str) -> ModuleType:
    """The verifier without these rules."""
    verifier = load_verifier()
    verifier.DISABLED.update(rules)
    for rule in rules:
        CARELESS.get(rule, lambda _: None)(verifier)
    return verifier


def outcome(verifier: ModuleType, vector: Vector) -> dict[str, str]:
    """As `judge`; a mutant that trips over what its missing rule would have refused has verdict ``crashed``."""
    try:
        return judge(verifier, vector)
    except Exception as error:
        return {"verdict": "crashed", "error": repr(error)}


@functools.cache
def run(rule: str) -> dict[str, Any]:
    """Counts for one rule; `survivors` are the ids that did not kill the mutant."""
    vectors = vectors_of(f"bad/{rule}")
    alone = [vector for vector in vectors if "also" not in vector]
    lone = mutant(rule)
    found = {vector["id"]: outcome(lone if "also" not in vector else mutant(rule, *vector["also"]), vector) for vector in vectors}
    killed = [vector["id"] for vector in vectors if found[vector["id"]] != vector["expected"]]
    clean = [vector["id"] for vector in alone if found[vector["id"]] != vector["expected"] and found[vector["id"]]["verdict"] == "valid"]
    return {
        "rule": rule,
        "vectors": len(vectors),
        "alone": len(alone),
        "killed": len(killed),
        "killed_alone": sum(vector["id"] in killed for vector in alone),
        "clean": len(clean),
        "crashed": [f"{name}: {got['error']}" for name, got in found.items() if got["verdict"] == "crashed"],
        "survivors": [name for name in found if name not in killed],
    }


def main() -> int:
    lines = [f"{'rule':<6}{'vectors':>8}{'killed':>8}{'by it alone':>14}{'killed':>8}{'found valid':>13}"]
    rows = [run(rule) for rule in RULES]
    lines += [f"{r['rule']:<6}{r['vectors']:>8}{r['killed']:>8}{r['alone']:>14}{r['killed_alone']:>8}{r['clean']:>13}" for r in rows]
    total = {name: sum(row[name] for row in rows) for name in ("vectors", "killed", "alone", "killed_alone", "clean")}
    lines.append(f"{'all':<6}{total['vectors']:>8}{total['killed']:>8}{total['alone']:>14}{total['killed_alone']:>8}{total['clean']:>13}")
    survivors = [name for row in rows for name in row["survivors"]]
    lines.append(f"{len(RULES)} mutants, {len(survivors)} bad vectors that did not notice{': ' + ', '.join(survivors) if survivors else ''}")
    lines += [crash for row in rows for crash in row["crashed"]]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
