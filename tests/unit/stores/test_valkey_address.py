"""Where an engine is, as a URL says it, and that its password is said nowhere."""

from __future__ import annotations

import pytest

from tos_guard.errors import ConfigurationError
from tos_guard.stores._valkey import parse_address


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("redis://valkey", "valkey:6379"),
        ("valkey://valkey:7000/3", "valkey:7000"),
        ("redis://:p%40ss@10.0.0.1:6380", "10.0.0.1:6380"),
        ("redis://guard:s3cret@[::1]:6380/1", "::1:6380"),
        ("redis://valkey?db=2", "valkey:6379"),
        ("rediss://valkey", "valkey:6379"),
        ("valkeys://valkey:7000", "valkey:7000"),
        ("unix:///run/valkey.sock?db=1", "/run/valkey.sock"),
    ],
)
def test_a_url_says_where(url: str, where: str) -> None:
    """In the forms that other clients take; what errors say of it is the address alone."""
    address = parse_address(url)
    assert str(address) == where
    assert address.url.startswith(("redis://", "rediss://", "unix://"))


@pytest.mark.parametrize(
    "url",
    ["", "valkey:6379", "http://valkey", "redis://:s3cret@", "redis://:s3cret@valkey:port", "redis://:s3cret@valkey:6379/first",
     "redis://:s3cret@valkey?timeout=3", "redis://:s3cret@valkey?s3cret", "rediss://:s3cret@valkey?ssl_ca_certs=/nowhere", "redis://[::1",
     "rediss://:s3cret@valkey?ssl_cert_reqs=none"],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_without_its_password(url: str) -> None:
    """What the URL holds is not repeated, wherever it goes wrong."""
    with pytest.raises(ConfigurationError, match=r"valkey\.url") as told:
        parse_address(url)
    assert "s3cret" not in str(told.value)
    assert told.value.__cause__ is None
    assert told.value.__suppress_context__ or told.value.__context__ is None


def test_a_password_is_never_shown() -> None:
    """Addresses are logged."""
    address = parse_address("redis://guard:s3cret@valkey")
    assert "s3cret" not in f"{address} {address!r}"
