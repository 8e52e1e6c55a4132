"""What every test may ask for, and the rule that a run under CI skips nothing.

- `shared`: the folder of public vectors and data that stands beside the clone.
- With ``CI=true`` an absent folder is a failure, and so is any skipped test: a skip that nobody reads hides a missing engine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from engines import postgres_conninfo, valkey_url

pytest_plugins = ["serving"]  # the fixtures serve and serve_process

ROOT = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}

# No deadline: how long an example takes depends on the machine. Under CI the examples are the same in every run.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if IN_CI else "local")


@pytest.fixture(scope="session")
def root() -> Path:
    """The clone."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``shared`` beside the clone: ``shared/vectors``, ``shared/data``."""
    folder = ROOT.parent / "shared"
    if (folder / "vectors").is_dir():
        return folder
    reason = f"{folder} is absent: the public vectors were NOT checked. Put the folder beside the clone."
    if IN_CI:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """URL of a Valkey server that all tests share: each takes a domain of its own."""
    with valkey_url() as url:
        yield url


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Conninfo of a PostgreSQL server that all tests share: each takes a database of its own (`engines.new_database`)."""
    with postgres_conninfo() as conninfo:
        yield conninfo


def _skipped(config: pytest.Config) -> list[str]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return []
    return [
        f"{report.nodeid}: {report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr}"
        for report in reporter.stats.get("skipped", [])
    ]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under CI, a run that skipped anything has failed."""
    is_worker = hasattr(session.config, "workerinput")
    if IN_CI and not is_worker and session.exitstatus == pytest.ExitCode.OK and _skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the tables that tests recorded as ``counts``, and name what was skipped, so that it cannot be overlooked."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "counts" and report.when == "call":
                terminalreporter.section(report.nodeid)
                terminalreporter.write_line(str(value))
    skipped = _skipped(config)
    if not skipped:
        return
    terminalreporter.section("NOT CHECKED" + (" (a failure under CI)" if IN_CI else ""), red=IN_CI, yellow=not IN_CI)
    for line in skipped:
        terminalreporter.line(line)
