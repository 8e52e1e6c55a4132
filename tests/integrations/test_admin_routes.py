"""The admin routes on a real server of two workers: what one of them changes holds in the other within a second."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from provisioned import Provider, now
from serving import ServeProcess
from to_be_accepted import CHAT, JANE, QUESTION, provided
from tos_guard.rights import hash_secret, new_admin_key
from tos_guard.verify import verify_receipt

LIMIT = '\n[[limits]]\nid = "requests"\nquantity = "requests"\namount = 10000\nwindow = "1h"\n'
WORKERS = 8
"""Connections, each kept to one worker: with eight, both have some."""


class Office:
    """An administrator, and the accounts that see what is done."""

    def __init__(self, base_url: str, admin_key: str, api_key: str) -> None:
        self.admin = httpx.Client(base_url=f"{base_url}/admin", headers={"authorization": f"Bearer {admin_key}"})
        self.clients = [httpx.Client(base_url=base_url, headers={"authorization": f"Bearer {api_key}"}) for _ in range(WORKERS)]
        self.slowest = 0.0

    def do(self, path: str, members: dict[str, Any], status: int = 200) -> Any:
        answer = self.admin.post(path, json=members)
        assert answer.status_code == status, answer.text
        return answer.json()

    def everywhere(self, holds: Callable[[httpx.Response], bool]) -> None:
        """See that a request is answered so on every connection, within a second of now."""
        changed = now()
        for client in self.clients:
            while not holds(answer := client.post(CHAT, json=QUESTION)):
                assert (now() - changed).total_seconds() < 1.0, f"a worker still answers {answer.status_code} {answer.text}"
        self.slowest = max(self.slowest, (now() - changed).total_seconds())

    def close(self) -> None:
        for client in (self.admin, *self.clients):
            client.close()


@contextmanager
def office(folder: Path, serve_process: ServeProcess) -> Iterator[tuple[Office, Provider]]:
    provider = provided(folder, 'admin_routes = "/admin"')
    provider.settings.write_text(provider.settings.read_text() + LIMIT)
    key = new_admin_key(secrets.token_bytes)
    with provider.store() as store:
        store.add_admin_key("dana", key.public_id, hash_secret(key.secret, store.pepper()))
    with serve_process("provider_fastapi.guarded:guarded", factory=True, workers=2, env=provider.environment()) as process:
        made = Office(process.base_url, key.text, provider.keys["good"])
        try:
            yield made, provider
        finally:
            made.close()
        assert "Traceback" not in process.log


def code(name: str) -> Callable[[httpx.Response], bool]:
    return lambda answer: answer.status_code >= 400 and answer.json()["error"]["code"] == name


def served(answer: httpx.Response) -> bool:
    return answer.status_code == 200


def test_a_day_in_the_office(tmp_path: Path, serve_process: ServeProcess, record_property: Callable[[str, object], None]) -> None:
    """Paper acceptance, suspension, a measure, an upheld appeal, a limit, a grant, new terms: each holds everywhere within a second."""
    with office(tmp_path, serve_process) as (desk, provider):
        desk.everywhere(code("tos_terms_not_accepted"))
        paper = {"subject": {"kind": "account", "id": "good"}, "version": "2026-11", "accepted_by": "Sam", "authority": "order form 7"}
        acceptance = desk.do("/acceptances", paper, 201)["acceptance"]
        desk.everywhere(served)
        assert verify_receipt(acceptance["receipt"], trust=provider.trust(), now=now()).claims.authority == "order form 7"

        desk.do("/accounts/good/suspend", {"reason": "abuse"})
        desk.everywhere(code("tos_account_suspended"))
        desk.do("/accounts/good/reinstate", {"reason": "appeal"})
        desk.everywhere(served)

        taken = {"id": "m-1", "step": "terminated", "reason": "copied outputs"}
        desk.do("/accounts/good/measures", taken, 201)
        desk.everywhere(code("tos_account_terminated"))
        desk.do("/accounts/good/measures/m-1/lift", {"reason": "a mistake"})
        desk.everywhere(served)
        desk.do("/accounts/good/measures", taken | {"id": "m-2"}, 201)
        desk.everywhere(code("tos_account_terminated"))
        appeal = desk.clients[0].post("/account/standing/appeal", json={"measure": "m-2", "text": "It was not us.", "filed_by": "Sam"})
        assert appeal.status_code == 201
        desk.do(f"/appeals/{appeal.json()['appeal']['id']}/decide", {"upheld": True, "answer": "You are right."})
        desk.everywhere(served)

        desk.do("/accounts/good/limits", {"limit": "requests", "amount": 0, "reason": "test"})
        desk.everywhere(code("tos_limit"))
        desk.do("/accounts/good/grants", {"id": "more", "type": "research", "limits": {"requests": 10_000}, "reason": "paper"}, 201)
        desk.everywhere(served)
        desk.do("/accounts/good/grants/more/void", {"reason": "over"})
        desk.everywhere(code("tos_limit"))
        desk.do("/accounts/good/limits", {"limit": "requests", "amount": None})
        desk.everywhere(served)

        account = desk.admin.get("/accounts/good").json()["account"]
        desk.do("/accounts/good", {"version": account["version"], "models": ["another"], "reason": "downgrade"})
        desk.everywhere(code("tos_model_not_allowed"))
        desk.do("/accounts/good", {"version": account["version"] + 1, "models": account["models"], "reason": "upgrade"})
        desk.everywhere(served)

        document = (
            (tmp_path / "terms.toml")
            .read_text()
            .replace("2026-11", "2026-11b", 2)
            .replace("effective = 2026-11-01", "effective = 2026-11-02")
        )
        made = desk.do("/terms", {"document": document, "text": "Be fair."}, 201)["terms"]
        assert (made["version"], made["published_by"]) == ("2026-11b", "dana")
        desk.everywhere(code("tos_terms_not_accepted"))
        desk.do("/acceptances", paper | {"version": "2026-11b"}, 201)
        desk.everywhere(served)
        desk.do(f"/acceptances/{acceptance['id']}/withdraw", {"withdrawn_by": "Sam"})
        desk.everywhere(served)

        rid = desk.clients[0].post(CHAT, json=QUESTION).headers["x-request-id"]
        record = desk.admin.get(f"/records/{rid}").json()
        assert (record["account"], record["record"]["terms_version"]) == ("good", "2026-11b")
        history = desk.admin.get("/accounts/good/history").json()["history"]
        assert {step["actor"] for step in history if step["what"] not in ("added", "key_added", "appeal_filed")} == {"dana"}
        record_property("counts", f"each change obeyed by all workers within {desk.slowest * 1000:.0f} ms")


def test_an_account_is_made_and_served(tmp_path: Path, serve_process: ServeProcess) -> None:
    """Organization, account and key over the network; an authorized person on paper; then the account's own request."""
    with office(tmp_path, serve_process) as (desk, _):
        person = {"id": JANE, "authority": "director"}
        desk.do("/organizations", {"id": "b/corp ünï", "name": "B", "authorized": [person]}, 201)
        new = {"id": "b/1", "organization": "b/corp ünï", "models": ["smollm2-135m"], "region": "DE"}
        desk.do("/accounts", new, 201)
        key = desk.do("/accounts/b%2F1/keys", {"label": "laptop"}, 201)["key"]["text"]
        paper = {"subject": {"kind": "organization", "id": "b/corp ünï"}, "version": "2026-11", "accepted_by": JANE}
        desk.do("/acceptances", paper, 201)
        assert desk.admin.get("/organizations/b%2Fcorp%20%C3%BCn%C3%AF").json()["organization"]["name"] == "B"
        changed = now()
        headers = {"authorization": f"Bearer {key}"}
        while (answer := desk.clients[0].post(CHAT, json=QUESTION, headers=headers)).status_code != 200:
            assert (now() - changed).total_seconds() < 1.0, answer.text


def test_nobody_else_administers(tmp_path: Path, serve_process: ServeProcess) -> None:
    """Not an account's key, not a revoked administrator's from the moment on, and no large or torn body before that is known."""
    with office(tmp_path, serve_process) as (desk, provider):
        for client in desk.clients[:2]:
            assert client.get("/admin/accounts").status_code == 401
            assert client.post("/admin/terms", content=b"x" * 3_000_000).status_code == 401
        large = {"content-type": "application/json"}
        assert desk.admin.post("/terms", content=b"x" * 2_097_153, headers=large).status_code == 413
        assert desk.admin.post("/accounts", content=b"x" * 65_537, headers=large).status_code == 413
        assert desk.admin.post("/accounts", content=b"{", headers=large).status_code == 400
        with provider.store() as store:
            store.revoke_admin_key(store.admin_keys()[0].public_id)
        assert desk.admin.get("/accounts").status_code == 401
