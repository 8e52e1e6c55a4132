"""The verifier of the format pages gives every frozen vector its verdict, and is what the pages say it is."""

from __future__ import annotations

import ast
import base64
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest


def _beside(name: str) -> ModuleType:
    """A module of this folder; the folder is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mutants = _beside("mutants")
VECTORS = list(mutants.all_vectors())
SPEC = mutants.VERIFIER.parent
SCHEMA = json.loads((SPEC / "claims.schema.json").read_text(encoding="utf-8"))
CUTS = json.loads((mutants.HERE / "v1" / "cut_stream.json").read_text(encoding="utf-8"))
DIALECT_CUTS = json.loads((mutants.HERE / "v1" / "cut_dialects.json").read_text(encoding="utf-8"))
SHOWN = {"T9", "T10", "T11"}  # the rules whose vectors the schema can tell apart, most of them


@pytest.fixture(scope="module")
def verifier() -> ModuleType:
    return mutants.load_verifier()


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["id"] for vector in VECTORS])
def test_vector(verifier: ModuleType, vector: dict[str, Any]) -> None:
    """Each vector gets the verdict it was frozen with."""
    assert mutants.judge(verifier, vector) == vector["expected"], vector["note"]


@pytest.mark.parametrize("rule", mutants.RULES)
def test_every_rule_has_ten_bad_vectors_that_only_it_refuses(rule: str) -> None:
    vectors = mutants.vectors_of(f"bad/{rule}")
    assert len([vector for vector in vectors if "also" not in vector]) >= 10
    assert all(vector["rule"] == rule for vector in vectors)


def test_every_numbered_rule_of_the_pages_has_its_file() -> None:
    named = {
        line[4 : line.index("**", 4)]
        for page in SPEC.glob("*.md")
        for line in page.read_text(encoding="utf-8").splitlines()
        if line.startswith("- **")
    }
    assert named == set(mutants.RULES) == {path.stem for path in (mutants.HERE / "v1" / "bad").glob("*.json")}


def test_ids_are_unique_and_no_vector_is_filed_twice() -> None:
    assert len({vector["id"] for vector in VECTORS}) == len(VECTORS)
    contents = [
        json.dumps({name: value for name, value in vector.items() if name not in {"id", "note"}}, sort_keys=True) for vector in VECTORS
    ]
    assert len(set(contents)) == len(contents)


def test_frozen_vectors_are_those_of_the_generator() -> None:
    """The generator still writes the same bytes, so nobody edits a vector by hand or the format by accident."""
    made = _beside("generate").make()
    folder = mutants.HERE / "v1"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.json")} == set(made)
    assert {name: json.loads((folder / name).read_text(encoding="utf-8")) for name in made} == json.loads(json.dumps(made))


@pytest.mark.parametrize("stream", CUTS["streams"], ids=lambda stream: stream["line_ends"])
@pytest.mark.parametrize("pending", [True, False], ids=["pending", "no pending"])
def test_a_cut_stream_is_valid_only_after_the_final_token(verifier: ModuleType, stream: dict[str, Any], pending: bool) -> None:
    """Cut at every byte: never valid before the end of the event with the final token; from there on valid, with the terminator named."""
    whole, ends = stream["content"].encode(), stream["token_event_ends_at"]
    trust = mutants.trust_of(CUTS)
    token = CUTS["token"] if pending else None
    for size in range(len(whole) + 1):
        verdict, detail = verifier.verify("stream", whole[:size], trust=trust, now=CUTS["now"], token=token)
        if size < ends:
            assert verdict == ("incomplete" if pending else "absent"), size
        else:
            assert (verdict, detail.startswith("terminator: ")) == ("valid", True), (size, detail)
    assert detail == "terminator: present"


@pytest.mark.parametrize("stream", DIALECT_CUTS["streams"], ids=lambda stream: f"{stream['form']}, {stream['line_ends']}")
def test_a_cut_stream_of_any_form_is_proven_up_to_its_newest_checkpoint(verifier: ModuleType, stream: dict[str, Any]) -> None:
    """Never valid before the end of the event with the final token, and never proven further than a checkpoint proves it."""
    whole, trust = stream["content"].encode(), mutants.trust_of(DIALECT_CUTS)
    for size, wanted, proven in mutants.cuts_of(stream):
        for token in (None, DIALECT_CUTS["token"])[: 1 + (size % 3 == 0)]:
            verdict, detail = verifier.verify("stream", whole[:size], trust=trust, now=DIALECT_CUTS["now"], token=token)
            assert verdict == ("incomplete" if token and wanted == "absent" else wanted), (size, detail)
            assert not proven or wanted == "valid" or detail == f"C11: proven: {proven} bytes", size


def _claims(token: str) -> Any:
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def _tokens(vector: dict[str, Any]) -> list[str]:
    found = [vector["token"]] if "token" in vector else []
    if vector["kind"] == "body" and mutants.content_of(vector).startswith(b"{"):
        try:
            body = json.loads(mutants.content_of(vector))
        except ValueError:
            return found
        found += [body["ai_provenance"]["token"]] if "ai_provenance" in body else []
    return found


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_schema_takes_the_claims_of_every_good_vector() -> None:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    tokens = [token for vector in mutants.vectors_of("good") for token in _tokens(vector)]
    assert len(tokens) > 50
    for token in tokens:
        validator.validate(_claims(token))
    assert {_claims(token)["stage"] for token in tokens} == {"pending", "final"}
    points = [
        token for vector in mutants.vectors_of("bad/T10") for token in _tokens(vector) if vector["expected"]["verdict"] == "incomplete"
    ]
    assert {_claims(token)["stage"] for token in points} == {"pending", "checkpoint"}
    for token in points:
        validator.validate(_claims(token))


@pytest.mark.parametrize("rule", sorted(SHOWN))
def test_the_schema_refuses_claims_of_another_shape(rule: str) -> None:
    """What the schema cannot say (``leaves`` beside ``n``, which stage a carrier may hold) is left to the rules, and counted here."""
    validator = jsonschema.Draft202012Validator(SCHEMA)
    tokens = [
        token for vector in mutants.vectors_of(f"bad/{rule}") if vector["expected"]["verdict"] == "invalid" for token in _tokens(vector)
    ]
    refused = [token for token in tokens if not validator.is_valid(_claims(token))]
    assert tokens
    assert len(refused) >= len(tokens) * 3 // 4


@pytest.mark.parametrize(
    ("path", "lines", "beside"),
    [
        (mutants.VERIFIER, 300, {"infer_verifier"}),
        (mutants.DIALECT_VERIFIER, 300, {"verifier"}),
        (mutants.INFER_VERIFIER, 300, {"verifier", "dialect_verifier"}),
        (mutants.RECEIPT_VERIFIER, 100, {"verifier"}),
    ],
    ids=lambda value: value.stem if isinstance(value, Path) else "",
)
def test_the_verifiers_keep_to_their_lines_and_two_libraries(path: Path, lines: int, beside: set[str]) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= lines
    assert max(map(len, source.splitlines())) <= 140
    modules = {
        name.split(".")[0]
        for part in ast.walk(ast.parse(source))
        if isinstance(part, (ast.Import, ast.ImportFrom))
        for name in ([part.module or ""] if isinstance(part, ast.ImportFrom) else [alias.name for alias in part.names])
    }
    assert modules <= sys.stdlib_module_names | {"cryptography"} | beside
    assert not modules & {"importlib", "socket", "urllib", "http", "subprocess"}


def test_every_rule_is_named_where_it_is_enforced() -> None:
    parts = (mutants.VERIFIER, mutants.DIALECT_VERIFIER, mutants.INFER_VERIFIER, mutants.RECEIPT_VERIFIER)
    source = "".join(part.read_text(encoding="utf-8") for part in parts)
    assert [rule for rule in mutants.RULES if f'"{rule}"' not in source] == [rule for rule in mutants.RULES if rule in mutants.CARELESS]
    assert [rule for rule in mutants.CARELESS if f" {rule}" not in source] == []


def _saved(folder: Path, vector: dict[str, Any]) -> list[str]:
    (folder / "content").write_bytes(mutants.content_of(vector))
    issuer, trust = next(iter(vector["trust"].items()))
    (folder / "keys.json").write_text(trust["keys"], encoding="utf-8")
    options = [
        str(folder / "content"),
        "--keys",
        str(folder / "keys.json"),
        "--issuer",
        issuer,
        "--as",
        vector["kind"],
        "--now",
        str(vector["now"]),
    ]
    for name in ("token", "pending", "salt", "audience", "nonce"):
        options += [f"--{name}={vector[name]}"] if name in vector else []
    if "request" in vector:
        (folder / "request").write_text(vector["request"], encoding="utf-8")
        options += ["--request", str(folder / "request")]
    return options


SAVED = [
    vector
    for vector in VECTORS
    if next(iter(vector["trust"].values())).keys() == {"keys"}
    and len(vector["trust"]) == 1
    and not vector.keys() & {"pad", "times", "leaves", "content_digest", "choice"}
    and vector["kind"] != "receipt"
]


@pytest.mark.parametrize("kind", sorted({vector["kind"] for vector in SAVED}))
@pytest.mark.parametrize("wanted", ["valid", "invalid"])
def test_command_line_reads_every_kind_of_content(tmp_path: Path, kind: str, wanted: str) -> None:
    vector = next(vector for vector in reversed(SAVED) if (vector["kind"], vector["expected"]["verdict"]) == (kind, wanted))
    done = subprocess.run([sys.executable, str(mutants.VERIFIER), *_saved(tmp_path, vector)], capture_output=True, text=True, check=False)
    assert done.stdout.split()[:1] == [wanted], done.stderr


@pytest.mark.parametrize(
    ("wanted", "code"), [("valid", 0), ("invalid", 1), ("incomplete", 1), ("undecidable", 3), ("unacceptable", 4), ("absent", 5)]
)
def test_command_line_answers_with_the_exit_code_of_the_verdict(tmp_path: Path, wanted: str, code: int) -> None:
    vector = next(vector for vector in reversed(SAVED) if vector["expected"]["verdict"] == wanted)
    done = subprocess.run([sys.executable, str(mutants.VERIFIER), *_saved(tmp_path, vector)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[0]) == (code, wanted), done.stderr


def test_command_line_refuses_wrong_use_with_2(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(mutants.VERIFIER), str(tmp_path / "absent")], capture_output=True, text=True, check=False)
    assert done.returncode == 2


RECEIPTS = [vector for vector in VECTORS if vector["kind"] == "receipt" and "keys" in next(iter(vector["trust"].values()))]


def _receipt_options(folder: Path, vector: dict[str, Any]) -> list[str]:
    issuer, trust = next(iter(vector["trust"].items()))
    (folder / "receipt.jwt").write_text(vector["content"] + "\n", encoding="ascii")
    (folder / "keys.json").write_text(trust["keys"], encoding="utf-8")
    options = [str(folder / "receipt.jwt"), "--keys", str(folder / "keys.json"), "--issuer", issuer, "--now", str(vector["now"])]
    for name, option in (("terms_document", "--terms"), ("terms_text", "--text")):
        if name in vector:
            (folder / name).write_bytes(vector[name].encode())
            options += [option, str(folder / name)]
    return options + [f"--{name.replace('_', '-')}={value}" for name, value in vector.get("expect", {}).items()]


@pytest.mark.parametrize(
    ("rule", "wanted", "code"), [("R10", "valid", 0), ("R8", "invalid", 1), ("R2", "undecidable", 3), ("R10", "unacceptable", 4)]
)
def test_command_line_of_receipts_answers_with_the_exit_code_of_the_verdict(tmp_path: Path, rule: str, wanted: str, code: int) -> None:
    """A receipt with its document, its text and everything that is expected of it, and one that breaks each kind of rule."""
    vector = next(
        vector
        for vector in RECEIPTS
        if vector["expected"]["verdict"] == wanted
        and (vector["rule"] == rule or {"terms_document", "terms_text", "expect"} <= vector.keys())
    )
    done = subprocess.run(
        [sys.executable, str(mutants.RECEIPT_VERIFIER), *_receipt_options(tmp_path, vector)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.split()[0]) == (code, wanted), done.stderr
    assert wanted == "valid" or done.stdout.split()[1] == f"{rule}:"


def _with(claims: dict[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    head, *rest = path
    return {**claims, head: _with(claims[head], tuple(rest), value) if rest else value}


def test_any_changed_claim_of_a_receipt_is_found(verifier: ModuleType) -> None:
    """Each claim and each inner member in turn, the signature kept: text, date, name, everything."""
    vector = next(vector for vector in RECEIPTS if vector["note"] == "receipt: of an organization")
    head, _, signature = vector["content"].split(".")
    claims = _claims(vector["content"])
    paths = [(name,) for name in claims if not isinstance(claims[name], dict)]
    paths += [(name, inner) for name in claims if isinstance(claims[name], dict) for inner in claims[name]]
    assert len(paths) == 18
    for path in paths:
        old: Any = claims
        for name in path:
            old = old[name]
        changed = _with(claims, path, old + 1 if isinstance(old, int) else old + "x")
        payload = base64.urlsafe_b64encode(json.dumps(changed, sort_keys=True, separators=(",", ":")).encode()).rstrip(b"=").decode()
        found, why = verifier.receipts.verify_receipt(
            f"{head}.{payload}.{signature}", trust=mutants.trust_of(vector), now=vector["now"] + 10
        )
        assert found == ("undecidable" if path == ("iss",) else "invalid"), path
        assert why.startswith("R2" if path == ("iss",) else "T7"), path
