"""A guarded provider on a real server to which everything happens that telemetry tells of, with marks by which a leak would be found."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from authorization_server import Served
from kit import CHAT, Kit
from tos_guard.errors import StoreError
from tos_guard.guard import Meter, utc_now
from tos_guard.limits import Dimension, Limit, Quantity, Sliding
from tos_guard.remote import BearerVerifier
from tos_guard.stores import FallbackLimits, FileSigner, KeyFolder, MemoryLimits, load_terms
from tos_guard.telemetry import Telemetry
from tos_guard.types import KeyPurpose, Standing, SubjectKind
from tos_guard_fastapi import TosGuard

__all__ = ["ADDRESS", "Watched"]

PROMPT = "prompt-7e1f-of-the-account"
OUTPUT = "output-93ab-of-the-model"
END_USER = "person-51c0@example.net"
ADDRESS = "127.83.91.7"
"""Where the clients come from: on Linux all of 127/8 is this machine."""


CUSTOMER = "initech-corp"
"""An organization with a contract of its own, which bears its name."""

PERSON = "signatory-04de"
"""Who accepts terms for the account."""

TERMS = """\
[terms]
version = "2026-11"
title = "Terms of service"
uri = "https://api.example.com/.well-known/ai-provenance/terms/2026-11"
text = "terms.md"
effective = 2026-11-01

[[clause]]
id = "serve"
effect = "permit"
action = ["generate", "classify"]
text = "Accounts may use the API."

[[clause]]
id = "no-bulk"
effect = "prohibit"
action = ["generate"]
when = { purpose = ["bulk"] }
text = "Not in bulk."

[[clause]]
id = "no-drafts"
effect = "prohibit"
action = ["generate"]
shadow = true
when = { purpose = ["draft"] }
text = "Not for drafts: to be seen before it holds."

[[clause]]
id = "no-competing-model"
effect = "prohibit"
action = ["train-competing-model", "distil"]
text = "Output may not be used to train competing models."
"""
MORE_TERMS = """\
[terms]
version = "{version}"
series = "{series}"
{confined}
acceptance = "required"
title = "More terms"
uri = "https://api.example.com/.well-known/ai-provenance/terms/{version}"
text = "terms.md"
effective = 2026-11-01

