"""Where the server of a fleet is, as the settings say it, and that they say it before anything is shared by a fleet."""

from __future__ import annotations

from typing import Any

import pytest

from tos_guard.config import GuardSettings, parse_settings
from tos_guard.errors import ConfigurationError

HEAD = 'issuer = "{}"\nterms = "t.toml"\nstore = "s.db"\nkeys = "k"\nroutes = {{ "/v1" = "openai-chat" }}\n'
URL = "rediss://guard:s3cret@valkey.internal:6380/1?ssl_ca_certs=/etc/ca.pem"


def settings(more: str, issuer: str = "https://api.example.com") -> GuardSettings:
    return parse_settings((HEAD.format(issuer) + more).encode())


def of_valkey(url: str = URL, more: str = "", **options: Any) -> GuardSettings:
    return settings(f'limits_shared_by = "fleet"\n[valkey]\nurl = "{url}"\n{more}', **options)


def test_no_message_holds_the_secret() -> None:
    """Settings are printed, and what is wrong with them."""
    found = of_valkey().valkey
    assert found is not None
    assert found.url.resolve({}) == URL
    assert str(found.url) == "rediss://valkey.internal:6380/1"
    assert "s3cret" not in f"{found!r} {found.url!r}"
    with pytest.raises(ConfigurationError, match=r"valkey\.url: is no address of Valkey") as told:
        of_valkey("http://guard:s3cret@valkey")
    assert "s3cret" not in str(told.value)
    with pytest.raises(ValueError, match="is no address") as in_code:
        GuardSettings(**{**of_valkey().model_dump(), "valkey": {"url": "http://guard:s3cret@valkey"}})
    assert "s3cret" not in str(in_code.value)


def test_an_address_may_stand_in_the_environment() -> None:
    found = of_valkey("env:GUARD_VALKEY").valkey
    assert found is not None
    assert found.url.resolve({"GUARD_VALKEY": URL}) == URL
    with pytest.raises(ConfigurationError, match=r"GUARD_VALKEY is not set.*redis://"):
        found.url.resolve({})
    with pytest.raises(ConfigurationError, match="holds no address") as told:
        found.url.resolve({"GUARD_VALKEY": "s3cret"})
    assert "s3cret" not in str(told.value)


@pytest.mark.parametrize("url", ["redis://valkey", "valkey://[::1]:7000/3", "unix:///run/valkey.sock?db=1", "env:VALKEY"])
def test_a_server_is_named_in_the_forms_that_clients_take(url: str) -> None:
    assert of_valkey(url).valkey is not None


@pytest.mark.parametrize("url", ["", "valkey:6379", "env:", "env:1", "postgresql://db", "redis://"])
def test_what_names_no_server_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="valkey"):
        of_valkey(url)


@pytest.mark.parametrize("shared", ['limits_shared_by = "fleet"', '[dpop]\nshared_by = "fleet"', '[postgres]\nannouncements = "valkey"'])
def test_what_a_fleet_shares_needs_a_server(shared: str) -> None:
    with pytest.raises(ConfigurationError, match=r'= "(fleet|valkey)" needs the server'):
        settings(shared)


def test_issuers_are_counted_apart() -> None:
    """By a name made from the issuer, unless one is given."""
    assert of_valkey().valkey_domain == "api.example.com"
    assert of_valkey(issuer="http://localhost:8000").valkey_domain == "http___localhost_8000"
    assert of_valkey(more='domain = "eu-1"').valkey_domain == "eu-1"
    long = [of_valkey(issuer=f"https://{letter * 80}.example").valkey_domain for letter in "ab"]
    assert len({*long}) == 2
    assert {len(name) for name in long} == {64}


def test_blocks_are_of_limits_that_processes_share() -> None:
    """A part of up to a quarter; none by default, and none of what a process counts alone."""
    assert of_valkey().limits_block == 0
    assert settings("limits_block = 0.02").limits_block == 0.02
    for part in ("-0.1", "0.26", "true", '"2 %"'):
        with pytest.raises(ConfigurationError, match="limits_block"):
            settings(f"limits_block = {part}")
    with pytest.raises(ConfigurationError, match="limits that processes share"):
        settings('limits_block = 0.02\nlimits_shared_by = "process"')
