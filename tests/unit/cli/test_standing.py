"""`tos-guard accounts measure`, `lift` and `appeals`: what they do, say and refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from provisioned import ISSUER, Provider, now
from tos_guard.cli import main
from tos_guard.stores import SQLiteStore
from tos_guard.types import Standing

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def provider(tmp_path: Path) -> Provider:
    return Provider(tmp_path)


@pytest.fixture
def say(provider: Provider, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command: its exit code, and what it wrote."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "--config", str(provider.settings)])
        written = capsys.readouterr()
        return code, written.out, written.err

    return run


def stored(provider: Provider) -> SQLiteStore:
    return SQLiteStore(provider.folder / "tos-guard.db", issuer=ISSUER, clock=now)


def test_a_measure_is_taken_shown_and_lifted(provider: Provider, say: Say) -> None:
    given = ["--reason", "copied outputs", "--clause", "serve", "--notice", "Call us.", "--evidence", "case 7", "--id", "m-1"]
    ends = ["--requires", "contact", "--deadline", "2090-01-01", "--then", "terminated", "--until", "2091-01-01"]
    assert say("accounts", "measure", "good", "suspended", *given, *ends, "--actor", "ann")[0] == 0
    code, out, _ = say("accounts", "show", "good")
    assert code == 0
    for words in (
        "holds         suspended, by measure m-1",
        "asks to make contact by 2090-01-01",
        "then terminated",
        "by ann",
        "(in force)",
    ):
        assert words in out
    shown = json.loads(say("accounts", "show", "good", "--json")[1])
    assert shown["standing"] == {"step": "suspended", "in_force": ["m-1"]}
    code, out, _ = say("accounts", "lift", "good", "m-1", "--reason", "a mistake", "--actor", "bob")
    assert (code, "m-1 lifted; standing good" in out) == (0, True)
    with stored(provider) as store:
        account = store.by_id("good")
        assert account is not None
        assert account.standing_at(now()).step is Standing.GOOD
        assert [(step.what, step.actor) for step in store.history("good")][-2:] == [("measure_taken", "ann"), ("measure_lifted", "bob")]


def test_what_still_holds_is_said(say: Say) -> None:
    """After a lift, and after a reinstatement, which ends no measure."""
    for name in ("m-1", "m-2"):
        assert say("accounts", "measure", "good", "warned", "--reason", "spam", "--id", name)[0] == 0
    assert "Still in force: m-2" in say("accounts", "lift", "good", "m-1", "--reason", "a mistake")[2]
    assert "Measures still in force: m-2" in say("accounts", "reinstate", "good")[2]


@pytest.mark.parametrize(
    "arguments",
    [
        ("measure", "good", "good", "--reason", "x"),
        ("measure", "good", "warned"),
        ("measure", "nobody", "warned", "--reason", "x"),
        ("measure", "good", "warned", "--reason", "x", "--then", "suspended"),
        ("measure", "good", "warned", "--reason", "x", "--deadline", "2090-01-01"),
        ("measure", "good", "warned", "--reason", "x", "--requires", "verify"),
        ("measure", "good", "warned", "--reason", "x", "--requires", "money"),
        ("measure", "good", "warned", "--reason", "x", "--until", "2001-01-01"),
        ("measure", "good", "warned", "--reason", "x", "--until", "soon"),
        ("lift", "good", "m-9", "--reason", "x"),
    ],
)
def test_what_cannot_be_carried_out_says_why(say: Say, arguments: tuple[str, ...]) -> None:
    code, out, err = say("accounts", *arguments)
    assert (code, out) == (2, "")
    assert err


def test_appeals_are_listed_shown_and_decided(provider: Provider, say: Say) -> None:
    assert say("accounts", "measure", "good", "suspended", "--reason", "spam", "--id", "m-1", "--evidence", "case 7")[0] == 0
    assert "There are none." in "".join(say("appeals", "list")[1:])
    with stored(provider) as store:
        appeal = store.file_appeal("good", "m-1", "It was not us.\nReally.", actor="sam")
    assert appeal.id in say("appeals", "list", "--account", "good")[1]
    shown = say("appeals", "show", appeal.id)[1]
    for words in ("It was not us.", "Really.", "by sam", "m-1: suspended, spam", "case 7"):
        assert words in shown
    assert say("appeals", "decide", appeal.id, "--answer", "Yes.")[0] == 2
    assert say("appeals", "decide", appeal.id, "--answer", "Yes.", "--uphold", "--reject")[0] == 2
    assert say("appeals", "decide", appeal.id, "--answer", "Yes.", "--uphold", "--actor", "ann")[0] == 0
    listed = json.loads(say("appeals", "list", "--state", "upheld", "--json")[1])["appeals"]
    assert [(one["id"], one["ended_by"], one["answer"]) for one in listed] == [(appeal.id, "ann", "Yes.")]
    assert "Yes." in say("appeals", "show", appeal.id)[1]
    assert json.loads(say("accounts", "export", "good")[1])["appeals"][0]["text"] == "It was not us.\nReally."
    with stored(provider) as store:
        account = store.by_id("good")
        assert account is not None
        assert account.standing_at(now()).step is Standing.GOOD
    assert say("appeals", "decide", appeal.id, "--answer", "No.", "--reject")[0] == 2
    assert say("appeals", "show", "ap_none")[0] == 2
