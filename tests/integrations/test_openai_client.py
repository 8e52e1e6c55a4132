"""The example provider under uvicorn with two workers, called by the official `openai` client, with and without the guard."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from provisioned import MODELS, Provider, now
from serving import ServeProcess
from tos_guard.cli import main
from tos_guard.errors import AbsentError, IncompleteError, VerificationError
from tos_guard.rights import Grant
from tos_guard.stores import load_terms
from tos_guard.terms import TermsVersion, new_acceptance
from tos_guard.testing import SeededSigner
from tos_guard.types import AcceptanceMethod, Identification, SubjectKind
from tos_guard.verify import Expected, Trust, Verified, verify_body, verify_stream, verify_text

MODEL = "smollm2-135m"
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
QUESTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "three choices": {"n": 3},
    "fewer choices than asked": {"n": 3, "content": "Tell me [[choices 2]]"},
    "tool call": {"tools": [WEATHER], "tool_choice": "required", "content": "weather in Paris?"},
    "reasoning": {"content": "Think [[think]]"},
    "refusal": {"content": "Refuse [[refuse]]"},
    "halves of a character": {"content": "An emoji [[halves]]"},
    "white space and CR LF": {"content": "Odd [[crlf]]"},
}


def question(name: str) -> dict[str, Any]:
    """The arguments of a question."""
    given = {**QUESTIONS[name]}
    return {"model": MODEL, "messages": [{"role": "user", "content": given.pop("content", "Hello there")}], **given}


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Provider:
    """A provisioned provider."""
    return Provider(tmp_path_factory.mktemp("provider"))


class Recorder(httpx2.HTTPTransport):
    """Keeps the bytes that a client got and sent."""

    def __init__(self) -> None:
        super().__init__()
        self.body = b""
        self.sent = b""
        self.headers: dict[str, str] = {}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.sent = request.read()
        response = super().handle_request(request)
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self.body = response.read()
        return httpx2.Response(response.status_code, headers=response.headers, content=self.body)


@pytest.fixture(scope="module")
def guarded(provider: Provider, serve_process: ServeProcess) -> Iterator[str]:
    """Base URL of the guarded provider."""
    served = serve_process(
        "provider_fastapi.guarded:guarded", app_dir=Path("examples"), factory=True, workers=2, env=provider.environment()
    )
    with served as process:
        yield process.base_url


@pytest.fixture(scope="module")
def unguarded(provider: Provider, serve_process: ServeProcess) -> Iterator[str]:
    """Base URL of the same provider without a guard."""
    served = serve_process("provider_fastapi.app:unguarded", app_dir=Path("examples"), factory=True, workers=1, env=provider.environment())
    with served as process:
        yield process.base_url


OPENED: list[openai.OpenAI] = []


@pytest.fixture(autouse=True)
def closed_clients() -> Iterator[None]:
    """Close what a test has opened."""
    yield
    while OPENED:
        OPENED.pop().close()


def client(base_url: str, key: str, recorder: Recorder | None = None) -> openai.OpenAI:
    """The official client, closed after the test."""
    transport = httpx2.Client(transport=recorder or Recorder())
    OPENED.append(openai.OpenAI(base_url=f"{base_url}/v1", api_key=key, max_retries=0, http_client=transport))
    return OPENED[-1]


def without_tag(value: Any) -> Any:
    """Parsed output without what only the guard adds."""
    document = value.model_dump()
    document.pop("ai_provenance", None)
    return document


def prove(provider: Provider, recorder: Recorder) -> Verified:
    """What the recorded bytes prove, with header and request."""
    given: dict[str, Any] = {
        "trust": provider.trust(),
        "now": now(),
        "token": recorder.headers["ai-provenance"],
        "expected": Expected(request=recorder.sent, salt=recorder.headers["ai-provenance-salt"]),
    }
    if recorder.headers["content-type"].startswith("text/event-stream"):
        return verify_stream(recorder.body, **given)
    return verify_body(recorder.body, content_digest=recorder.headers["content-digest"], **given)


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_json_answer_is_the_same_with_the_guard_and_proven(provider: Provider, guarded: str, unguarded: str, name: str) -> None:
    """Everything the client parses is identical but for the member `ai_provenance`, which holds a token of at most 1.8 KB."""
    recorder = Recorder()
    tagged = client(guarded, provider.keys["good"], recorder).chat.completions.create(**question(name))
    bare = client(unguarded, "none").chat.completions.create(**question(name))
    assert without_tag(tagged) == without_tag(bare)
    assert tagged.ai_provenance["token"] == recorder.headers["ai-provenance"]  # type: ignore[attr-defined]
    assert len(recorder.headers["ai-provenance"]) <= 1800
    verified = prove(provider, recorder)
    assert verified.request_checked
    for choice in tagged.choices:
        if choice.message.content:
            text = choice.message.content
            leaves = tagged.ai_provenance.get("leaves")  # type: ignore[attr-defined]
            verify_text(text, token=verified.token, leaves=leaves, choice=choice.index, trust=provider.trust(), now=now())


@pytest.mark.parametrize("usage", [False, True], ids=["no usage chunk", "usage chunk"])
@pytest.mark.parametrize("name", QUESTIONS)
def test_a_streamed_answer_is_the_same_with_the_guard_and_proven(
    provider: Provider, guarded: str, unguarded: str, name: str, usage: bool
) -> None:
    """Every chunk the client parses is identical but for one member on the last chunk with a finish reason."""
    options = {"stream": True, "stream_options": {"include_usage": usage}}
    recorder = Recorder()
    tagged = list(client(guarded, provider.keys["good"], recorder).chat.completions.create(**question(name), **options))
    bare = list(client(unguarded, "none").chat.completions.create(**question(name), **options))
    assert [without_tag(chunk) for chunk in tagged] == [without_tag(chunk) for chunk in bare]
    carriers = [position for position, chunk in enumerate(tagged) if "ai_provenance" in (chunk.model_extra or {})]
    finishing = [position for position, chunk in enumerate(tagged) if any(choice.finish_reason for choice in chunk.choices)]
    assert carriers == finishing[-1:]
    verified = prove(provider, recorder)
    assert verified.notes == ()
    assert len(verified.token) <= 1800


def test_the_token_stays_small_for_128_choices_and_100_clauses(tmp_path: Path, serve_process: ServeProcess) -> None:
    """At most 1.8 KB, and 2.3 KB with every field that is added: whatever the response, with the longest names that settings and terms
    allow, terms that were accepted, a grant that applied, four limits and a nonce of 64 characters.
    """
    uri = "https://api.example.com/" + "t" * 96
    clauses = "".join(
        f'[[clause]]\nid = "clause-{number:03}-{"x" * 21}"\neffect = "prohibit"\naction = "resell"\ntext = "No."\n' for number in range(99)
    )
    head = f'[terms]\nversion = "{"v" * 32}"\ntitle = "T"\nuri = "{uri}"\ntext = "t.md"\neffective = 2026-11-01\nacceptance = "required"\n'
    serve = '[[clause]]\nid = "serve"\neffect = "permit"\naction = ["generate", "classify"]\n'
    train = '[[grant]]\nid = "licence"\n[[clause]]\nid = "train"\neffect = "permit"\naction = "train-model"\nwhen = { grant = "licence" }\n'
    (tmp_path / "t.toml").write_text(head + serve + clauses + train)
    (tmp_path / "t.md").write_text("Terms")
    (tmp_path / "p").mkdir()
    issuer = "https://" + "i" * 84 + ".com"
    provider = Provider(tmp_path / "p", terms=tmp_path / "t.toml", issuer=issuer)
    rules = "".join(
        f'[[limits]]\nid = "{quantity}-{"x" * (31 - len(quantity))}"\nquantity = "{quantity}"\namount = {2**53 - 1}\nwindow = "366d"\n'
        for quantity in ("requests", "tokens", "cost", "output-tokens")
    )
    provider.settings.write_text(provider.settings.read_text() + rules)
    accept(provider, "good", load_terms(tmp_path / "t.toml"))
    served = serve_process(
        "provider_fastapi.guarded:guarded", app_dir=Path("examples"), factory=True, workers=1, env=provider.environment()
    )
    with served as process:
        for stream in (False, True):
            recorder = Recorder()
            answer = client(process.base_url, provider.keys["good"], recorder).chat.completions.create(
                **{**question("plain"), "n": 128}, stream=stream, extra_headers={"AI-Provenance-Nonce": "n" * 64}
            )
            if stream:
                list(answer)
            token = recorder.headers["ai-provenance"]
            bare = {"content-type", "content-length", "date", "server", "cache-control", "x-accel-buffering", "transfer-encoding"}
            added = {name: value for name, value in recorder.headers.items() if name not in bare}
            assert ("ratelimit" in added) == ("ratelimit-policy" in added)
            given: dict[str, Any] = {"trust": provider.trust(), "now": now(), "token": token, "expected": Expected(nonce="n" * 64)}
            verified = verify_stream(recorder.body, **given) if stream else verify_body(recorder.body, **given)
            assert verified.claims.content is not None
            assert verified.claims.content.count == 128
            assert len(verified.claims.usage.clauses) == 3
            assert verified.claims.terms.receipt is not None
            assert verified.claims.grant == "g" * 32
            assert len(verified.token) <= 1800
            assert sum(len(name) + len(value) + 4 for name, value in added.items()) <= 2300


def accept(provider: Provider, account: str, terms: TermsVersion) -> None:
    """The account accepts, holds a licence, and asks to be known by one pseudonym, so that its tokens name the acceptance."""
    with provider.store() as store:
        accepted = new_acceptance(
            terms,
            issuer=provider.issuer,
            subject_kind=SubjectKind.ACCOUNT,
            subject_id=account,
            accepted_by="ann",
            authority="",
            method=AcceptanceMethod.IMPORT,
            identified_by=Identification.ADMINISTRATOR,
            now=now(),
            entropy=secrets.token_bytes,
        )
        store.add_acceptance(accepted)
        store.add_grant(account, Grant(id="g" * 32, type="licence"))
        found = store.by_id(account)
        assert found is not None
        store.put_account(found.model_copy(update={"stable_sub": True}))


def test_refusals_reach_the_client_in_its_own_errors(provider: Provider, guarded: str) -> None:
    """Status, code, terms and advice, without a retry."""
    cases = [
        ("good", {"model": "gpt-x"}, openai.PermissionDeniedError, "tos_model_not_allowed"),
        ("suspended", {}, openai.PermissionDeniedError, "tos_account_suspended"),
        ("nobody", {}, openai.AuthenticationError, "tos_unauthenticated"),
    ]
    for account, change, kind, code in cases:
        key = provider.keys.get(account, "tg-000000000000-" + "A" * 43)
        with pytest.raises(kind) as caught:
            client(guarded, key).chat.completions.create(**{**question("plain"), **change})
        assert caught.value.code == code
        assert caught.value.body["terms_url"].startswith("https://")  # type: ignore[index]
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert caught.value.request_id == caught.value.body["request_id"]  # type: ignore[index]


def test_other_endpoints_are_sealed_whole(provider: Provider, guarded: str) -> None:
    """Plain JSON, floats and all."""
    recorder = Recorder()
    assert client(guarded, provider.keys["good"], recorder).models.list().data[0].id == MODEL
    assert prove(provider, recorder).claims.content.projection == "json-1"  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def recorded(provider: Provider, guarded: str) -> tuple[bytes, Trust, str]:
    """A recorded stream, the trust to judge it by, and its header."""
    recorder = Recorder()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    list(client(guarded, provider.keys["good"], recorder).chat.completions.create(**question("three choices"), **options))
    return recorder.body, provider.trust(), recorder.headers["ai-provenance"]


def test_a_recorded_stream_cut_at_every_byte(recorded: tuple[bytes, Trust, str]) -> None:
    """Never valid before the end of the event with the final token; valid after it, with the missing terminator named."""
    stream, trust, header = recorded
    end = stream.index(b"\n\n", stream.index(b'"ai_provenance"')) + 2
    terminated = stream.index(b"data: [DONE]\n\n") + len(b"data: [DONE]\n\n")
    moment = now()
    sizes = [*range(0, end - 3000, 97), *range(max(0, end - 3000), len(stream) + 1)] if end > 20_000 else range(len(stream) + 1)
    for size in sizes:
        try:
            notes = verify_stream(stream[:size], trust=trust, now=moment, token=header).notes
        except IncompleteError:
            assert size < end
        else:
            assert size >= end
            assert ("terminator: missing" in notes) == (size < terminated)
        if size < end:
            with pytest.raises(AbsentError):
                verify_stream(stream[:size], trust=trust, now=moment)


def test_what_gateways_do_to_a_stream_leaves_it_valid(recorded: tuple[bytes, Trust, str]) -> None:
    """Re-chunked, re-serialised, with comments, keep-alives and other line ends: still valid, and the same claims."""
    stream, trust, header = recorded
    events = [event for event in stream.split(b"\n\n") if event]

    def reserialised(event: bytes) -> bytes:
        data = event.removeprefix(b"data: ")
        return event if data == b"[DONE]" else b"data: " + json.dumps(json.loads(data), indent=None, sort_keys=True).encode()

    forms = {
        "comments": b"".join(b": keep-alive\n\n" + event + b"\n\n" for event in events),
        "re-serialised": b"".join(reserialised(event) + b"\n\n" for event in events),
        "CR LF": b"".join(event + b"\r\n\r\n" for event in events),
        "CR": b"".join(event + b"\r\r" for event in events),
        "names and ids": b"".join(b"event: message\nid: 7\nretry: 10\n" + event + b"\n\n" for event in events),
        "byte-order mark": b"\xef\xbb\xbf" + stream,
    }
    expected = verify_stream(stream, trust=trust, now=now(), token=header).claims
    for name, form in forms.items():
        assert verify_stream(form, trust=trust, now=now(), token=header).claims == expected, name


def test_any_change_to_a_word_of_the_stream_is_found(recorded: tuple[bytes, Trust, str]) -> None:
    """A changed, dropped, doubled or swapped content event, or a changed token, is never valid."""
    stream, trust, _ = recorded
    events = [event + b"\n\n" for event in stream.split(b"\n\n") if event]
    bearing = [n for n, event in enumerate(events) if b'"content":"' in event.replace(b'": "', b'":"') and b'"content":""' not in event]
    assert len(bearing) > 4
    for n in bearing:
        for changed in (
            [*events[:n], *events[n + 1 :]],
            [*events[:n], events[n], *events[n:]],
            [*events[:n], events[n].replace(b'"content":"', b'"content":"x'), *events[n + 1 :]],
        ):
            with pytest.raises(VerificationError):
                verify_stream(b"".join(changed), trust=trust, now=now())
    start = stream.index(b'"token":"') + 9
    for offset in range(stream.index(b'"', start) - start):
        byte = stream[start + offset : start + offset + 1]
        forged = stream[: start + offset] + (b"A" if byte != b"A" else b"B") + stream[start + offset + 1 :]
        with pytest.raises(VerificationError):
            verify_stream(forged, trust=trust, now=now())


def test_swapped_tokens_prove_nothing(provider: Provider, guarded: str) -> None:
    """The token of one answer never proves another."""
    bodies = []
    for text in ("first", "second"):
        recorder = Recorder()
        client(guarded, provider.keys["good"], recorder).chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}])
        bodies.append(json.loads(recorder.body))
    bodies[0]["ai_provenance"], bodies[1]["ai_provenance"] = bodies[1]["ai_provenance"], bodies[0]["ai_provenance"]
    for body in bodies:
        with pytest.raises(VerificationError, match="not the content the token was made for"):
            verify_body(json.dumps(body).encode(), trust=provider.trust(), now=now())


def test_the_command_line_says_the_same(
    provider: Provider, recorded: tuple[bytes, Trust, str], guarded: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`tos-guard verify`: 0 with pinned keys, 1 after any change to content or token, 3 with no trusted key, 5 with the tag stripped."""
    recorder = Recorder()
    client(guarded, provider.keys["good"], recorder).chat.completions.create(**question("three choices"))
    (tmp_path / "keys.json").write_bytes(provider.key_set().to_bytes())
    (tmp_path / "other.json").write_bytes(SeededSigner("another", issuer=provider.issuer).key_set.to_bytes())
    stripped = {name: value for name, value in json.loads(recorder.body).items() if name != "ai_provenance"}
    events = recorded[0].split(b"\n\n")
    bare = b"\n\n".join(event.split(b',"ai_provenance"')[0] + b"}" if b'"ai_provenance"' in event else event for event in events)
    token = json.loads(recorder.body)["ai_provenance"]["token"].encode()
    cases = [
        (recorder.body, "keys.json", 0),
        (recorded[0], "keys.json", 0),
        (recorder.body.replace(b'"content":"', b'"content":"x', 1), "keys.json", 1),
        (recorder.body.replace(token, token[:-9] + (b"B" if token[-9:-8] == b"A" else b"A") + token[-8:]), "keys.json", 1),
        (recorded[0][: len(recorded[0]) // 2], "keys.json", 5),
        (recorder.body, "other.json", 3),
        (recorder.body, None, 3),
        (json.dumps(stripped).encode(), "keys.json", 5),
        (bare, "keys.json", 5),
    ]
    for number, (content, keys, code) in enumerate(cases):
        (tmp_path / "saved").write_bytes(content)
        pinned = [] if keys is None else ["--keys", str(tmp_path / keys)]
        assert main(["verify", str(tmp_path / "saved"), *pinned]) == code, f"case {number}: {capsys.readouterr()}"
    (tmp_path / "saved").write_bytes(recorded[0][: len(recorded[0]) // 2])
    assert main(["verify", str(tmp_path / "saved"), "--keys", str(tmp_path / "keys.json"), "--token", recorded[2]]) == 1


def test_every_model_of_the_test_accounts_is_one_the_guard_knows() -> None:
    """The fixture means what it says."""
    assert MODEL in MODELS
