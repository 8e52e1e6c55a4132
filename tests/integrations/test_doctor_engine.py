"""What the doctor says of the server that a fleet shares."""

from __future__ import annotations

from pathlib import Path

from engines import Valkey, running
from provisioned import Provider
from tos_guard.cli._doctor._installation import check_engine
from tos_guard.config import GuardSettings, parse_settings


def settings(tmp_path: Path, url: str) -> GuardSettings:
    tmp_path.mkdir(exist_ok=True)
    made = Provider(tmp_path)
    return parse_settings((made.settings.read_text() + f'\n[valkey]\nurl = "{url}"\n').encode())


def said(given: GuardSettings) -> dict[str, str]:
    """Level by code."""
    return {check.code: check.level for check in check_engine(given)}


def test_a_server_that_loses_nothing_is_well(tmp_path: Path) -> None:
    with running(lambda folder: Valkey(folder, persist="always")) as engine:
        (check,) = check_engine(settings(tmp_path, engine.url))
        with engine.client() as client:
            assert client.keys() == [], "looking makes nothing"
    assert (check.code, check.level) == ("engine", "ok")
    assert "domain api.example.com" in check.what


def test_a_server_that_forgets_is_told(tmp_path: Path) -> None:
    """With a restart a warning; at any time, by evicting, a problem; and so is a replica."""
    with running(Valkey) as engine, running(lambda folder: Valkey(folder, replica_of=engine.port)) as replica:
        assert said(settings(tmp_path / "a", engine.url)) == {"engine-forgets": "warning", "engine": "ok"}
        with engine.client() as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
        assert said(settings(tmp_path / "b", engine.url)) == {"engine": "problem", "engine-forgets": "warning"}
        assert said(settings(tmp_path / "c", replica.url)) == {"engine": "problem", "engine-forgets": "warning"}


def test_a_server_that_is_not_there_is_told_without_its_password(tmp_path: Path) -> None:
    (check,) = check_engine(settings(tmp_path, "redis://guard:s3cret@127.0.0.1:1"))
    assert (check.code, check.level) == ("engine", "problem")
    assert "s3cret" not in repr(check)
