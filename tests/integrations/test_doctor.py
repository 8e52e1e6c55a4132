"""`tos-guard doctor` names each planted misconfiguration, and nothing else; of a healthy installation it says nothing at all.

Real applications are served on loopback, behind a real proxy where one is at fault. A test fails unless the problems and warnings found
are exactly those that were planted.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from fastapi import FastAPI

from changing_proxy import Change, Passed, changing_proxy
from loopback_issuer import made_key
from sample_records import sample_record
from serving import serve_app
from tos_guard.cli import main
from tos_guard.guard import SourceState
from tos_guard.keys import KeyRecord
from tos_guard.stores import KeyFolder, SQLiteStore
from tos_guard.types import KeyPurpose

ISSUER = "https://api.example.com"
CHAT = "/v1/chat/completions"

SHOP = """
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

from tos_guard_fastapi import TosGuard

app = FastAPI()


def chunk(delta, reason=None):
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "small", "choices": [choice]}


@app.post("/v1/chat/completions")
async def chat(request: Request):
    import json

    asked = await request.json()
    if not asked.get("stream"):
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Ready."}}
        return {"id": "c", "object": "chat.completion", "created": 1, "model": "small", "choices": [choice]}

    async def events():
        for part in (chunk({"content": "Rea"}), chunk({"content": "dy."}), chunk({}, "stop")):
            yield f"data: {json.dumps(part)}\\n\\n"
        yield "data: [DONE]\\n\\n"

    return StreamingResponse(events(), media_type="text/event-stream")


@app.get("/healthz")
async def healthz():
    return "ok"


guard = TosGuard.from_file(Path(__file__).with_name("tos-guard.toml"))
guard.install(app)
app.add_middleware(GZipMiddleware)
app.add_middleware(
    CORSMiddleware,
    allow_origins=["https://app.example.com"],
    expose_headers=["AI-Provenance", "AI-Provenance-Salt", "Content-Usage", "Content-Digest", "Link", "X-Request-ID"],
)
"""

LIMITS = """
[[limits]]
id = "tokens-per-minute"
quantity = "tokens"
amount = 100_000
window = "1m"
"""

ASKING = """
[terms]
version = "2"
title = "Terms of service"
uri = "https://api.example.com/.well-known/ai-provenance/terms/2"
text = "next.md"
effective = {effective}
acceptance = "required"
grace_days = {grace}

[[clause]]
id = "serve"
effect = "permit"
action = "generate"
text = "Accounts may use the API."
"""


@dataclass
class Installation:
    """A provider's folder, whose commands run in it.

    Attributes:
        folder: The folder.
        key: The API key of the account acme.
    """

    folder: Path
    key: str
    capsys: pytest.CaptureFixture[str]

    def run(self, *arguments: str) -> str:
        """Call a command that must succeed."""
        assert main([*arguments, "--config", str(self.folder / "tos-guard.toml")]) == 0, self.capsys.readouterr().err
        return self.capsys.readouterr().out

    def doctor(self, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
        """The exit code, and whatever is not in order by its code."""
        code = main(["doctor", "--config", str(self.folder / "tos-guard.toml"), "--json", *arguments])
        out, err = self.capsys.readouterr()
        assert err == "", err
        document = json.loads(out)
        assert document.keys() == {"version", "problems", "warnings", "checks"}
        wrong = [check for check in document["checks"] if check["level"] != "ok"]
        assert document["problems"] == sum(check["level"] == "problem" for check in wrong)
        assert code == (1 if document["problems"] else 0)
        assert all(check["what"] and check["where"] and check["cure"] for check in wrong), wrong
        assert document["checks"][0]["code"] == "settings"
        return code, {check["code"]: check for check in wrong}

    def edit(self, name: str, old: str, new: str) -> None:
        """Change a file."""
        path = self.folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    def append(self, text: str, *, name: str = "tos-guard.toml") -> None:
        """Add to a file's end."""
        path = self.folder / name
        path.write_text(path.read_text() + text)

    def store(self) -> SQLiteStore:
        """Its store."""
        return SQLiteStore(self.folder / "tos-guard.db", issuer=ISSUER, clock=lambda: datetime.now(UTC))

    @property
    def keys(self) -> KeyFolder:
        """Its keys."""
        return KeyFolder(self.folder / "keys")

    def rewrite_keys(self, change: Callable[[KeyRecord], KeyRecord | None]) -> None:
        """Change the registry, as no command of ours would."""
        history = self.keys.history()
        kept = tuple(changed for key in history.keys if (changed := change(key)) is not None)
        self.keys._write(replace(history, keys=kept))


def make(folder: Path, capsys: pytest.CaptureFixture[str]) -> Installation:
    assert main(["init", str(folder), "--issuer", ISSUER]) == 0
    capsys.readouterr()
    made = Installation(folder, "", capsys)
    made.append(LIMITS)
    made.run("accounts", "add", "acme", "--model", "small")
    made.key = made.run("accounts", "key", "acme").strip()
    (folder / "shop.py").write_text(SHOP)
    return made


