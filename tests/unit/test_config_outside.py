"""Settings of webhooks, notices and entitlements: no secret stands in them, and what cannot work is refused at start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tos_guard.config import GuardSettings, SecretPlace, parse_settings
from tos_guard.errors import ConfigurationError, KeyFileError
from tos_guard.stores import read_secret

HEAD = """
issuer = "https://api.example.com"
terms = "t.toml"
store = "s.db"
keys = "keys"
admin_routes = "/admin"
routes = { "/v1/chat" = "openai-chat" }
"""
HOOK = '[[webhooks]]\nname = "crm-events"\nsecret = "env:HOOK"\nmay = ["entitlements"]\n'
SOURCE = '[[entitlements]]\nname = "crm"\nurl = "https://crm.example.com/e.json"\n'
NOTICE = '[[notices]]\nurl = "https://hooks.example.com/n"\nsecret = "notice.key"\non = ["standing"]\n'


def settings(*parts: str, head: str = HEAD) -> GuardSettings:
    return parse_settings((head + "".join(parts)).encode())


def test_places_of_secrets_are_read_and_taken_from_the_folder() -> None:
    read = settings(HOOK, SOURCE + 'token = "crm.token"\nwebhook = "crm-events"\n', NOTICE).beside(Path("/etc/tos"))
    assert str(read.webhooks[0].secret[0]) == "env:HOOK"
    assert str(read.entitlements[0].token) == "/etc/tos/crm.token"
    assert [str(place) for place in read.notices[0].secret] == ["/etc/tos/notice.key"]


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        pytest.param((HOOK.replace("env:HOOK", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),), "does not stand in the settings", id="secret"),
        pytest.param((HOOK.replace("env:HOOK", "env:no-name"),), "env:NAME", id="no name"),
        pytest.param((HOOK.replace('["entitlements"]', "[]"),), "may", id="may nothing"),
        pytest.param((HOOK.replace('"entitlements"', '"everything"'),), "may", id="may everything"),
        pytest.param((HOOK, HOOK), "two webhooks", id="two webhooks"),
        pytest.param((SOURCE, SOURCE), "two sources", id="two sources"),
        pytest.param((NOTICE, NOTICE), "two notices", id="two notices"),
        pytest.param((SOURCE.replace("crm.example.com", "user:pass@crm.example.com"),), "address", id="password in the address"),
        pytest.param((SOURCE.replace("https://crm.example.com", "http://crm.example.com"),), "address", id="http"),
        pytest.param((NOTICE.replace("https://hooks.example.com", "http://10.0.0.1"),), "address", id="http notice"),
        pytest.param((SOURCE.replace('"crm"', '"a.b"'),), "name", id="name with a dot"),
        pytest.param(('[[entitlements]]\nname = "crm"\n',), "neither a url", id="from nowhere"),
        pytest.param((SOURCE + 'webhook = "crm-events"\n',), "no webhook", id="no such webhook"),
        pytest.param((HOOK.replace("entitlements", "standing"), SOURCE + 'webhook = "crm-events"\n'), "no webhook", id="webhook may not"),
    ],
)
def test_what_cannot_work_is_refused(parts: tuple[str, ...], what: str) -> None:
    with pytest.raises(ConfigurationError, match=what) as caught:
        settings(*parts)
    assert "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" not in str(caught.value)


def test_webhooks_need_the_routes_that_they_come_in_by() -> None:
    with pytest.raises(ConfigurationError, match="admin_routes"):
        settings(HOOK, head=HEAD.replace('admin_routes = "/admin"', ""))


def test_a_secret_is_read_where_it_is(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"word\n")
    file.chmod(0o600)
    assert read_secret(SecretPlace(file=file)) == read_secret(SecretPlace(variable="X"), {"X": " word "}) == "word"
    file.chmod(0o644)
    with pytest.raises(KeyFileError, match="others"):
        read_secret(SecretPlace(file=file))
    for place in (SecretPlace(variable="Y"), SecretPlace(variable="X")):
        with pytest.raises(ConfigurationError, match="env:"):
            read_secret(place, {"X": "  "})
