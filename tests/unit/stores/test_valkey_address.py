"""Where an engine is, as a URL says it, and that its password is said nowhere."""

from __future__ import annotations

import pytest

from tos_guard.errors import ConfigurationError
from tos_guard.stores._valkey import parse_address


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("redis://valkey", ("valkey", 6379, 0, "", "")),
        ("valkey://valkey:7000/3", ("valkey", 7000, 3, "", "")),
        ("redis://:p%40ss@10.0.0.1:6380", ("10.0.0.1", 6380, 0, "", "p@ss")),
        ("redis://guard:s3cret@[::1]:6380/1", ("::1", 6380, 1, "guard", "s3cret")),
        ("redis://valkey?db=2", ("valkey", 6379, 2, "", "")),
        ("rediss://valkey", ("valkey", 6379, 0, "", "")),
    ],
)
def test_a_url_says_where_and_who(url: str, parts: tuple[str, int, int, str, str]) -> None:
    """In the forms that other clients take."""
    address = parse_address(url)
    assert (address.host, address.port, address.database, address.user, address.password) == parts
    assert (address.tls is not None) == url.startswith("rediss")
    assert str(address) == f"{address.host}:{address.port}"


@pytest.mark.parametrize(
    "url",
    ["", "valkey:6379", "http://valkey", "redis://:s3cret@", "redis://:s3cret@valkey:port", "redis://:s3cret@valkey:6379/first",
     "redis://:s3cret@valkey?timeout=3", "redis://:s3cret@valkey?s3cret", "rediss://:s3cret@valkey?ssl_ca_certs=/nowhere", "redis://[::1"],
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
