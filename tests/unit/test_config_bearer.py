"""Settings of authorization servers: what is read, what is refused and how that is said, and what is built from them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from authorization_server import AUDIENCE, NOW, AuthorizationServer
from loopback_issuer import START
from tos_guard.config import BearerSettings, parse_settings
from tos_guard.errors import ConfigurationError, StoreError
from tos_guard.remote import bearer_from_settings
from tos_guard.rights._bearer import NO_NAMES

GUARD = """
issuer = "https://api.example.com"
terms = "terms.toml"
store = "store.db"
keys = "keys"
routes = { "/v1/chat/completions" = "openai-chat" }
"""
SERVER = """
[[bearer]]
issuer = "https://login.example.com/"
jwks_uri = "https://login.example.com/jwks.json"
audience = "https://api.example.com"
"""


def read(*more: str) -> tuple[BearerSettings, ...]:
    return parse_settings("\n".join((GUARD, *more)).encode()).bearer


def test_one_server_needs_three_settings() -> None:
    (server,) = read(SERVER)
    assert (server.audience, server.account_claim, server.account_prefix, server.scopes) == (("https://api.example.com",), "sub", "", ())
    assert (server.leeway_seconds, server.max_lifetime_seconds, server.unsafe_any_address) == (30, 86_400, False)
    assert read() == ()


def test_everything_can_be_said() -> None:
    (server,) = read(
        SERVER.replace('audience = "https://api.example.com"', 'audience = ["one", "two"]'),
        'account_claim = "https://example.com/tenant"\naccount_prefix = "login:"\norganization_claim = "org"\nend_user_claim = "user"',
        'person_claim = "name"\nscopes = ["generate"]\nleeway_seconds = 0\nmax_lifetime_seconds = 3600\nalgorithm = "RS256"',
        "refresh_seconds = 300\nmax_stale_seconds = 172800\nunsafe_any_address = true",
    )
    assert (server.audience, server.account_claim, server.algorithm) == (("one", "two"), "https://example.com/tenant", "RS256")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ('account_claim = "jti"', "bearer.0.account_claim: the claim 'jti' names nobody"),
        ('end_user_claim = "aud"', "bearer.0.end_user_claim: the claim 'aud' names nobody"),
        ("leeway_seconds = 61", "bearer.0.leeway_seconds: "),
        ("max_lifetime_seconds = 0", "bearer.0.max_lifetime_seconds: "),
        ("max_stale_seconds = 3600", "bearer.0.max_stale_seconds: "),
        ('algorithm = "none"', "bearer.0.algorithm: "),
        ('algorithm = "HS256"', "bearer.0.algorithm: "),
        ('scopes = ["a b"]', "bearer.0.scopes.0: "),
        ('secret = "x"', "bearer.0.secret: "),
    ],
)
def test_a_wrong_setting_is_named(setting: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read(SERVER, setting)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "uri",
    [
        *("http://login.example.com/jwks.json", "https://login.example.com", "login.example.com/jwks.json", "file:///etc/passwd", ""),
        *(
            "https://user:pass@login.example.com/jwks.json",
            "https://login.example.com/jwks.json#a",
            "http://127.0.0.1.evil.example/jwks.json",
        ),
    ],
)
def test_an_address_of_keys_is_https_or_on_loopback(uri: str) -> None:
    with pytest.raises(ConfigurationError, match=r"bearer\.0\.jwks_uri: is not an address such as https://login"):
        read(SERVER.replace("https://login.example.com/jwks.json", uri))


@pytest.mark.parametrize("audience", ['""', "[]", '["a", ""]', "1"])
def test_an_audience_is_needed(audience: str) -> None:
    with pytest.raises(ConfigurationError, match=r"bearer\.0\.audience"):
        read(SERVER.replace('"https://api.example.com"', audience))


@pytest.mark.parametrize(
    ("one", "other", "is_fine"),
    [("", "", False), ("a:", "", False), ("a:", "a:", False), ("a:", "a:b:", False), ("a:", "b:", True), ("ab", "ac", True)],
)
def test_two_servers_never_name_one_account(one: str, other: str, is_fine: bool) -> None:
    """One may be a customer's own: whoever runs it could name any account of the other's."""
    first = f'{SERVER}account_prefix = "{one}"\n'
    second = f'{SERVER.replace("login", "sso")}account_prefix = "{other}"\n'
    if is_fine:
        assert len(read(first, second)) == 2
        return
    with pytest.raises(ConfigurationError, match="could name one account: give each an account_prefix"):
        read(first, second)


def test_one_server_is_listed_once() -> None:
    with pytest.raises(ConfigurationError, match="occurs twice"):
        read(SERVER, SERVER)


def test_the_claims_that_name_nobody_are_one_list() -> None:
    for claim in NO_NAMES:
        with pytest.raises(ConfigurationError, match="names nobody"):
            read(SERVER, f'person_claim = "{claim}"')


def test_what_is_built_asks_nobody_and_holds_what_was_set() -> None:
    settings = read(SERVER, 'account_prefix = "login:"\nscopes = ["generate"]\nleeway_seconds = 0\nmax_lifetime_seconds = 3600')
    verifier = bearer_from_settings(settings, mode="deny", clock=lambda: START)
    (status,) = verifier.status()
    assert (status.issuer, status.uri, status.mode) == ("https://login.example.com/", "https://login.example.com/jwks.json", "deny")
    assert status.attempted_at is None
    (policy, source) = verifier._issuers["https://login.example.com/"]
    server = AuthorizationServer()
    assert policy == server.policy(
        account_prefix="login:", scopes=frozenset({"generate"}), leeway=timedelta(0), max_lifetime=timedelta(hours=1)
    )
    assert policy.audiences == {AUDIENCE}
    source.close()
    with pytest.raises(StoreError):
        verifier.verify(server.token(exp=NOW + 60), START)
    verifier.close()


def test_a_verifier_needs_an_issuer() -> None:
    with pytest.raises(ValueError, match="at least one issuer"):
        bearer_from_settings(())


@pytest.mark.parametrize("members", [{"jwks_uri": "https://a.example.com:99999/keys"}, {"jwks_uri": "https://[::1]/keys"}])
def test_an_address_that_only_looks_like_one_stops_the_start(members: dict[str, Any]) -> None:
    """The settings see its form; whoever would ask it sees the rest."""
    known = {"issuer": "https://login.example.com", "jwks_uri": "https://a.example.com/keys", "audience": "a"}
    with pytest.raises((ConfigurationError, ValueError), match="jwks_uri"):
        bearer_from_settings([BearerSettings(**(known | members))])
