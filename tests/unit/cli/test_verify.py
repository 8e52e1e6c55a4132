"""`tos-guard verify` and `inspect`: the exit code is the verdict's, and nothing unproven looks proven."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tos_guard.errors import EXIT_CODES

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
    "request_checked",
    "error",
    "unverified_claims",
}
PROVEN = {
    "issuer", "kid", "signed_at", "token_id", "request_id", "subject", "model", "stage", "completion", "projection", "parts", "terms",
    "usage", "grant", "audience", "nonce", "expires", "token",
}  # fmt: skip


def vectors(*names: str) -> list[dict[str, Any]]:
    """Vectors that a command line can express: one issuer, one set of keys."""
    found = [vector for name in names for vector in json.loads((FOLDER / name).read_bytes())["vectors"]]
    return [vector for vector in found if len(vector["trust"]) == 1 and "earlier" not in next(iter(vector["trust"].values()))]


GOOD = vectors("good.json")
BAD = [vector for path in sorted((FOLDER / "bad").glob("*.json")) for vector in vectors(f"bad/{path.name}")[:2]]


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
    if vector.get("leaves") is not None:
        command.append(f"--leaves={saved('leaves', json.dumps(vector['leaves']).encode())}")
    return command


@pytest.mark.parametrize("vector", [*GOOD, *BAD], ids=lambda vector: vector["id"])
def test_the_exit_code_of_each_vector_is_that_of_its_verdict(vector: dict[str, Any], call: Call, tmp_path: Path) -> None:
    done = call("verify", *arguments(vector, tmp_path), "--json")
    assert done.code == EXIT_CODES[vector["expected"]["verdict"]], done.out + done.err
    assert done.document["verdict"] == vector["expected"]["verdict"]
    assert done.document.keys() == KEYS


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
