"""A provider whose terms are to be accepted, in memory: what tests of accepting and of the routes for people start from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from tos_guard.config import GuardSettings
from tos_guard.errors import RequestError
from tos_guard.guard import Guard, RequestView
from tos_guard.keys import KeySet
from tos_guard.rights import Account, AuthorizedPerson, Grant, Holder, Organization, hash_secret, new_admin_key, new_api_key
from tos_guard.terms import TermsVersion, parse_terms
from tos_guard.testing import FixedClock, MemoryStore, SeededEntropy, SeededSigner
from tos_guard.types import KeyPurpose
from tos_guard.verify import Trust
from tos_guard.web import OwnRoutes
from tos_guard.web._routes import WebRequest, segments_of

ISSUER: Final = "https://api.example.com"
CHAT: Final = "/v1/chat/completions"
JANE: Final = AuthorizedPerson(id="jane@acme.example", authority="general counsel")


def terms(
    version: str,
    effective: date = date(2026, 11, 1),
    *header: str,
    title: str = "Terms of service",
    text: str = "",
    acceptance: str = "required",
    clauses: str = "",
) -> TermsVersion:
    """A version that permits to generate and forbids to train a competing model."""
    document = f"""
[terms]
version = "{version}"
title = "{title}"
uri = "{ISSUER}/.well-known/ai-provenance/terms/{version}"
text = "t.md"
effective = {effective}
acceptance = "{acceptance}"
{chr(10).join(header)}

[[grant]]
id = "licensed-distillation"
title = "Licence to distil"
text = "Own models may be trained on output."

[[clause]]
id = "serve"
effect = "permit"
action = ["generate", "classify"]
text = "Accounts may use the API."

[[clause]]
id = "no-competing-model"
effect = "prohibit"
action = "train-competing-model"
unless = {{ grant = "licensed-distillation" }}
text = "Output trains no competing model."
{clauses}
"""
    return parse_terms(document.encode(), (text or f"# {title}, version {version}\n\nBe fair.\n").encode())


def contract(version: str = "acme-1", effective: date = date(2026, 11, 1), **more: Any) -> TermsVersion:
    """The contract of the organization ``acme-corp``."""
    return terms(version, effective, 'series = "acme-contract"', 'organization = "acme-corp"', title="Contract with Acme", **more)


@dataclass
class Desk:
    """A guard over a store in memory. ``solo`` speaks for itself, ``acme`` and ``acme-2`` belong to ``acme-corp``.

    Attributes:
        keys: API keys by account.
        admin_key: Key of the administrator ``dana``.
    """

    general: TermsVersion = field(default_factory=lambda: terms("2026-11"))
    published: tuple[TermsVersion, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    clock: FixedClock = field(default_factory=FixedClock)
    store: MemoryStore = field(init=False)
    keys: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        entropy = SeededEntropy()
        self.store = MemoryStore(issuer=ISSUER, clock=self.clock)
        for version in (self.general, *self.published):
            self.store.publish_terms(version)
        self.store.add_organization(Organization(id="acme-corp", name="Acme Corporation", authorized=(JANE,)))
        licence = Grant(id="lic-7", type="licensed-distillation", models=frozenset({"small"}), reason="contract 7")
        for account in (
            Account(id="solo", models=frozenset({"small"})),
            Account(id="acme", organization="acme-corp", models=frozenset({"small", "large"}), grants=(licence,)),
            Account(id="acme-2", organization="acme-corp", models=frozenset({"*"}), actions=frozenset({"*"})),
            Account(id="stray", organization="nobody-knows"),
        ):
            self.store.add_account(account)
            key = new_api_key(entropy)
            self.store.add_api_key(account.id, key.public_id, hash_secret(key.secret, self.store.pepper()))
            self.keys[account.id] = key.text
        admin = new_admin_key(entropy)
        self.store.add_admin_key("dana", admin.public_id, hash_secret(admin.secret, self.store.pepper()))
        self.admin_key = admin.text
        self.signer = SeededSigner()
        self.receipts = SeededSigner("receipts", purpose=KeyPurpose.RECEIPT)
        given = {
            "issuer": ISSUER,
            "terms": Path("unused.toml"),
            "store": Path("unused.db"),
            "keys": Path("unused"),
            "routes": {CHAT: "openai-chat"},
            "account_routes": "/account",
            "admin_routes": "/admin",
            "appeal_url": f"{ISSUER}/appeal",
        }
        self.parts = {
            "terms": self.general,
            "accounts": self.store,
            "rights": self.store,
            "archive": self.store,
            "records": self.store,
            "store": self.store,
            "signer": self.signer,
            "receipts": self.receipts,
            "pepper": self.store.pepper(),
            "clock": self.clock,
            "entropy": entropy,
        } | self.overrides
        self.given = GuardSettings(**(given | self.settings))
        self.guard = Guard(self.given, **self.parts)

    @property
    def trust(self) -> Trust:
        """Trust in the keys for tokens and receipts."""
        return Trust.of(KeySet(ISSUER, (self.signer.key, self.receipts.key)))

    def holder(self, account: str) -> Holder:
        """The account as it is now."""
        holder = self.store.holder_by_id(account)
        assert holder is not None
        return holder


@dataclass(frozen=True)
class Page:
    """What a route of our own answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8")

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def visit(
    routes: OwnRoutes[Any],
    guard: Guard,
    path: str,
    *,
    key: str | None = None,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    query: str = "",
    host: Any = None,
) -> Page:
    """Drive a route as an adapter does: the head, then who asks, then the body."""
    fields = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    if key is not None:
        fields.append((b"authorization", f"Bearer {key}".encode()))
    view = RequestView(method, path, fields, host)
    request = WebRequest(view, segments_of(path, routes.prefix, None, ""), query.encode())
    try:
        who = guard.run(routes.enter(request))
        assert len(body) <= routes.body_limit(request)
        status, answered, content = guard.run(routes.answer(who, replace(request, body=body)))
    except RequestError as error:
        status, answered, content = routes.refuse(request, error)
    names = [name for name, _ in answered]
    assert len(set(names)) == len(names), "a field stands twice"
    return Page(status, {name.decode(): value.decode() for name, value in answered}, content)


JSON: Final = {"accept": "application/json"}
HTML: Final = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
"""As a browser says it."""


def sent(members: Any) -> dict[str, Any]:
    """A POST of JSON, as arguments of `visit`."""
    return {"method": "POST", "headers": {"content-type": "application/json"}, "body": json.dumps(members).encode()}


def form(fields: dict[str, str]) -> dict[str, Any]:
    """A POST of a form, as arguments of `visit`."""
    headers = {"content-type": "application/x-www-form-urlencoded", **HTML}
    return {"method": "POST", "headers": headers, "body": urlencode(fields).encode()}
