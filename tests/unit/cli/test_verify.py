"""`tos-guard verify` and `inspect`: the exit code is the verdict's, and nothing unproven looks proven."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fuzz import seeds
from streams import STREAMS, event
from tos_guard.dialects import ChatFormat, StreamSealing, dialect_named
from tos_guard.errors import EXIT_CODES
from tos_guard.keys import join_jws
from tos_guard.stores import FileSigner, load_terms
from tos_guard.terms import new_acceptance, receipt_signing_input
from tos_guard.types import AcceptanceMethod, Identification, KeyPurpose, Stage, SubjectKind

Call = Callable[..., Any]
FOLDER = Path(__file__).parents[2] / "vectors" / "v1"
ISSUER = "https://api.example.com"
KEYS = {
    "version",
    "verdict",
    "exit_code",
    "input",
    "form",
    "checks",
    "proven",
    "uncovered",
    "notes",
    "prefix",
    "request_checked",
    "error",
    "unverified_claims",
}
RECEIPT_KEYS = {
    "version",
    "verdict",
    "exit_code",
    "input",
    "form",
    "proven",
    "document_checked",
    "text_checked",
    "error",
    "unverified_claims",
}
NAMED: list[set[str]] = [set(), {"person"}, {"subject_kind", "subject_id"}, {"subject_kind", "subject_id", "person"}]
"""What a command line can expect of a receipt."""
PROVEN = {
    "issuer", "kid", "signed_at", "token_id", "request_id", "subject", "model", "stage", "completion", "projection", "parts", "terms",
    "usage", "grant", "audience", "nonce", "expires", "token",
}  # fmt: skip


def vectors(*names: str) -> list[dict[str, Any]]:
    """Vectors that a command line can express: one issuer, one set of keys."""
    found = [vector for name in names for vector in json.loads((FOLDER / name).read_bytes())["vectors"]]
    found = [vector for vector in found if vector.get("expect", {}).keys() in NAMED and "messages_b64" not in vector]
    return [vector for vector in found if len(vector["trust"]) == 1 and "earlier" not in next(iter(vector["trust"].values()))]


GOOD = vectors("good.json")
BAD = [vector for path in sorted((FOLDER / "bad").glob("*.json")) for vector in vectors(f"bad/{path.name}")[:2]]
RECEIPTS = {vector["note"]: vector for vector in GOOD if vector["kind"] == "receipt"}


def arguments(vector: dict[str, Any], folder: Path) -> list[str]:
    """The command line of a vector, its files in *folder*."""

    def saved(name: str, data: bytes) -> str:
        (folder / name).write_bytes(data)
        return str(folder / name)

    content = base64.b64decode(vector["content_b64"]) if "content_b64" in vector else vector["content"].encode("utf-8", "surrogatepass")
    (issuer, given) = next(iter(vector["trust"].items()))
    command = [
        saved("content", content + b" " * vector.get("pad", 0)),
        f"--issuer={issuer}",
        f"--at={vector['now']}",
        f"--as={vector['kind']}",
    ]
    if "keys" in given:
        command.append(f"--keys={saved('keys', given['keys'].encode('utf-8', 'surrogatepass'))}")
    else:
        command.append(f"--keys={saved('history', given['history'].encode('utf-8', 'surrogatepass'))}")
        command.append(f"--history-key={saved('history_key', given['history_keys'].encode())}")
    for name, option in (
        ("salt", "salt"),
        ("audience", "audience"),
        ("nonce", "nonce"),
        ("choice", "choice"),
        ("content_digest", "content-digest"),
    ):
        if vector.get(name) is not None:
            command.append(f"--{option}={vector[name]}")
    if vector.get("token") is not None:
        command.append(f"--token=@{saved('token', vector['token'].encode('utf-8', 'surrogatepass'))}")
    if vector.get("request") is not None:
        command.append(f"--request={saved('request', vector['request'].encode())}")
    for name, option in (("terms_document", "terms"), ("terms_text", "terms-text")):
        if name in vector:
            command.append(f"--{option}={saved(name, vector[name].encode())}")
    expect = vector.get("expect", {})
    if "person" in expect:
        command.append(f"--person={expect['person']}")
    if "subject_id" in expect:
        command.append(f"--subject={expect['subject_kind']}:{expect['subject_id']}")
    if vector.get("leaves") is not None:
        command.append(f"--leaves={saved('leaves', json.dumps(vector['leaves']).encode())}")
    return command


@pytest.mark.parametrize("vector", [*GOOD, *BAD], ids=lambda vector: vector["id"])
def test_the_exit_code_of_each_vector_is_that_of_its_verdict(vector: dict[str, Any], call: Call, tmp_path: Path) -> None:
    done = call("verify", *arguments(vector, tmp_path), "--json")
    assert done.code == EXIT_CODES[vector["expected"]["verdict"]], done.out + done.err
    assert done.document["verdict"] == vector["expected"]["verdict"]
    assert done.document.keys() == (RECEIPT_KEYS if vector["kind"] == "receipt" else KEYS)


def test_a_stream_that_was_cut_is_proven_as_far_as_its_newest_checkpoint(call: Call, tmp_path: Path) -> None:
    events = [event({"choices": [{"index": 0, "delta": {"content": text}}]}) for text in ("Hel", "lo", " there")]
    sealing = StreamSealing(ChatFormat(), checkpoint_events=2)
    step = sealing.feed(b"".join(events))
    token = seeds.token(sealing.content, stage=Stage.CHECKPOINT, completion=None)
    proven = step.out + sealing.checkpointed(b'{"token":"%s"}' % token.encode()).out.removesuffix(events[2])
    (tmp_path / "cut").write_bytes(proven + events[2])
    (tmp_path / "keys").write_text(json.dumps(seeds.KEYS.to_document()))
    options = ["cut", "--keys", "keys", "--issuer", seeds.ISSUER, "--at", seeds.NOW.isoformat()]
    done = call("verify", *options)
    assert done.code == EXIT_CODES["incomplete"]
    assert f"Proven by a checkpoint: the first {len(proven)} bytes, and nothing of what follows" in done.out
    document = call("verify", *options, "--json").document
    assert (document["prefix"]["bytes"], document["prefix"]["stage"], document["proven"]) == (len(proven), "checkpoint", None)
    (tmp_path / "cut").write_bytes(proven.replace(b"Hel", b"Bel"))
    assert call("verify", *options, "--json").document["prefix"] is None


@pytest.mark.parametrize("name", STREAMS)
def test_inspect_shows_the_final_token_of_a_stream_wherever_it_is(name: str, call: Call, tmp_path: Path) -> None:
    stream_format = dialect_named(name).stream_format(b"text/event-stream")
    assert stream_format is not None
    sealing = StreamSealing(stream_format)
    sealing.pending = b'{"token":"%s"}' % seeds.token(None).encode()
    out = b""
    for step in (sealing.feed(each) for each in STREAMS[name]):
        out += step.out + (sealing.sealed(seeds.tag_of(sealing.content)).out if step.seal else b"")
    (tmp_path / "stream").write_bytes(out)
    assert call("inspect", "stream", "--json").document["unverified_claims"]["stage"] == "final"


@pytest.fixture
def body(tmp_path: Path) -> dict[str, Any]:
    """A good body in files."""
    vector = next(v for v in GOOD if v["kind"] == "body" and "token" not in v and json.loads(v["content"]).get("choices"))
    arguments(vector, tmp_path)
    tag = json.loads(vector["content"])["ai_provenance"]
    return {**vector, "tag": tag["token"], "options": ["--keys", "keys", "--at", vector["now"]]}


def test_a_valid_body_says_what_was_proven_and_what_not(call: Call, body: dict[str, Any]) -> None:
    done = call("verify", "content", *body["options"])
    assert done.code == 0
    assert done.out.startswith(f"VALID: {ISSUER}")
    for words in ("passed  signature", "passed  content", "issuer", "terms", "may not be used to train AI models", "NOT covered"):
        assert words in done.out
    assert "failed" not in done.out
    document = call("verify", "content", *body["options"], "--json").document
    assert document["proven"].keys() == PROVEN
    assert all(check.keys() == {"name", "passed", "text"} for check in document["checks"])
    assert document["error"] is None


def test_a_failure_names_the_failed_check_only_and_what_to_do(call: Call, body: dict[str, Any], tmp_path: Path) -> None:
    changed = json.loads(body["content"])
    changed["choices"][0]["message"]["content"] = "something else"
    (tmp_path / "content").write_text(json.dumps(changed))
    done = call("verify", "content", *body["options"])
    assert done.code == 1
    assert done.out.startswith("INVALID: the tag is genuine")
    assert "passed" not in done.out
    assert "What to do" in done.out
    document = call("verify", "content", *body["options"], "--json").document
    assert [(check["name"], check["passed"]) for check in document["checks"]] == [("content", False)]
    assert document["proven"] is None
    assert document["error"].keys() == {"code", "what", "where", "cure"}


@pytest.mark.parametrize("given", ["none", "another", "refused"])
def test_without_a_trusted_key_nothing_is_decided_and_claims_are_marked(
    call: Call, body: dict[str, Any], tmp_path: Path, given: str
) -> None:
    (tmp_path / "refused").write_text('{"keys":[]}')
    call("init", "other", "--issuer", "https://other.example")
    (tmp_path / "another").write_text(call("keys", "jwks", "--config", "other/tos-guard.toml").out)
    done = call("verify", "content", *([] if given == "none" else ["--keys", given]))
    assert done.code == 3
    assert "NOT verified" in done.out
    assert ISSUER in done.out
    assert "passed" not in done.out


def test_a_body_without_its_tag_is_absent_even_without_keys(call: Call, body: dict[str, Any], tmp_path: Path) -> None:
    changed = json.loads(body["content"])
    del changed["ai_provenance"]
    (tmp_path / "content").write_text(json.dumps(changed))
    assert call("verify", "content").code == 5
    assert call("verify", "content", *body["options"]).code == 5
    assert call("verify", "content", *body["options"], "--token", body["tag"]).code == 0


def test_stdin_token_file_and_saved_headers_are_taken(call: Call, body: dict[str, Any], tmp_path: Path) -> None:
    data = (tmp_path / "content").read_bytes()
    assert call("verify", "-", *body["options"], stdin=data).code == 0
    redirected = "HTTP/1.1 302 Found\r\nAI-Provenance: other\r\n\r\n"
    headers = f"{redirected}HTTP/1.1 200 OK\r\nai-provenance: {body['tag']}\r\nContent-Digest: sha-256=:AA==:\r\n"
    (tmp_path / "headers").write_text(headers)
    done = call("verify", "content", *body["options"], "--headers", "headers")
    assert done.code == 1
    assert "Content-Digest" in done.out
    (tmp_path / "headers").write_text(headers.replace("Content-Digest", "Other"))
    assert call("verify", "content", *body["options"], "--headers", "headers").code == 0
    assert call("verify", "content", *body["options"], "--headers", "headers", "--token", "another").code == 2
    (tmp_path / "headers").write_text("ai-provenance: a\nai-provenance: b\n")
    assert call("verify", "content", *body["options"], "--headers", "headers").code == 1


def test_the_salt_of_saved_headers_serves_the_request(call: Call, tmp_path: Path) -> None:
    vector = next(v for v in GOOD if v.get("request") is not None and v["kind"] == "body")
    command = [given for given in arguments(vector, tmp_path) if not given.startswith("--salt")]
    assert call("verify", *command).code == 2
    (tmp_path / "headers").write_text(f"HTTP/1.1 200 OK\nAI-Provenance-Salt: {vector['salt']}\n")
    done = call("verify", *command, "--headers", "headers")
    assert done.code == 0, done.out + done.err
    assert "made for this very request" in done.out
    (tmp_path / "request").write_text("another")
    done = call("verify", *command, "--headers", "headers", "--json")
    assert (done.code, done.document["checks"][0]["name"]) == (4, "request")


def test_demands_are_checked(call: Call, body: dict[str, Any]) -> None:
    sha256 = call("verify", "content", *body["options"], "--json").document["proven"]["usage"]["sha256"]
    assert call("verify", "content", *body["options"], "--accept-policy", "x" * 43, "--accept-policy", sha256).code == 0
    assert call("verify", "content", *body["options"], "--accept-policy", "x" * 43).code == 4
    assert call("verify", "content", *body["options"], "--audience", "me").code == 4
    assert call("verify", "content", *body["options"], "--nonce", "n").code == 4


@pytest.mark.parametrize(
    "options",
    [
        ["--salt", "A" * 43],
        ["--request", "keys"],
        ["--choice", "0"],
        ["--leaves", "keys"],
        ["--as", "stream", "--content-digest", "x"],
        ["--at", "yesterday"],
        ["--keys", "missing"],
        ["--keys", "."],
        ["--issuer", "https://other.example"],
        ["--token", "@missing"],
    ],
)
def test_options_that_cannot_be_followed_exit_2_before_any_verdict(call: Call, body: dict[str, Any], options: list[str]) -> None:
    done = call("verify", "content", *body["options"], *options)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)


def test_keys_of_no_issuer_need_one(call: Call, body: dict[str, Any], tmp_path: Path) -> None:
    keys = json.loads((tmp_path / "keys").read_text())
    del keys["issuer"]
    (tmp_path / "keys").write_text(json.dumps(keys))
    assert call("verify", "content", *body["options"]).code == 2
    assert call("verify", "content", *body["options"], "--issuer", ISSUER).code == 0


def test_quiet_leaves_the_exit_code(call: Call, body: dict[str, Any]) -> None:
    done = call("verify", "content", *body["options"], "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert call("verify", "content", "--quiet", "--json").out == ""


@pytest.mark.parametrize(
    ("data", "form"),
    [
        (b'{"a":1}', "body"),
        (b'\xef\xbb\xbf \r\n{"a":', "body"),
        (b"data: {}\n\n", "stream"),
        (b": keep-alive\n\n\nevent: x\ndata: {}\n\n", "stream"),
        (b"\xef\xbb\xbfdata:[DONE]\r\n\r\n", "stream"),
        (b"", "text"),
        (b"data is what we need", "text"),
        (b"dataset: {}", "text"),
        (b"[1]", "text"),
        (b"Hello\ndata: x", "text"),
        (b"\xff\x00\xfe", "text"),
    ],
)
def test_the_form_is_found_out(call: Call, data: bytes, form: str) -> None:
    done = call("verify", "-", "--json", stdin=data)
    assert done.document["form"] == form
    assert done.code in {1, 3, 5}


def test_inspect_shows_claims_and_never_says_valid(call: Call, body: dict[str, Any]) -> None:
    for source in ("content", body["tag"]):
        done = call("inspect", source)
        assert done.code == 0
        assert done.out.startswith("UNVERIFIED")
        assert "valid" not in done.out.lower()
        assert "small" in done.out
    assert call("inspect", "-", stdin=body["tag"].encode()).code == 0
    document = call("inspect", "content", "--json").document
    assert document.keys() == {"version", "verified", "unverified_header", "unverified_claims", "token"}
    assert document["verified"] is False


def test_hostile_claims_do_not_steer_the_terminal(call: Call, body: dict[str, Any], tmp_path: Path) -> None:
    header, payload, signature = body["tag"].split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    claims |= {"model": "\x1b[2J\x07\u202eevil\nVALID: yes", "iat": 10**15}
    forged = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    token = f"{header}.{forged}.{signature}"
    for done in (call("inspect", token), call("verify", "-", "--token", token, stdin=b"text")):
        assert not {"\x1b", "\x07", "\u202e"} & set(done.out)
        assert "\nVALID" not in done.out
        assert "1000000000000000" in done.out


@pytest.mark.parametrize("command", ["verify", "inspect"])
@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"[" * 100_000,
        b"{" * 100_000,
        b'{"ai_provenance":' + b"[" * 5000,
        b'{"ai_provenance":{"token":1}}',
        b'{"ai_provenance":{"token":"a.b.c"}}',
        b'{"a":' + b"1" * 10_000 + b"}",
        b"data: {\n\n",
        b'data: {"ai_provenance":null}\n\n',
        b"data: " + b"9" * 10_000 + b"\n\n",
        b"\x00" * 100,
        b"eyJ" * 10_000,
        b"a.b.c",
        b"..",
        bytes(range(256)),
    ],
    ids=range(15),
)
def test_hostile_files_end_in_a_verdict(call: Call, command: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / "hostile").write_bytes(data)
    call("init", "p", "--issuer", ISSUER)
    (tmp_path / "keys").write_text(call("keys", "jwks", "--config", "p/tos-guard.toml").out)
    for options in (
        [[], ["--keys", "keys"], ["--token", "@hostile"], ["--headers", "hostile"], ["--keys", "hostile"]] if command == "verify" else [[]]
    ):
        done = call(command, "hostile", *options)
        assert done.code in {1, 2, 3, 5}, (options, done.err)
        assert len(done.err.splitlines()) <= 1


# receipts


@pytest.fixture
def receipt(tmp_path: Path) -> list[str]:
    """The command line of a good receipt with its terms, in files."""
    return [given for given in arguments(RECEIPTS["receipt: of an organization"], tmp_path) if not given.startswith("--as")]


def test_a_receipt_is_known_as_one_and_says_who_accepted_what_for_whom(call: Call, receipt: list[str]) -> None:
    done = call("verify", *receipt)
    assert done.code == 0, done.out + done.err
    assert done.out.startswith(f"VALID: {ISSUER} attests this")
    for words in (
        "jane@acme.example",
        "organization acme-corp",
        "general counsel",
        "2026-11",
        "account-route",
        "passed  the text is the one",
    ):
        assert words in done.out
    assert "withdrawn later" in done.out
    document = call("verify", *receipt, "--json").document
    assert (document["form"], document["document_checked"], document["text_checked"]) == ("receipt", True, True)
    assert document["proven"]["person"] == {"authority": "general counsel", "id": "jane@acme.example"}


def test_what_was_not_looked_at_is_said(call: Call, receipt: list[str]) -> None:
    done = call("verify", *(given for given in receipt if not given.startswith("--terms")))
    assert done.code == 0
    assert done.out.count("not looked at") == 2


def test_a_receipt_of_a_withdrawal_says_so(call: Call, tmp_path: Path) -> None:
    vector = RECEIPTS["receipt: of a withdrawal by an organization, with a reason"]
    done = call("verify", *arguments(vector, tmp_path))
    assert "withdrawal of acc_" in done.out
    assert "The contract ended." in done.out
    assert "withdrawn later" not in done.out


def test_a_changed_text_date_or_name_is_named(call: Call, receipt: list[str], tmp_path: Path) -> None:
    text = (tmp_path / "terms_text").read_text()
    (tmp_path / "terms_text").write_text(text.replace("30", "60"))
    done = call("verify", *receipt)
    assert (done.code, "another text" in done.out) == (1, True)
    (tmp_path / "terms_text").write_text(text)
    for options, where in ((["--person=john@acme.example"], "receipt person"), (["--subject=organization:acme"], "receipt subject id")):
        done = call("verify", *receipt, *options, "--json")
        assert (done.code, done.document["error"]["where"]) == (4, where)
    head, payload, signature = (tmp_path / "content").read_text().split(".")
    claims = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    for old, new in ((b"jane@", b"john@"), (b'"at":17', b'"at":16'), (b"2026-11", b"2026-12")):
        forged = base64.urlsafe_b64encode(claims.replace(old, new)).decode().rstrip("=")
        (tmp_path / "content").write_text(f"{head}.{forged}.{signature}")
        done = call("verify", *receipt)
        assert (done.code, "the receipt was changed" in done.out) == (1, True)


def test_the_toml_file_of_the_terms_serves_as_document_and_text(call: Call, tmp_path: Path, root: Path) -> None:
    folder = root / "examples" / "terms"
    call("init", "p", "--issuer", ISSUER)
    at = datetime(2026, 11, 20, tzinfo=UTC)
    terms = load_terms(folder / "contract-7-1.toml")
    made = new_acceptance(
        terms, issuer=ISSUER, subject_kind=SubjectKind.ORGANIZATION, subject_id="acme-corp", accepted_by="jane", authority="counsel",
        method=AcceptanceMethod.CLI, identified_by=Identification.ADMINISTRATOR, now=at, entropy=bytes,
    )  # fmt: skip
    signer = FileSigner(tmp_path / "p" / "keys", purpose=KeyPurpose.RECEIPT)
    key = signer.current(datetime.now(UTC))
    message = receipt_signing_input(made.to_receipt(now=datetime.now(UTC)), key)
    (tmp_path / "receipt").write_text(join_jws(message, signer.sign(key, message)) + "\n")
    (tmp_path / "keys").write_text(call("keys", "jwks", "--config", "p/tos-guard.toml").out)
    done = call("verify", "receipt", "--keys", "keys", "--terms", folder / "contract-7-1.toml", "--json")
    assert (done.code, done.document["document_checked"], done.document["text_checked"]) == (0, True, True), done.out
    assert call("verify", "receipt", "--keys", "keys", "--terms", folder / "minimal.toml").code == 1
    (tmp_path / "bad.toml").write_text("[terms")
    assert call("verify", "receipt", "--keys", "keys", "--terms", "bad.toml").code == 2


def test_without_a_trusted_key_a_receipt_decides_nothing(call: Call, receipt: list[str]) -> None:
    done = call("verify", receipt[0])
    assert done.code == 3
    assert "NOT verified" in done.out
    assert "jane@acme.example" in done.out
    assert "passed" not in done.out


@pytest.mark.parametrize(
    "options",
    [["--token=a"], ["--headers=keys"], ["--leaves=keys"], ["--choice=0"], ["--request=keys"], ["--audience=a"], ["--nonce=n"],
     ["--content-digest=x"], ["--accept-policy=x"], ["--salt=x"], ["--subject=acme"], ["--subject=person:x"], ["--subject=account:"],
     ["--terms=missing"], ["--terms-text=missing"]],
)  # fmt: skip
def test_options_that_do_not_fit_a_receipt_exit_2(call: Call, receipt: list[str], options: list[str]) -> None:
    done = call("verify", *receipt, *options)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)


@pytest.mark.parametrize("option", ["--terms=keys", "--terms-text=keys", "--subject=account:a", "--person=a"])
def test_options_of_receipts_do_not_fit_a_response(call: Call, body: dict[str, Any], option: str) -> None:
    assert call("verify", "content", *body["options"], option).code == 2


def test_inspect_shows_a_receipt(call: Call, receipt: list[str], tmp_path: Path) -> None:
    for source in ("content", (tmp_path / "content").read_text()):
        done = call("inspect", source)
        assert done.code == 0
        assert done.out.startswith("UNVERIFIED: this is what the receipt says of itself")
        assert "jane@acme.example" in done.out
    document = call("inspect", "content", "--json").document
    assert document["unverified_header"]["typ"] == "ai-terms-receipt+jwt"


LINES = next(v for v in GOOD if v["kind"] == "lines" and v["note"] == "lines: two, a line with the tag")
APART = next(v for v in GOOD if v["kind"] == "lines" and v["note"] == "lines: two, the token beside them")


@pytest.mark.parametrize("vector", [LINES, APART], ids=["tag line", "token beside"])
def test_lines_are_told_by_themselves(vector: dict[str, Any], call: Call, tmp_path: Path) -> None:
    command = [part for part in arguments(vector, tmp_path) if not part.startswith("--as=")]
    done = call("verify", *command, "--json")
    assert (done.code, done.document["form"]) == (0, "lines")
    cut = tmp_path / "cut"
    cut.write_bytes(vector["content"].encode().partition(b"\n")[2])
    assert call("verify", str(cut), *command[1:], "--as=lines").code == 1


def test_a_token_fetched_by_request_id_may_differ_from_the_pending_one_in_the_head(call: Call, tmp_path: Path) -> None:
    pending = next(v["token"] for v in GOOD if v["kind"] == "stream" and v.get("token"))
    (tmp_path / "head").write_text(f"HTTP/1.1 200 OK\r\nAI-Provenance: {pending}\r\n")
    done = call("verify", *arguments(APART, tmp_path), f"--headers={tmp_path / 'head'}", "--json")
    assert done.document["verdict"] == "valid"
    alone = [part for part in arguments(APART, tmp_path) if not part.startswith("--token=")]
    assert call("verify", *alone, f"--headers={tmp_path / 'head'}").code == 1
