"""What `tos-guard doctor` concludes from what it has seen: clocks, mounts, middleware, the pace of a stream."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tos_guard.cli._doctor._check import Check
from tos_guard.cli._doctor._http import Answer, Origin, UnreachableError, ask
from tos_guard.cli._doctor._installation import MOUNTS, check_clock, network_file_system
from tos_guard.cli._doctor._layers import check_layers, layers_of
from tos_guard.cli._doctor._sealed import Question, is_held_back, is_in_one_piece
from tos_guard.dialects import DIALECT_NAMES, dialect_named
from tos_guard.errors import ConfigurationError

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)


def codes(checks: Iterable[Check]) -> list[str]:
    return [check.code for check in checks if check.level != "ok"]


# The clock


@pytest.mark.parametrize(
    ("now", "wrong"),
    [
        (NOW, []),
        (datetime(1970, 1, 1, tzinfo=UTC), ["clock"]),
        (datetime(2026, 10, 31, tzinfo=UTC), ["clock"]),
        (datetime(2106, 2, 7, tzinfo=UTC), ["clock"]),
    ],
)
def test_a_clock_that_cannot_be_right_is_named(now: datetime, wrong: list[str]) -> None:
    """Before this program was written, or far beyond its keys."""
    assert codes(check_clock(None, None, now)) == wrong


# File systems

SHOWN = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /mnt/with\040space rw - nfs4 server:/export rw,vers=4.2
31 22 0:41 / /srv rw - cifs //server/share rw
32 31 8:2 / /srv/local rw - xfs /dev/sdb1 rw
33 22 0:42 / /data rw - fuse.sshfs user@host: rw
34 22 0:43 / /over rw - nfs server:/a rw
35 22 8:3 / /over rw - ext4 /dev/sdc1 rw
broken line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/tos-guard.db", None),
        ("/mnt/with space/tos-guard.db", "nfs4"),
        ("/mnt/with space", "nfs4"),
        ("/mnt/with spaces/x", None),
        ("/srv/tos-guard.db", "cifs"),
        ("/srv/local/tos-guard.db", None),
        ("/data/a/b/c.db", "fuse.sshfs"),
        ("/over/x.db", None),
    ],
)
def test_a_store_on_another_machine_is_known_by_its_mount(tmp_path: Path, path: str, kind: str | None) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(SHOWN)
    assert network_file_system(Path(path), mounts) == kind


def test_where_the_system_tells_no_mounts_nothing_is_claimed(tmp_path: Path) -> None:
    assert network_file_system(tmp_path, tmp_path / "none") is None
    assert network_file_system(tmp_path, MOUNTS) is None


# Middleware


class Wrapper:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


@pytest.mark.parametrize("app", [lambda scope: None, object(), None, Wrapper(Wrapper(None)), 5])
def test_what_is_no_guarded_application_has_no_guard(app: Any) -> None:
    assert codes(check_layers(layers_of(app))) == ["no-guard"]


def test_a_ring_of_wrappers_ends() -> None:
    ring = Wrapper(None)
    ring.app = ring
    assert codes(check_layers(layers_of(ring))) == ["no-guard"]


# The pace of a stream


@pytest.mark.parametrize(
    ("signed", "head_at", "last", "held"),
    [
        (0, 0.01, 0.02, False),  # too quick to tell
        (1, 0.01, 0.02, False),  # two signed seconds may be a moment apart
        (2, 0.01, 0.02, True),
        (2, 0.01, 1.5, False),
        (3, 3.01, 3.02, True),  # the head waited as well
        (30, 0.1, 30.2, False),
    ],
)
def test_a_stream_is_held_back_where_it_arrives_faster_than_it_was_made(signed: int, head_at: float, last: float, held: bool) -> None:
    """By the times that the server signed, so that no patience of a model is taken for a proxy."""
    assert is_held_back(signed, head_at, ((head_at, 10), (last, 20))) is held


@pytest.mark.parametrize(
    ("events", "arrivals", "together"),
    [
        (12, ((2.0, 900),), True),
        (12, ((2.0, 400), (2.01, 900)), True),
        (12, ((0.2, 400), (2.0, 900)), False),
        (2, ((2.0, 900),), False),
        (12, ((0.5, 900),), False),
        (12, (), False),
    ],
)
def test_events_that_arrive_together_after_a_while_are_pointed_out(
    events: int, arrivals: tuple[tuple[float, int], ...], together: bool
) -> None:
    assert is_in_one_piece(events, 0.1, arrivals) is together


# HTTP


@pytest.mark.parametrize(
    ("url", "text", "confidential"),
    [
        ("https://api.example.com", "https://api.example.com", True),
        ("https://api.example.com:8443/", "https://api.example.com:8443", True),
        ("http://localhost:8000", "http://localhost:8000", True),
        ("http://[::1]:8000", "http://[::1]:8000", True),
        ("http://10.0.0.5", "http://10.0.0.5", False),
        ("http://localhost.example.com", "http://localhost.example.com", False),
    ],
)
def test_an_origin_is_confidential_over_tls_or_on_this_machine(url: str, text: str, confidential: bool) -> None:
    origin = Origin.of(url)
    assert (str(origin), origin.is_confidential) == (text, confidential)


@pytest.mark.parametrize(
    "url", ["", "x", "http://", "https://a/b", "https://a?b", "https://a#b", "https://u:p@a", "http://a:b", "http://[::1"]
)
def test_what_is_no_origin_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="--url"):
        Origin.of(url)


def test_fields_of_one_name_are_one_value() -> None:
    answer = Answer(200, (("Link", "a"), ("link", "b"), ("X", "c")), b"", (), 0.0)
    assert (answer.field("link"), answer.field("none")) == ("a, b", None)
    assert answer.head_bytes == len("Link: a\r\nlink: b\r\nX: c\r\n")


def test_a_host_that_is_none_is_unreachable() -> None:
    with pytest.raises(UnreachableError):
        ask(Origin("http", "nowhere.invalid", 80), "GET", "/", headers={})


# The guide


def test_the_guide_explains_every_finding_and_no_other(root: Path) -> None:
    """A code that somebody searches for is in the table, and what is in the table can be found."""
    source = "\n".join(path.read_text() for path in sorted((root / "src" / "tos_guard" / "cli" / "_doctor").glob("*.py")))
    made = set(re.findall(r'\b(?:problem|warning|level|_broken)\(\s*"([a-z-]+)"', source))
    made |= set(re.findall(r'"(no-[a-z]+-key)"', source))
    guide = (root / "docs" / "guides" / "doctor.md").read_text()
    told = set(re.findall(r"^\| `([a-z-]+)` \|", guide, re.MULTILINE))
    assert told == made


@pytest.mark.parametrize("name", sorted(DIALECT_NAMES))
def test_a_route_that_streams_is_asked_in_words_that_its_dialect_reads(name: str) -> None:
    dialect = dialect_named(name, model="m")
    question = Question("/v1/any", "small", "key", name)
    assert question.can_stream is (dialect.stream_format(b"text/event-stream") is not None)
    if question.can_stream:
        facts = dialect.read_request(question.body(stream=True))
        assert (facts.model, facts.stream, facts.stores) == ("small", True, False)
        assert facts.max_output_tokens is not None
