"""Whatever is asked of the account and admin routes, there is an answer, and none of them is a failure of ours."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from desk import JANE, Desk, contract, visit
from tos_guard.web import AccountRoutes, AdminRoutes

WORDS = st.sampled_from(
    [
        "accounts",
        "organizations",
        "terms",
        "acceptances",
        "records",
        "receipts",
        "rights",
        "usage",
        "overview",
        "accept",
        "withdraw",
        "keys",
        "grants",
        "limits",
        "end-users",
        "block",
        "suspend",
        "void",
        "history",
        "solo",
        "acme",
        "acme-corp",
        "2026-11",
        "acme-1",
        "lic-7",
    ]
) | st.just("")
SEGMENTS = st.lists(WORDS | WORDS.map(lambda word: f"{word}.json") | st.text(max_size=5), max_size=5)
TEXTS = st.text(max_size=12) | st.sampled_from(
    ["solo", "2026-11", JANE.id, "yes", "organization", "2027-01-01T00:00:00Z", "eu_" + "A" * 22]
)
VALUES = st.recursive(
    TEXTS | st.integers() | st.booleans() | st.none() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner),
)
NAMES = st.sampled_from(
    [
        "version",
        "sha256",
        "accepted_by",
        "acceptance",
        "reason",
        "id",
        "type",
        "models",
        "limits",
        "amount",
        "limit",
        "subject",
        "at",
        "label",
        "document",
        "text",
        "end_user",
        "hash",
        "not_after",
        "authorized",
        "organization",
        "withdrawn_by",
        "csrf",
        "agree",
        "kind",
        "expires",
    ]
)
BODIES = (
    st.binary(max_size=60)
    | st.dictionaries(NAMES, VALUES, max_size=6).map(lambda members: json.dumps(members).encode())
    | st.dictionaries(NAMES, TEXTS, max_size=6).map(
        lambda fields: "&".join(f"{a}={b}" for a, b in fields.items()).encode("utf-8", "replace")
    )
)
MEDIA_TYPES = st.sampled_from(["application/json", "application/x-www-form-urlencoded", "text/plain", ""])
ACCEPTED = st.sampled_from(["application/json", "text/html", "*/*", "text/html;q=x, application/json;q=0.1", ";;;,,"])


@given(
    segments=SEGMENTS,
    method=st.sampled_from(["GET", "POST", "HEAD", "PUT", "OPTIONS"]),
    body=BODIES,
    media_type=MEDIA_TYPES,
    accepted=ACCEPTED,
    query=st.text(alphabet="aflimter=&%;0129\u00ff", max_size=30),
    declared=st.booleans(),
)
def test_every_request_has_an_answer(
    segments: list[str], method: str, body: bytes, media_type: str, accepted: str, query: str, declared: bool
) -> None:
    settings: dict[str, Any] = {"acceptance": {"organization": "declared" if declared else "proven"}}
    desk = Desk(published=(contract(),), settings=settings)
    headers = {"content-type": media_type, "accept": accepted}
    for routes, keys in ((AccountRoutes(desk.guard), ("solo", "acme")), (AdminRoutes(desk.guard), ("admin",))):
        path = "/".join((routes.prefix, *segments))
        for name in keys:
            key = desk.admin_key if name == "admin" else desk.keys[name]
            answer = visit(routes, desk.guard, path, key=key, method=method, headers=headers, body=body, query=query)
            assert 200 <= answer.status < 500
            assert answer.headers["cache-control"] == "no-store"
            assert int(answer.headers["content-length"]) == len(answer.body)