[[clause]]
id = "no-distilling"
effect = "prohibit"
action = ["distil"]
text = "Its output may not be used to distil a model."
"""
TEXT = "Accounts may use the API. Not in bulk. Not for drafts. Output may not be used to train competing models.\n"

LIMITS = (
    Limit(id="slots", quantity=Quantity.CONCURRENCY, amount=1000, per=(Dimension.ACCOUNT,), window=None),
    Limit(id="hourly-prompts", quantity=Quantity.INPUT_TOKENS, amount=20_000, per=(Dimension.ACCOUNT,), window=Sliding(3600)),
    Limit(id="tight", quantity=Quantity.REQUESTS, amount=1, per=(Dimension.ACCOUNT,), window=Sliding(3600), shadow=True),
)


def completion(**members: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": OUTPUT}
    return {"id": "chatcmpl-1", "model": "small", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], **members}


def event(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


class BreakableLimits(MemoryLimits):
    """An engine that fails on demand."""

    broken = False

    def reserve(self, charges: Any, *, id: str, lease: timedelta) -> Any:  # noqa: A002 - as the Protocol names it
        """As `MemoryLimits.reserve`.

        Raises:
            StoreError: It is broken.
        """
        if self.broken:
            raise StoreError("told to fail", where="BreakableLimits")
        return super().reserve(charges, id=id, lease=lease)


@dataclass
class Watched:
    """A provider.

    Attributes:
        folder: Where its terms and keys are made.
        telemetry: Of both its guards.
        server: An authorization server whose bearer tokens they take.
        fastapi: What ``FastAPI(telemetry=…)`` takes, for the server's own spans.
    """

    folder: Path
    telemetry: Telemetry
    server: Served
    fastapi: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / "terms.md").write_text(TEXT)
        (self.folder / "terms.toml").write_text(TERMS)
        keys = KeyFolder(self.folder / "keys")
        keys.create("https://api.example.com", now=utc_now() - timedelta(minutes=1))
        self.telemetry.watch_keys(lambda: keys.history().keys)
        self.telemetry.watch_hearing(lambda: [0.2])
        self.bearer = BearerVerifier([(self.server.policy(), self.server.source(clock=utc_now, monotonic=time.monotonic))])
        self.engine = BreakableLimits(clock=utc_now)
        self.kit = self._kit("enforce")
        self.monitoring = self._kit("monitor")
        self.bearer.refresh()
        self.app = self._app(self.kit, keys)
        self.monitoring_app = self._app(self.monitoring, keys)
        self.secrets = (
            self.kit.account.id,
            self.kit.key,
            self.kit.guard.end_user_hash(self.kit.account.id, END_USER),
            PROMPT,
            OUTPUT,
            END_USER,
            PERSON,
            CUSTOMER,
            ADDRESS,
        )

    def _kit(self, mode: str) -> Kit:
        settings = {"mode": mode, "failure": {"signer": "allow", "records": "allow", "limits": "allow"}}
        overrides = {
            "telemetry": self.telemetry,
            "meter": Meter(LIMITS),
            "limits": self._limits(),
            "bearer": self.bearer,
            "receipts": FileSigner(self.folder / "keys", purpose=KeyPurpose.RECEIPT),
            "clock": utc_now,
        }
        kit = Kit(settings=settings, overrides=overrides, terms=self.folder / "terms.toml")
        kit.guard.store = kit.store
        return kit

    def _limits(self) -> FallbackLimits:
        """As the settings file makes it; but an engine that has failed is tried again at once."""
        seconds = itertools.count(step=10)

        def used(operation: str, mode: str, failure: StoreError) -> None:
            self.telemetry.failed("limits", failure)

        def changed(failure: StoreError | None) -> None:
            self.telemetry.engine_changed("limits", "answered" if failure is None else "failed")

        self.telemetry.watch_engine("limits")
        return FallbackLimits(self.engine, mode="allow", on_use=used, clock=utc_now, monotonic=lambda: next(seconds), on_change=changed)

    def _publish(self, series: str, confined: str) -> str:
        """New terms beside the general ones, as an administrator publishes them while the provider runs."""
        version = f"{series}-{len(self.kit.store.terms_versions())}"
        (self.folder / "more.toml").write_text(MORE_TERMS.format(version=version, series=series, confined=confined))
        self.kit.store.publish_terms(load_terms(self.folder / "more.toml"))
        return version

    def _app(self, kit: Kit, keys: KeyFolder) -> FastAPI:
        app = FastAPI(telemetry=self.fastapi)  # type: ignore[call-arg]

        @app.post(CHAT)
        async def chat(request: Request) -> Any:
            asked = request.headers.get("x-case", "json")
            if asked == "raise":
                raise RuntimeError(OUTPUT)
            if asked == "foreign tag":
                return completion(ai_provenance={"token": OUTPUT})
            if asked == "large":
                return StreamingResponse(_bytes(), media_type="application/octet-stream")
            if asked in ("stream", "endless", "late"):
                return StreamingResponse(_events(asked), media_type="text/event-stream")
            return completion()

        TosGuard(kit.guard, keys=keys).install(app)
        return app

    def close(self) -> None:
        """Stop asking for keys."""
        self.bearer.close()

    def drive(self, url: str, monitoring_url: str) -> None:
        """Let everything happen once or more."""
        # A connection for each: after a handler has raised the server closes one that the client would use again.
        transport = httpx.HTTPTransport(local_address=ADDRESS, limits=httpx.Limits(max_keepalive_connections=0))
        with httpx.Client(transport=transport, timeout=30) as client:

            def ask(case: str = "json", *, key: str | None = self.kit.key, base: str = url, path: str = CHAT, **changes: Any) -> int:
                headers = {"x-case": case, "ai-usage-purpose": changes.pop("purpose", "chat")}
                if key is not None:
                    headers["authorization"] = f"{changes.pop('scheme', 'Bearer')} {key}"
                content = changes.pop("content", PROMPT)
                body = {"model": "small", "messages": [{"role": "user", "content": content}], "user": END_USER, **changes}
                with client.stream("POST", base + path, json=body, headers=headers) as answer:
                    if case == "endless":
                        next(answer.iter_bytes())
                    else:
                        answer.read()
                return answer.status_code

            statuses = {
                "allowed": ask(),
                "in shadow": ask(purpose="draft"),
                "stream": ask("stream", stream=True),
                "late events": ask("late", stream=True),
                "foreign tag": ask("foreign tag"),
                "without a carrier": ask("large"),
                "client gone": ask("endless", stream=True),
                "raised": ask("raise"),
                "denied by a clause": ask(purpose="bulk"),
                "no such model": ask(model="another"),
                "over a limit": ask(content=PROMPT * 2_000),
                "unauthenticated": ask(key=None),
                "bearer token of nobody": ask(key="nonsense"),
                "proof for what is not bound": ask(scheme="DPoP"),
                "malformed": ask(purpose="!"),
                "no route": ask(path="/v1/elsewhere"),
                "monitored": ask(key=self.monitoring.key, base=monitoring_url, purpose="bulk"),
                "monitored before a decision": ask(key=None, base=monitoring_url),
            }
            self.telemetry.changed("standing", standing=Standing.WARNED)  # as the router for administrators tells it
            self.telemetry.hearing("unheard")  # as a store across a network tells it
            self.telemetry.hearing("heard")
            self._publish(CUSTOMER, f'organization = "{CUSTOMER}"')
            guard, version = self.kit.guard, self._publish("catalogue", 'models = ["catalogue"]')
            statuses["not accepted"] = ask(model="catalogue")
            accept = guard.record_acceptance(SubjectKind.ACCOUNT, self.kit.account.id, version, accepted_by=PERSON)
            made = asyncio.run(guard.run(accept))
            statuses["accepted"] = ask(model="catalogue")
            asyncio.run(guard.run(guard.record_withdrawal(made.id, withdrawn_by=PERSON)))
            self.kit.signer.failing = True
            statuses["signer down"] = ask()
            self.kit.signer.failing = False
            self.kit.store.fault = "before"
            statuses["store down"] = ask()
            self.kit.store.fault = None
            self.engine.broken = True
            statuses["limits down"] = ask()
            self.engine.broken = False
        refused = {
            "raised": 500,
            "over a limit": 429,
            "unauthenticated": 401,
            "bearer token of nobody": 401,
            "proof for what is not bound": 401,
            "malformed": 400,
            "no route": 404,
        }
        forbidden = ("denied by a clause", "no such model", "not accepted")
        expected = {name: refused.get(name, 403 if name in forbidden else 200) for name in statuses}
        assert statuses == expected, {name: status for name, status in statuses.items() if status != expected[name]}


async def _events(case: str) -> AsyncIterator[bytes]:
    yield event(OUTPUT)
    if case == "endless":
        for _ in range(10_000):
            await asyncio.sleep(0.01)
            yield event(OUTPUT)
    yield event("", "stop")
    yield b"data: [DONE]\n\n"
    if case == "late":
        yield event(OUTPUT)


async def _bytes() -> AsyncIterator[bytes]:
    yield OUTPUT.encode()
