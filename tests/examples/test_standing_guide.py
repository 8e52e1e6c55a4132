"""What docs/guides/standing.md shows is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from provisioned import ISSUER, Provider, now
from tos_guard.cli import main
from tos_guard.config import parse_settings
from tos_guard.guard import ladder_of
from tos_guard.rights import DEFAULT_LADDER, Account
from tos_guard.stores import SQLiteStore
from tos_guard.types import Standing

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "standing.md"


def block(language: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(found) == 1
    return str(found[0])


@pytest.fixture
def provider(tmp_path: Path) -> Provider:
    made = Provider(tmp_path)
    assert main(["accounts", "add", "acme", "--model", "small", "--config", str(made.settings)]) == 0
    return made


def test_the_settings_shown_make_the_ladder_that_is_told(provider: Provider) -> None:
    """And without any, the ladder of the settings is the one that plans take by default."""
    plain = provider.settings.read_text(encoding="utf-8")
    assert ladder_of(parse_settings(plain.encode())).rungs == {
        step: DEFAULT_LADDER.rung(step) for step in Standing if step is not Standing.GOOD
    }
    ladder = ladder_of(parse_settings(f"{plain}\n{block('toml')}".encode()))
    restricted = ladder.rung(Standing.RESTRICTED)
    assert (restricted.models, restricted.without_grants, restricted.verify) == ({"small"}, True, {"organization"})
    assert ladder.rung(Standing.WARNED).accept


def test_the_commands_shown_do_what_they_say(provider: Provider, capsys: pytest.CaptureFixture[str]) -> None:
    lines = block("console").replace("\\\n", " ").replace("2026-12-05", "2090-01-01").splitlines()
    commands = [shlex.split(line.removeprefix("$ tos-guard "), comments=True) for line in lines]
    named: dict[str, str] = {}
    for command in commands:
        arguments = [named.get(argument, argument) for argument in command]
        assert main([*arguments, "--config", str(provider.settings)]) == 0, capsys.readouterr()
        if command[1] == "measure":  # what is made is named in what follows
            with SQLiteStore(provider.folder / "tos-guard.db", issuer=ISSUER, clock=now) as store:
                account = store.by_id("acme")
                assert account is not None
                named["m-4f0a…"] = account.measures[0].id
        elif command[1] == "lift":
            assert main(["accounts", "measure", "acme", "warned", "--reason", "x", "--id", "m-2", "--config", str(provider.settings)]) == 0
            with SQLiteStore(provider.folder / "tos-guard.db", issuer=ISSUER, clock=now) as store:
                named["ap_…"] = store.file_appeal("acme", "m-2", "It was not us.").id
    with SQLiteStore(provider.folder / "tos-guard.db", issuer=ISSUER, clock=now) as store:
        account = store.by_id("acme")
        assert account is not None
        assert [measure.lifted is not None for measure in account.measures] == [True, True]


def test_the_python_shown_takes_and_lifts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with SQLiteStore(tmp_path / "tos-guard.db", issuer=ISSUER, clock=now) as store:
        store.add_account(Account(id="acme"))
    exec(block("python").replace("https://api.example.com", ISSUER), {})
    with SQLiteStore(tmp_path / "tos-guard.db", issuer=ISSUER, clock=now) as store:
        assert [step.what for step in store.history("acme")] == ["added", "measure_taken", "measure_lifted"]