@pytest.fixture
def installed(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Installation:
    """A healthy installation, the current folder."""
    monkeypatch.delenv("TOS_GUARD_CONFIG", raising=False)
    made = make(tmp_path / "provider", capsys)
    monkeypatch.chdir(made.folder)
    return made


@pytest.fixture
def served(installed: Installation) -> Iterator[tuple[Installation, str]]:
    """A healthy installation with its application on loopback."""
    spec = importlib.util.spec_from_file_location("served_shop", installed.folder / "shop.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with serve_app(module.app) as base_url:
        yield installed, base_url


# Healthy


def test_a_healthy_installation_has_no_problem_and_no_warning(served: tuple[Installation, str]) -> None:
    """Settings, keys, files, clock, terms, accounts, limits, modes, middleware, routes, documents, a response and a stream."""
    installed, base_url = served
    assert installed.doctor("--app", "shop:app", "--url", base_url, "--api-key", installed.key) == (0, {})


def test_a_proxy_that_passes_everything_on_is_no_problem(served: tuple[Installation, str]) -> None:
    installed, base_url = served
    with changing_proxy(base_url, collects=False) as proxy:
        assert installed.doctor("--url", proxy.url, "--api-key", installed.key) == (0, {})


def test_the_words_say_what_the_document_says(installed: Installation) -> None:
    """For people: a line for each check, what to do under it, and the sum."""
    installed.edit("tos-guard.toml", 'keys = "keys"', 'keys = "keys"\nmode = "monitor"')
    assert main(["doctor"]) == 0
    lines = installed.capsys.readouterr().out.splitlines()
    assert lines[0].startswith("✓ ok       settings  tos-guard.toml: read")
    at = next(number for number, line in enumerate(lines) if line.startswith("! warning  monitor-mode"))
    assert 'Set mode = "enforce"' in lines[at + 1]
    assert re.fullmatch(r"0 problems, 1 warnings, \d+ checks in order", lines[-1])


def test_looking_changes_nothing(installed: Installation) -> None:
    def state() -> dict[str, bytes]:
        found = [path for path in installed.folder.rglob("*") if path.is_file() and path.suffix not in {".lock", ".pyc"}]
        return {str(path): path.read_bytes() for path in found if not path.name.endswith(("-wal", "-shm"))}

    before = state()
    installed.doctor()
    assert state() == before


# The installation


def key_ends(key: KeyRecord) -> KeyRecord:
    ends = int((datetime.now(UTC) + timedelta(days=3)).timestamp())
    return key.with_times(not_after=ends) if key.purpose is KeyPurpose.PROVENANCE else key


def key_is_old(key: KeyRecord) -> KeyRecord:
    began = int((datetime.now(UTC) - timedelta(days=800)).timestamp())
    return key.with_times(not_before=began) if key.purpose is KeyPurpose.PROVENANCE else key


def history_lags(installed: Installation) -> None:
    path = installed.folder / "keys" / "key-history.jwt"
    before = path.read_text()
    installed.run("keys", "rotate", "--lead", "2h")
    path.write_text(before)


def record_of_tomorrow(installed: Installation) -> None:
    started = int((datetime.now(UTC) + timedelta(hours=5)).timestamp() * 1000)
    with installed.store() as store:
        store.append(sample_record("r1", issuer=ISSUER, started=started, finished=started)).result(30)


def terms_asking(*, days: int, grace: int = 0, accepted: bool = False) -> Callable[[Installation], None]:
    """Publish terms that must be accepted, which take effect so many days from now."""

    def plant(installed: Installation) -> None:
        installed.edit("tos-guard.toml", 'keys = "keys"', 'keys = "keys"\naccount_routes = "/account"')
        first = ASKING.replace('"2"', '"1b"').replace("/terms/2", "/terms/1b").replace("next.md", "first.md")
        if accepted:  # who never accepted has no grace
            (installed.folder / "first.md").write_text("# First\n")
            (installed.folder / "first.toml").write_text(first.format(effective="2026-11-02", grace=0))
            installed.run("terms", "publish", str(installed.folder / "first.toml"))
            installed.run("accounts", "accept", "acme", "--by", "jane")
        effective = datetime.now(UTC).date() + timedelta(days=days)
        (installed.folder / "next.md").write_text("# Next\n")
        (installed.folder / "next.toml").write_text(ASKING.format(effective=effective, grace=grace))
        installed.run("terms", "publish", str(installed.folder / "next.toml"))

    return plant


def asking_nowhere(installed: Installation) -> None:
    terms_asking(days=-1)(installed)
    installed.run("accounts", "accept", "acme", "--by", "jane")
    installed.edit("tos-guard.toml", 'account_routes = "/account"\n', "")


def damaged_account(installed: Installation) -> None:
    with sqlite3.connect(installed.folder / "tos-guard.db") as connection:
        connection.execute("UPDATE account SET document = '{}'")
    connection.close()


def not_yet_in_effect(installed: Installation) -> None:
    for path in installed.folder.glob("tos-guard*.db*"):
        path.unlink()
    installed.edit("terms/minimal.toml", "effective = 2026-11-01", "effective = 2099-01-01")
    installed.run("accounts", "add", "acme", "--model", "small")


def unsealed_duty(installed: Installation) -> None:
    for path in installed.folder.glob("tos-guard*.db*"):
        path.unlink()
    clause = '\n[[clause]]\nid = "mark"\neffect = "oblige"\naction = "generate"\nduties = ["watermark"]\ntext = "Marked."\n'
    installed.append(clause, name="terms/minimal.toml")
    installed.run("accounts", "add", "acme", "--model", "small")


def region_without_source(installed: Installation) -> None:
    for path in installed.folder.glob("tos-guard*.db*"):
        path.unlink()
    clause = '\n[[clause]]\nid = "not-there"\neffect = "prohibit"\naction = "generate"\nwhen = { region = "KP" }\ntext = "Not there."\n'
    installed.append(clause, name="terms/minimal.toml")
    installed.run("accounts", "add", "acme", "--model", "small")


def odd_terms(installed: Installation) -> None:
    for path in installed.folder.glob("tos-guard*.db*"):
        path.unlink()
    installed.edit("terms/minimal.toml", "effective = 2026-11-01", "effective = 2026-11-01\ngrace_days = 5")
    installed.run("accounts", "add", "acme", "--model", "small")


def shadowed_clause(installed: Installation) -> None:
    for path in installed.folder.glob("tos-guard*.db*"):
        path.unlink()
    clause = '\n[[clause]]\nid = "maybe"\neffect = "prohibit"\naction = "embed"\nshadow = true\ntext = "Perhaps not."\n'
    installed.append(clause, name="terms/minimal.toml")
    installed.run("accounts", "add", "acme", "--model", "small")


WEBHOOK = '\n[[webhooks]]\nname = "trust"\nsecret = "env:NO_SUCH_VARIABLE"\nmay = ["standing"]\n'
SOURCE = '\n[[entitlements]]\nname = "crm"\nurl = "http://127.0.0.1:9/entitlements.json"\n'


def silent_source(installation: Installation) -> None:
    """A source that does not answer."""
    installation.append(SOURCE)
    assert main(["entitlements", "pull", "crm", "--config", str(installation.folder / "tos-guard.toml")]) == 3
    installation.capsys.readouterr()


def lapsed_source(installation: Installation) -> None:
    """A source that was heard last a month ago."""
    installation.append(SOURCE)
    state = SourceState(heard=datetime(2026, 11, 1, tzinfo=UTC), failed=datetime.now(UTC), failure="no answer", lapsed=True)
    with installation.store() as store:
        store.put_turn("entitlements:crm", state=state.text())


PLANTED: dict[str, tuple[str, Callable[[Installation], object]]] = {
    "a setting that is none": ("settings", lambda i: i.edit("tos-guard.toml", "issuer =", "isuer =")),
    "settings that are gone": ("settings", lambda i: (i.folder / "tos-guard.toml").unlink()),
    "a store that others may read": ("store-permissions", lambda i: (i.folder / "tos-guard.db").chmod(0o644)),
    "records that others may read": ("store-permissions", lambda i: (i.folder / "tos-guard.records.db").chmod(0o640)),
    "a store that is another program's": ("store", lambda i: (i.folder / "tos-guard.db").write_bytes(b"no database at all" * 100)),
    "a private key that others may read": ("key-file", lambda i: next((i.folder / "keys").glob("*.key")).chmod(0o640)),
    "a folder of keys that others may write to": ("keys-folder-permissions", lambda i: (i.folder / "keys").chmod(0o770)),
    "no keys": ("keys", lambda i: (i.folder / "keys" / "registry.json").unlink()),
    "no key for receipts": ("no-receipt-key", lambda i: i.rewrite_keys(lambda key: None if key.purpose is KeyPurpose.RECEIPT else key)),
    "no key for tokens": ("no-signing-key", lambda i: i.rewrite_keys(lambda k: None if k.purpose is KeyPurpose.PROVENANCE else k)),
    "a key that ends and no other follows": ("key-ends", lambda i: i.rewrite_keys(key_ends)),
    "a key that has signed for two years": ("key-old", lambda i: i.rewrite_keys(key_is_old)),
    "a key that signs before verifiers can know it": ("key-published-late", lambda i: i.run("keys", "rotate", "--lead", "1m")),
    "keys of another issuer": (
        "keys-of-another-issuer",
        lambda i: i.keys._write(replace(i.keys.history(), issuer="https://other.example")),
    ),
    "a key history that lags": ("key-history", history_lags),
    "a clock that went back": ("clock-behind", record_of_tomorrow),
    "terms that are gone": ("terms-file", lambda i: (i.folder / "terms" / "minimal.md").unlink()),
    "terms that were changed after they were published": (
        "terms-changed",
        lambda i: i.edit("terms/minimal.toml", "may use", "may not use"),
    ),
    "terms that nobody is under yet": ("no-terms-in-force", not_yet_in_effect),
    "a fact that nobody asserts": ("fact-without-source", region_without_source),
    "a duty that nobody keeps": ("duty-not-kept", unsealed_duty),
    "a grace that never counts": ("terms-odd", odd_terms),
    "a clause in shadow": ("clause-in-shadow", shadowed_clause),
    "terms that an account has not accepted": ("terms-not-accepted", terms_asking(days=-1)),
    "terms that take effect soon and are not accepted": ("grace-ends-soon", terms_asking(days=5)),
    "a grace that ends soon": ("grace-ends-soon", terms_asking(days=-1, grace=7, accepted=True)),
    "terms that nobody is told where to accept": ("nowhere-to-accept", asking_nowhere),
    "an account that cannot be read": ("store", damaged_account),
    "an amount of a limit that is not there": (
        "unknown-limit",
        lambda i: (
            i.run("accounts", "limit", "acme", "tokens-per-minute", "900000"),
            i.edit("tos-guard.toml", '\nid = "tokens-per-minute"', '\nid = "tokens"'),
        ),
    ),
    "a limit that no request fits into": ("limit-never-met", lambda i: i.edit("tos-guard.toml", "amount = 100_000", "amount = 2_000")),
    "a burst that no request fits into": ("limit-never-met", lambda i: i.append("burst = 1_000\n")),
    "an account's amount that no request fits into": (
        "limit-never-met",
        lambda i: i.run("accounts", "limit", "acme", "tokens-per-minute", "100"),
    ),
    "a model that gives more than a limit": ("limit-never-met", lambda i: i.append("\n[models.small]\nmax_output_tokens = 200_000\n")),
    "a limit in shadow": ("limit-in-shadow", lambda i: i.append("shadow = true\n")),
    "monitor mode": ("monitor-mode", lambda i: i.edit("tos-guard.toml", 'keys = "keys"', 'keys = "keys"\nmode = "monitor"')),
    "a signer that may fail": ("permissive-failure-mode", lambda i: i.append('\n[failure]\nsigner = "allow"\n')),
    "limits that may fail": ("permissive-failure-mode", lambda i: i.append('\n[failure]\nlimits = "allow"\n')),
    "suspensions that may go unheard": (
        "permissive-failure-mode",
        lambda i: i.append('\n[failure]\naccounts = "local"\nstale_seconds = 86_400\n'),
    ),
    "a webhook without its secret": (
        "secret-unreadable",
        lambda i: (i.edit("tos-guard.toml", 'keys = "keys"', 'keys = "keys"\nadmin_routes = "/admin"'), i.append(WEBHOOK)),
    ),
    "a source without its token": ("secret-unreadable", lambda i: i.append(SOURCE + 'token = "env:NO_SUCH_VARIABLE"\n')),
    "a source inside": ("unsafe-setting", lambda i: i.append(SOURCE + "unsafe_any_address = true\n")),
    "a source that fails": ("entitlements-silent", silent_source),
    "a source that has failed for too long": ("entitlements-lapsed", lapsed_source),
    "a name that is enough to accept": ("unsafe-setting", lambda i: i.append('\n[acceptance]\norganization = "declared"\n')),
    "stored responses that nobody can have again": (
        "stored-responses-refused",
        lambda i: i.append('\n[routes."/v1/responses"]\ndialect = "openai-responses"\n'),
    ),
    "stored responses that leave unsealed": (
        "stored-responses-exempt",
        lambda i: (
            i.append('\n[routes."/v1/responses"]\ndialect = "openai-responses"\n'),
            i.edit("tos-guard.toml", '"/healthz"', '"/healthz", "/v1/responses/*"'),
        ),
    ),
    "a guarded route that is exempt": ("guarded-route-exempt", lambda i: i.edit("tos-guard.toml", '"/healthz"', '"/healthz", "/v1/*"')),
}
WARNINGS = {
    "key-old", "key-published-late", "clause-in-shadow", "terms-not-accepted", "grace-ends-soon", "unknown-limit", "limit-in-shadow",
    "entitlements-silent",
    "nowhere-to-accept", "monitor-mode", "permissive-failure-mode", "unsafe-setting", "terms-odd", "stored-responses-refused",
}  # fmt: skip


@pytest.mark.parametrize("planted", PLANTED)
def test_it_names_and_nothing_else(installed: Installation, planted: str) -> None:
    code, plant = PLANTED[planted]
    plant(installed)
    _, wrong = installed.doctor()
    assert wrong.keys() == {code}, wrong
    assert wrong[code]["level"] == ("warning" if code in WARNINGS else "problem")


def test_a_folder_without_the_key_of_its_history_is_named(installed: Installation) -> None:
    """Nobody could rotate or revoke there, and what is published cannot be checked."""
    path = installed.folder / "keys" / "registry.json"
    registry = json.loads(path.read_text())
    registry["keys"] = [key for key in registry["keys"] if key["purpose"] != "key-history"]
    path.write_text(json.dumps(registry))
    assert installed.doctor()[1].keys() == {"no-history-key", "key-history"}


def test_a_store_on_another_machine_is_named(installed: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Linux shows its mounts; a network file system itself cannot be had in a test."""
    (installed.folder / "mounts").write_text("1 0 0:1 / / rw - nfs4 server:/ rw\n")
    monkeypatch.setattr("tos_guard.cli._doctor._installation.MOUNTS", installed.folder / "mounts")
    assert installed.doctor()[1].keys() == {"store-on-network"}


def test_a_store_that_is_not_there_is_named_and_not_made(installed: Installation) -> None:
    for path in installed.folder.glob("tos-guard*.db*"):
        path.unlink()
    assert installed.doctor()[1].keys() == {"store-missing"}
    assert not list(installed.folder.glob("tos-guard*.db*"))


# The application

GUARDED = "guard.install(app)\n"
PLANTED_APPS: dict[str, tuple[str, str, str, str]] = {
    "a route that nobody thought of": ("unguarded-routes", "problem", GUARDED, GUARDED + 'app.get("/v1/files/{id}")(healthz)\n'),
    "compression inside": ("compression-inside-guard", "problem", GUARDED, "app.add_middleware(GZipMiddleware)\n" + GUARDED),
    "CORS inside": (
        "cors-inside-guard",
        "problem",
        GUARDED,
        'app.add_middleware(CORSMiddleware, allow_origins=["*"])\n' + GUARDED,
    ),
    "CORS that hides the token": ("cors-hides-fields", "warning", 'expose_headers=["AI-Provenance", ', 'expose_headers=["X-Other", '),
    "two guards": ("two-guards", "problem", GUARDED, GUARDED + GUARDED),
    "no guard": ("no-guard", "problem", GUARDED, ""),
    "a guard in a mounted application alone": (
        "no-guard",
        "problem",
        GUARDED,
        'guard.install(app)\ninner = app\napp = FastAPI()\napp.mount("/api", inner)\n',
    ),
    "compression in a mounted application": (
        "compression-inside-guard",
        "problem",
        GUARDED,
        GUARDED
        + 'inner = FastAPI(openapi_url=None)\ninner.post("/chat/completions")(chat)\n'
        + 'inner.add_middleware(GZipMiddleware)\napp.mount("/v1", inner)\n',
    ),
    "a middleware that hides who has left": (
        "base-http-middleware",
        "warning",
        GUARDED,
        GUARDED + '\n@app.middleware("http")\nasync def timing(request, call_next):\n    return await call_next(request)\n',
    ),
    "authentication that the guard does not hear of": (
        "identify-missing",
        "warning",
        GUARDED,
        GUARDED
        + "from starlette.middleware.authentication import AuthenticationMiddleware\n"
        + "app.add_middleware(AuthenticationMiddleware, backend=None)\n",
    ),
    "authentication that comes after the guard": (
        "authentication-inside-guard",
        "problem",
        'guard = TosGuard.from_file(Path(__file__).with_name("tos-guard.toml"))\n',
        (
            "from starlette.middleware.authentication import AuthenticationMiddleware\n"
            "app.add_middleware(AuthenticationMiddleware, backend=None)\n"
            'guard = TosGuard.from_file(Path(__file__).with_name("tos-guard.toml"), identify=lambda view: view.scope["user"].id)\n'
        ),
    ),
    "a guard without its documents": (
        "documents-not-served",
        "warning",
        GUARDED,
        (
            "from tos_guard.web.asgi import TosGuardMiddleware\n"
            'guard.guard.settings = guard.guard.settings.model_copy(update={"exempt": ("/healthz", "/docs*", "/redoc", "/openapi.json")})\n'
            "app.add_middleware(TosGuardMiddleware, guard=guard.guard)\n"
        ),
    ),
    "an application that is no Starlette": (
        "routes-unknown",
        "warning",
        "guard.install(app)\n",
        (
            "from tos_guard.web.asgi import TosGuardMiddleware\n"
            "async def plain(scope, receive, send): ...\n"
            "inner, app = app, TosGuardMiddleware(plain, guard=guard.guard, documents=guard)\n"
            "app.add_middleware = inner.add_middleware\n"
        ),
    ),
    "an application that cannot be imported": ("app", "problem", "app = FastAPI()\n", "import nothing_of_this_name\n"),
    "an application that ends the process": ("app", "problem", "app = FastAPI()\n", "raise SystemExit(3)\n"),
    "an application that dies": ("app", "problem", "app = FastAPI()\n", "import os\nos._exit(7)\n"),
    "an application that prints": ("two-guards", "problem", GUARDED, GUARDED + GUARDED + 'print("{}")\n'),
}


@pytest.mark.parametrize("planted", PLANTED_APPS)
def test_in_an_application_it_names_and_nothing_else(installed: Installation, planted: str) -> None:
    code, level, old, new = PLANTED_APPS[planted]
    installed.edit("shop.py", old, new)
    _, wrong = installed.doctor("--app", "shop:app")
    assert {name: check["level"] for name, check in wrong.items()} == {code: level}, wrong


def test_the_route_that_nobody_thought_of_is_named(installed: Installation) -> None:
    installed.edit("shop.py", GUARDED, GUARDED + 'app.get("/v1/files/{id}")(healthz)\n')
    assert "/v1/files/{id}" in installed.doctor("--app", "shop:app")[1]["unguarded-routes"]["what"]


def test_a_guard_that_refuses_to_start_says_why(installed: Installation) -> None:
    region_without_source(installed)
    _, wrong = installed.doctor("--app", "shop:app")
    assert wrong.keys() == {"app", "fact-without-source"}
    assert "region" in wrong["app"]["what"]


def test_an_application_with_other_settings_is_named(installed: Installation, tmp_path: Path) -> None:
    other = make(tmp_path / "other", installed.capsys)
    shutil.copy(other.folder / "shop.py", installed.folder / "elsewhere.py")
    text = (installed.folder / "elsewhere.py").read_text()
    (installed.folder / "elsewhere.py").write_text(
        text.replace('Path(__file__).with_name("tos-guard.toml")', repr(str(other.folder / "tos-guard.toml")))
    )
    assert installed.doctor("--app", "elsewhere:app")[1].keys() == {"app-has-other-settings"}


def test_an_application_that_nobody_can_ask_is_named(installed: Installation) -> None:
    public_id = json.loads(installed.run("accounts", "show", "acme", "--json"))["keys"][0]["public_id"]
    installed.run("accounts", "revoke-key", public_id)
    assert installed.doctor("--app", "shop:app")[1].keys() == {"nobody-can-ask"}
    identifying = 'with_name("tos-guard.toml"), identify=lambda view: view.header("x-customer"))'
    installed.edit("shop.py", 'with_name("tos-guard.toml"))', identifying)
    assert installed.doctor("--app", "shop:app") == (0, {})


def test_administrators_routes_that_nobody_may_use_are_named(installed: Installation) -> None:
    installed.edit("tos-guard.toml", 'keys = "keys"', 'keys = "keys"\nadmin_routes = "/admin"')
    assert installed.doctor("--app", "shop:app")[1].keys() == {"nobody-can-administer"}
    installed.run("admin", "key", "jane")
    assert installed.doctor("--app", "shop:app") == (0, {})


def test_an_application_may_come_from_a_factory_and_be_wrapped(installed: Installation) -> None:
    installed.append("\n\ndef make():\n    return GZipMiddleware(app)\n", name="shop.py")
    assert installed.doctor("--app", "shop:make", "--factory") == (0, {})
    installed.append("\n\nclass Shop:\n    made = CORSMiddleware(app, expose_headers=['*'])\n", name="shop.py")
    assert installed.doctor("--app", "shop:Shop.made") == (0, {})


def test_what_is_mounted_under_an_exempt_path_may_compress(installed: Installation) -> None:
    installed.edit("tos-guard.toml", '"/healthz"', '"/healthz", "/console/*"')
    mounting = 'inner = FastAPI(openapi_url=None)\ninner.get("/x")(healthz)\ninner.add_middleware(GZipMiddleware)\n'
    installed.append(mounting + 'app.mount("/console", inner)\n', name="shop.py")
    assert installed.doctor("--app", "shop:app") == (0, {})


def test_what_an_application_starts_is_ended_with_the_look(installed: Installation) -> None:
    """A process that it left running would hold the store, or a port."""
    installed.append("\nimport subprocess\nPath('pid').write_text(str(subprocess.Popen(['sleep', '600']).pid))\n", name="shop.py")
    installed.doctor("--app", "shop:app")
    pid = int((installed.folder / "pid").read_text())
    status = Path(f"/proc/{pid}/stat")
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


# Over the network


def stripping(*names: str) -> Change:
    return lambda passed: passed.without(*names)


def only_for(path: str, change: Change) -> Change:
    return lambda passed: change(passed) if passed.path == path else passed


def without_tag(passed: Passed) -> Passed:
    """A gateway that parses bodies and writes what it knows of them."""
    if passed.media_type != "application/json" or b"ai_provenance" not in passed.body or passed.path != CHAT:
        return passed
    document = json.loads(passed.body)
    del document["ai_provenance"]
    return replace(passed, body=json.dumps(document).encode())


def respelled(passed: Passed) -> Passed:
    """The same JSON in other bytes."""
    if passed.media_type != "application/json" or passed.path != CHAT:
        return passed
    return replace(passed, body=json.dumps(json.loads(passed.body), indent=2).encode())


def reworded(passed: Passed) -> Passed:
    return replace(passed.without("content-digest") if passed.path == CHAT else passed, body=passed.body.replace(b"Ready.", b"Steady."))


def unstreamed(passed: Passed) -> Passed:
    return passed.having("Content-Type", "text/plain") if passed.media_type == "text/event-stream" else passed


def zipped(passed: Passed) -> Passed:
    if passed.path != CHAT or passed.media_type == "text/event-stream":
        return passed
    return replace(passed, body=gzip.compress(passed.body)).having("Content-Encoding", "gzip")


def rewritten(path: str, **members: Any) -> Change:
    """A document with other members."""
    return only_for(path, lambda passed: replace(passed, body=json.dumps(json.loads(passed.body) | members).encode()))


def with_another_key(passed: Passed) -> Passed:
    """A key set with a key that is not in the key folder."""
    document = json.loads(passed.body)
    document["keys"].append(made_key("other")[1].to_jwk())
    return replace(passed, body=json.dumps(document).encode())


def answered(path: str, status: int, **fields: str) -> Change:
    def change(passed: Passed) -> Passed:
        made = replace(passed, status=status, body=b"")
        for name, value in fields.items():
            made = made.having(name, value)
        return made

    return only_for(path, change)


METADATA, JWKS = "/.well-known/ai-provenance", "/.well-known/jwks.json"
YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).strftime("%a, %d %b %Y %H:%M:%S GMT")

PLANTED_PROXIES: dict[str, tuple[set[str], Change, bool]] = {
    "strips the token's field": ({"fields-stripped"}, stripping("ai-provenance"), False),
    "strips all fields it does not know": (
        {"fields-stripped"},
        stripping("ai-provenance", "ai-provenance-salt", "content-digest", "link"),
        False,
    ),
    "drops the tag from bodies": ({"tag-stripped"}, without_tag, False),
    "drops the tag wherever it is": ({"not-sealed"}, lambda passed: without_tag(passed).without("ai-provenance"), False),
    "compresses unasked": ({"re-encoded"}, zipped, False),
    "writes JSON anew": ({"content-changed"}, respelled, False),
    "changes what was said": ({"fields-stripped", "does-not-verify"}, reworded, False),
    "collects event streams": ({"stream-buffered"}, lambda passed: passed, True),
    "publishes another issuer": ({"wrong-issuer"}, rewritten(METADATA, issuer="https://other.example"), False),
    "publishes other keys": ({"wrong-keys"}, rewritten(JWKS, keys=[made_key("other")[1].to_jwk()]), False),
    "publishes more keys": ({"wrong-keys"}, only_for(JWKS, with_another_key), False),
    "publishes no keys": ({"documents-changed"}, rewritten(JWKS, keys=[]), False),
    "does not know the documents": ({"documents-missing"}, answered(METADATA, 404), False),
    "leads elsewhere": ({"redirected"}, answered(METADATA, 301, Location="https://www.example.com/"), False),
    "answers with a page of its own": ({"documents-changed"}, only_for(JWKS, lambda passed: replace(passed, body=b"<html>")), False),
    "serves yesterday": ({"clock-differs"}, lambda passed: passed.having("Date", YESTERDAY), False),
    "serves other terms": ({"wrong-terms"}, only_for(f"{METADATA}/terms/1", lambda passed: replace(passed, body=b"{}")), False),
    "names other terms": ({"wrong-terms"}, rewritten(METADATA, terms_uri=f"{ISSUER}{METADATA}/terms/0"), False),
    "answers for the application": ({"request-failed"}, answered(CHAT, 502), False),
    "cannot stream": ({"stream-collected"}, unstreamed, True),
    "adds fields without end": ({"head-too-large"}, only_for(CHAT, lambda passed: passed.having("X-Trace", "t" * 3_000)), False),
}


@pytest.mark.parametrize("planted", PLANTED_PROXIES)
def test_of_a_proxy_it_names_and_nothing_else(served: tuple[Installation, str], planted: str) -> None:
    codes, change, collects = PLANTED_PROXIES[planted]
    installed, base_url = served
    with changing_proxy(base_url, change, collects=collects) as proxy:
        _, wrong = installed.doctor("--url", proxy.url, "--api-key", installed.key)
    assert wrong.keys() == codes, wrong


def test_a_proxy_that_compresses_streams_is_named(served: tuple[Installation, str]) -> None:
    installed, base_url = served
    with changing_proxy(base_url, collects=False, compresses_streams=True) as proxy:
        _, wrong = installed.doctor("--url", proxy.url, "--api-key", installed.key)
    assert {name: check["level"] for name, check in wrong.items()} == {"stream-compressed": "warning"}


def test_a_certificate_that_nobody_vouches_for_is_named(served: tuple[Installation, str], tmp_path: Path) -> None:
    installed, _ = served
    certificate, key = self_signed(tmp_path)
    with serve_app(FastAPI(), ssl_certfile=str(certificate), ssl_keyfile=str(key)) as base:
        _, wrong = installed.doctor("--url", base.replace("http://127.0.0.1", "https://localhost"), "--api-key", installed.key)
    assert wrong.keys() == {"tls"}


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    present = datetime.now(UTC)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(present - timedelta(hours=1))
    made = builder.not_valid_after(present + timedelta(hours=1)).sign(key, SHA256())
    (folder / "cert.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "cert.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / "cert.pem", folder / "cert.key"


def test_the_stripped_fields_are_named(served: tuple[Installation, str]) -> None:
    installed, base_url = served
    with changing_proxy(base_url, stripping("ai-provenance-salt", "link"), collects=False) as proxy:
        _, wrong = installed.doctor("--url", proxy.url, "--api-key", installed.key)
    assert "without AI-Provenance-Salt, Link" in wrong["fields-stripped"]["what"]


def test_a_key_that_was_revoked_and_is_still_published_is_named(served: tuple[Installation, str]) -> None:
    """A cache in front of the key set, from before."""
    installed, base_url = served
    with changing_proxy(base_url, collects=False) as proxy:
        assert installed.doctor("--url", proxy.url)[1] == {}
    history = (installed.folder / "keys" / "key-history.jwt").read_bytes()
    installed.run("keys", "rotate", "--lead", "2h")
    with changing_proxy(
        base_url, only_for(f"{METADATA}/key-history", lambda passed: replace(passed, body=history)), collects=False
    ) as proxy:
        assert installed.doctor("--url", proxy.url)[1].keys() == {"stale-documents"}


def test_another_server_with_keys_of_its_own_is_named(served: tuple[Installation, str], tmp_path: Path) -> None:
    """Its tokens are genuine, and nobody who pinned these keys can verify them."""
    installed, base_url = served
    other = make(tmp_path / "other", installed.capsys)
    _, wrong = other.doctor("--url", base_url, "--api-key", installed.key, "--model", "small")
    assert wrong.keys() == {"wrong-keys", "does-not-verify"}


def test_http_beyond_this_machine_is_named_and_gets_no_key(served: tuple[Installation, str]) -> None:
    installed, base_url = served
    with changing_proxy(base_url, collects=False, host="127.0.0.2") as proxy:
        _, wrong = installed.doctor("--url", proxy.url, "--api-key", installed.key)
    assert wrong.keys() == {"plain-http"}
    assert proxy.asked
    assert all("authorization" not in fields for _, _, fields in proxy.asked)


def test_nobody_there_is_named_once(installed: Installation) -> None:
    with changing_proxy("http://127.0.0.1:9") as proxy:
        gone = proxy.url
    assert installed.doctor("--url", gone, "--api-key", installed.key)[1].keys() == {"unreachable"}


def test_a_refusal_of_the_guard_is_told_as_one(served: tuple[Installation, str]) -> None:
    installed, base_url = served
    _, wrong = installed.doctor("--url", base_url, "--api-key", installed.key, "--model", "large")
    assert wrong.keys() == {"request-refused"}
    assert "tos_model_not_allowed" in wrong["request-refused"]["what"]
    _, wrong = installed.doctor("--url", base_url, "--api-key", "tg-wrong", "--model", "small")
    assert "tos_unauthenticated" in wrong["request-refused"]["what"]


def test_a_key_may_come_from_a_file_and_is_never_shown(served: tuple[Installation, str]) -> None:
    installed, base_url = served
    (installed.folder / "key").write_text(f"{installed.key}\n")
    assert main(["doctor", "--url", base_url, "--api-key", "@key"]) == 0
    out, err = installed.capsys.readouterr()
    assert installed.key not in out + err


HOSTILE = [b"", b"[]", b"null", b'{"issuer":5,"keys":{},"terms_uri":[]}', b"[" * 100_000, b"\xff\x00" * 1_000, b'{"error":[1],"code":{}}']


@pytest.mark.parametrize("path", [METADATA, JWKS, f"{METADATA}/key-history", f"{METADATA}/terms/1", CHAT])
def test_a_server_that_answers_nonsense_is_no_defect_of_ours(served: tuple[Installation, str], path: str) -> None:
    """Whatever comes, it is a problem with a name, and no traceback."""
    installed, base_url = served
    for body in HOSTILE:
        for status in (200, 500):
            nonsense: Change = only_for(path, lambda p, b=body, s=status: replace(p, status=s, body=b).having("Date", "Mon, 99 Foo"))  # type: ignore[misc]
            with changing_proxy(base_url, nonsense) as proxy:
                code, wrong = installed.doctor("--url", proxy.url, "--api-key", installed.key)
            assert (code, bool(wrong)) == (1, True), (body[:40], status)


def test_an_answer_that_does_not_end_is_left(installed: Installation) -> None:
    """A megabyte more than any answer of ours, again and again."""

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        for _ in range(64):
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    with serve_app(endless, lifespan="off") as base_url:
        _, wrong = installed.doctor("--url", base_url)
    assert wrong.keys() == {"unreachable"}
    assert "did not end" in wrong["unreachable"]["what"]


def test_without_settings_it_still_looks_at_what_arrives(served: tuple[Installation, str]) -> None:
    """From a customer's machine: the published keys are all there is to go by."""
    installed, base_url = served
    (installed.folder / "tos-guard.toml").rename(installed.folder / "hidden")
    asking = ("--url", base_url, "--api-key", installed.key, "--model", "small")
    with pytest.raises(AssertionError):
        installed.doctor(*asking)
    installed.capsys.readouterr()
    assert main(["doctor", *asking]) == 2  # which path?
    installed.capsys.readouterr()
    _, wrong = installed.doctor(*asking, "--path", CHAT)
    assert wrong.keys() == {"settings", "wrong-issuer"}  # the address is this machine's, and the issuer is not


# Usage


@pytest.mark.parametrize(
    "arguments",
    [
        ("--factory",), ("--app", "shop"), ("--app", "shop:app; import os"), ("--app", "../shop:app"), ("--url", "api.example.com"),
        ("--url", "https://api.example.com/v1"), ("--url", "ftp://x"), ("--url", "https://a@b"), ("--url", "http://x:99999"),
        ("--api-key", "k"), ("--model", "m"), ("--path", "/p"), ("--url", "http://localhost:1", "--api-key", ""),
        ("--url", "http://localhost:1", "--api-key", "@no"), ("--url", "http://localhost:1", "--api-key", "a\nb"),
    ],
)  # fmt: skip
def test_what_cannot_be_carried_out_exits_2_in_one_line(installed: Installation, arguments: tuple[str, ...]) -> None:
    assert main(["doctor", *arguments]) == 2
    out, err = installed.capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)


def test_the_exit_code_reaches_the_shell(installed: Installation, root: Path) -> None:
    command = [sys.executable, "-m", "tos_guard.cli", "doctor", "--config", str(installed.folder / "tos-guard.toml")]
    assert subprocess.run(command, cwd=root, capture_output=True, check=False, timeout=60).returncode == 0
    (installed.folder / "tos-guard.db").chmod(0o644)
    assert subprocess.run(command, cwd=root, capture_output=True, check=False, timeout=60).returncode == 1
