"""Where the store is, as the settings say it: a file, or a database whose address may hold a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from tos_guard.config import GuardSettings, ServerAddress, parse_settings
from tos_guard.errors import ConfigurationError

SETTINGS = 'issuer = "https://api.example.com"\nterms = "t.toml"\nstore = "{}"\nkeys = "keys"\n[routes]\n"/v1" = "openai-chat"\n'
ADDRESS = "postgresql://guard:s3cret@db.internal:5433/tos?sslmode=require&password=s3cret"


def settings(store: str) -> GuardSettings:
    return parse_settings(SETTINGS.format(store).encode()).beside(Path("/etc/guard"))


def test_a_path_is_taken_from_the_folder_of_the_settings():
    assert settings("tos-guard.db").store == Path("/etc/guard/tos-guard.db")
    assert settings("tos-guard.db").limits_file == Path("/etc/guard/tos-guard.api.example.com.limits.db")


def test_an_address_is_no_path_and_files_of_the_host_lie_beside_the_keys():
    found = settings(ADDRESS)
    assert isinstance(found.store, ServerAddress)
    assert found.store.resolve({}) == ADDRESS
    assert found.limits_file == Path("/etc/guard/tos-guard.api.example.com.limits.db")


def test_no_message_holds_the_secret():
    """Whatever prints settings or names the store."""
    for text in (repr(settings(ADDRESS)), str(settings(ADDRESS).store), settings(ADDRESS).store_name):
        assert "s3cret" not in text
    assert settings(ADDRESS).store_name == "postgresql://db.internal:5433/tos"


def test_an_address_may_stand_in_the_environment():
    named = settings("env:GUARD_DB").store
    assert isinstance(named, ServerAddress)
    assert (str(named), named.resolve({"GUARD_DB": ADDRESS})) == ("env:GUARD_DB", ADDRESS)
    for environment, problem in (({}, "GUARD_DB is not set"), ({"GUARD_DB": "guard.db"}, "GUARD_DB holds no address")):
        with pytest.raises(ConfigurationError, match=problem):
            named.resolve(environment)


@pytest.mark.parametrize("store", ["env:", "env:1X", "env:A B"])
def test_a_name_that_no_environment_has_is_refused(store):
    with pytest.raises(ConfigurationError, match="names no variable"):
        settings(store)
