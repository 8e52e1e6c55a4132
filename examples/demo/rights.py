"""The part of the day that is about rights: terms are accepted, a limit is reached, a grant is given and taken back, terms change."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Final

import httpx2

from demo.customers import Call
from demo.provider import ISSUER, Provider
from tos_guard.rights import Grant

__all__ = ["AccountHolder", "Operator", "Told"]

SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Told:
    """What a command or a page said.

    Attributes:
        status: Exit code, or HTTP status.
        document: What it said, as JSON members.
    """

    status: int
    document: dict[str, Any]


class AccountHolder:
    """A person at a customer, who opens the account's pages.

    Args:
        base_url: The provider.
        api_key: The account's key.
    """

    def __init__(self, base_url: str, api_key: str) -> None:
        self._client = httpx2.Client(
            base_url=base_url, headers={"authorization": f"Bearer {api_key}", "accept": "application/json"}, timeout=SECONDS
        )

    def get(self, path: str) -> Told:
        """Open a page, as JSON."""
        return _answer(self._client.get(f"/account{path}"))

    def accept(self, version: str, person: str) -> Told:
        """Accept a version of the terms."""
        return _answer(self._client.post("/account/terms/accept", json={"version": version, "accepted_by": person}))

    def receipt(self, name: str) -> bytes:
        """The signed receipt of an acceptance."""
        return self._client.get(f"/account/receipts/{name}", headers={"accept": "application/jwt"}).content


def _answer(response: httpx2.Response) -> Told:
    try:
        document = response.json()
    except ValueError:
        document = {}
    return Told(response.status_code, document if isinstance(document, dict) else {})


class Operator:
    """The provider's operator, with the store and the command line.

    Args:
        provider: The provider.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def grant(self, account: str, grant: Grant) -> None:
        """Give a grant while the provider runs."""
        with self._provider.store() as store:
            store.add_grant(account, grant)

    def void(self, account: str, grant_id: str, reason: str) -> None:
        """Take it back."""
        with self._provider.store() as store:
            store.void_grant(account, grant_id, reason)

    def recorded(self, call: Call, member: str) -> str:
        """A member of the record of a call."""
        with self._provider.store() as store:
            record = store.by_request_id(ISSUER, call.headers.get("x-request-id", ""))
        return "no record" if record is None else str(getattr(record, member))

    def explain(self, call: Call) -> Told:
        """`tos-guard accounts explain` of a past request."""
        rid = call.headers.get("x-request-id", "none")
        return self._command("accounts", "explain", "--request", rid, "--json")

    def _command(self, *arguments: str) -> Told:
        command = [sys.executable, "-m", "tos_guard.cli", *arguments, "--config", str(self._provider.folder / "tos-guard.toml")]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        return Told(ran.returncode, json.loads(ran.stdout) if ran.stdout.startswith("{") else {})
