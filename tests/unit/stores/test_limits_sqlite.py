"""The file of the limits: time across reboots, what it keeps, and what it says when it is damaged."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tos_guard.errors import ConfigurationError, StoreError
from tos_guard.limits import Amounts, Calendar, Charge, Dimension, Limit, LimitRefusal, Quantity, Reservation, Sliding, account_limits
from tos_guard.stores import SQLiteLimits, SQLiteStore
from tos_guard.stores._limits_sqlite import host_boot, host_seconds

LEASE = timedelta(seconds=30)
ACCOUNT = (Dimension.ACCOUNT,)
LIMITS = (
    Limit(id="tokens", quantity=Quantity.TOKENS, amount=100, per=ACCOUNT, window=Sliding(60), burst=100),
    Limit(id="cost", quantity=Quantity.COST, amount=100, per=ACCOUNT, window=Calendar("hour")),
    Limit(id="running", quantity=Quantity.CONCURRENCY, amount=3, per=ACCOUNT, window=None),
)


class Host:
    """A machine that can be started again."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "limits.db"
        self.wall = datetime(2026, 11, 22, 12, tzinfo=UTC)
        self.seconds = 500.0
        self.boot = "first"
        self.engines: list[SQLiteLimits] = []

    def engine(self) -> SQLiteLimits:
        self.engines.append(SQLiteLimits(self.path, clock=lambda: self.wall, monotonic=lambda: self.seconds, boot=self.boot))
        return self.engines[-1]

    def move(self, seconds: float) -> None:
        self.seconds += seconds
        self.wall += timedelta(seconds=seconds)

    def reboot(self, *, off: float, boot: str = "second", uptime: float = 3.0) -> None:
        """The machine was off for a time."""
        for engine in self.engines:
            engine.close()
        self.wall += timedelta(seconds=off + uptime)
        self.seconds, self.boot = uptime, boot

    def rows(self, table: str) -> int:
        connection = sqlite3.connect(self.path)
        try:
            count: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        finally:
            connection.close()
        return count


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    machine = Host(tmp_path)
    yield machine
    for engine in machine.engines:
        engine.close()


def charges(amount: int, account: str = "acme") -> tuple[Charge, ...]:
    return account_limits(LIMITS, account=account).charges(Amounts(input_tokens=amount, cost=amount), model="m", action="generate")


def used(engine: SQLiteLimits) -> list[int]:
    return [state.used for state in engine.states(charges(0))]


def test_trap_restart(host: Host) -> None:
    """Usage, open reservations and slots outlive a restart of all processes; what was open can be settled by the new ones."""
    engine = host.engine()
    reservation = engine.reserve(charges(80), id="r", lease=LEASE)
    assert isinstance(reservation, Reservation)
    engine.close()
    host.move(5)
    engine = host.engine()
    assert isinstance(engine.reserve(charges(30), id="r2", lease=LEASE), LimitRefusal)
    assert used(engine) == [80, 80, 1]
    engine.settle(reservation, Amounts(input_tokens=10, cost=10))
    assert used(engine) == [10, 10, 0]


@pytest.mark.parametrize("boot", ["second", "first"])
def test_after_a_reboot_what_passed_on_the_wall_has_passed(host: Host, boot: str) -> None:
    """Ten minutes of use, a reboot of twenty seconds: the window and the lease go on for what is left of them. Without a name of the
    boot, a clock that went back tells."""
    engine = host.engine()
    for _ in range(10):
        host.move(60)
        engine.states(())
    engine.reserve(charges(80), id="r", lease=LEASE)
    host.reboot(off=20, boot=boot)
    engine = host.engine()
    assert used(engine) == [80, 80, 1]
    host.move(8)
    assert used(engine) == [80, 80, 0]
    host.move(35)
    assert used(engine) == [0, 80, 0]


def test_a_reboot_without_a_clock_takes_no_time(host: Host) -> None:
    """Where the wall clock begins in the past, nothing passed; it is never subtracted, and time goes on."""
    engine = host.engine()
    host.move(100)
    engine.reserve(charges(80), id="r", lease=LEASE)
    host.reboot(off=-3_000_000)
    engine = host.engine()
    assert used(engine) == [80, 80, 1]
    assert isinstance(engine.reserve(charges(30), id="r2", lease=LEASE), LimitRefusal)
    host.move(66)
    assert used(engine) == [0, 80, 0]


def test_a_machine_that_is_up_for_longer_than_before_is_another_one_all_the_same(host: Host) -> None:
    """The monotonic clock of the new boot is ahead of the old one's: the name of the boot tells."""
    engine = host.engine()
    engine.reserve(charges(80), id="r", lease=LEASE)
    host.reboot(off=0, uptime=505)
    assert used(host.engine()) == [0, 80, 0]


def test_two_processes_with_other_clocks_keep_to_the_wall(host: Host) -> None:
    """Containers may have a monotonic clock of their own. Time then passes as it does on the wall, and never back."""
    here = host.engine()
    host.boot = "container"
    there = SQLiteLimits(host.path, clock=lambda: host.wall, monotonic=lambda: host.seconds + 10_000, boot="container")
    host.engines.append(there)
    here.reserve(charges(80), id="r", lease=LEASE)
    for _ in range(10):
        host.move(6.6)
        there.reserve(charges(0, "other"), id=f"there-{host.seconds}", lease=LEASE)
        here.reserve(charges(0, "other"), id=f"here-{host.seconds}", lease=LEASE)
        assert used(here) == used(there)
    assert used(here)[0] == 0


def test_the_host_tells_its_clock_and_boot() -> None:
    """The same in all processes of the machine, and going on."""
    child = os.fork()
    if not child:
        host_boot.cache_clear()
        os._exit(0 if host_boot() == BOOT and host_seconds() >= SECONDS else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


BOOT, SECONDS = host_boot(), host_seconds()


def test_rows_that_count_nothing_are_removed(host: Host) -> None:
    """Accounts that came once leave nothing behind; a reservation leaves when it is settled or ends."""
    engine = host.engine()
    for number in range(300):
        engine.reserve(charges(1, f"account-{number}"), id=str(number), lease=LEASE)
    assert (host.rows("counters"), host.rows("reservations")) == (1_200, 300)
    host.move(3_700)
    for number in range(1_500):
        host.move(1)
        answer = engine.reserve(charges(1), id=f"again-{number}", lease=LEASE)
        if isinstance(answer, Reservation):
            engine.settle(answer, None)
    assert host.rows("counters") <= 4
    assert host.rows("reservations") == 0


def test_rows_behind_those_that_count_are_removed_too(host: Host) -> None:
    """Hundreds of costs of this hour stand before the tokens of a past minute."""
    engine = host.engine()
    for number in range(300):
        engine.reserve(charges(1, f"account-{number}"), id=str(number), lease=LEASE)
    host.move(100)
    for number in range(1_500):
        engine.settle(engine.reserve(charges(0), id=f"again-{number}", lease=LEASE), None)  # type: ignore[arg-type]
    assert 300 <= host.rows("counters") <= 304


def test_thousands_that_end_at_once_hold_up_nobody(host: Host) -> None:
    """Ended reservations are cleared away some at a time; whoever looks sees them as ended, and none can be renewed."""
    engine = host.engine()
    reservations = [engine.reserve(charges(0, f"account-{number:04}"), id=f"{number:04}", lease=LEASE) for number in range(600)]
    host.move(31)
    last = reservations[-1]
    assert isinstance(last, Reservation)
    assert [state.used for state in engine.states(last.charges)] == [0, 0, 0]
    assert host.rows("reservations") == 600
    engine.renew(last, lease=LEASE)
    assert host.rows("reservations") == 600 - 256
    engine.settle(last, None)
    assert host.rows("reservations") == 600 - 2 * 256
    engine.cancel(last)
    assert host.rows("reservations") == 0
    assert [state.used for state in engine.states(last.charges)] == [0, 0, 0]


def test_its_files_are_private(host: Host) -> None:
    """Nobody but the owner reads who used how much."""
    host.engine().reserve(charges(5), id="r", lease=LEASE)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in host.path.parent.iterdir()}
    assert {"limits.db", "limits.db.lock", "limits.db-wal"} <= modes.keys()
    assert set(modes.values()) == {0o600}


def test_another_file_is_refused(host: Host) -> None:
    """The accounts' file is not the limits'."""
    SQLiteStore(host.path, issuer="https://a.example", clock=lambda: host.wall).close()
    with pytest.raises(ConfigurationError, match="does not keep limits"):
        host.engine()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE counters SET numbers = x'00'",
        "UPDATE counters SET numbers = 'text'",
        "UPDATE reservations SET marks = 'text'",
        "UPDATE reservations SET slots = 'text', expires = 0",
        "DROP TABLE counters",
        "DROP TABLE clock",
    ],
)
def test_a_damaged_file_is_an_error_of_the_engine(host: Host, damage: str) -> None:
    """Never another exception, and never a request that goes uncounted."""
    engine = host.engine()
    reservation = engine.reserve(charges(5), id="r", lease=LEASE)
    connection = sqlite3.connect(host.path)
    connection.execute(damage)
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match=r"limits\.db"):
        engine.settle(reservation, None)  # type: ignore[arg-type]
        engine.reserve(charges(5), id="r2", lease=LEASE)


def test_a_child_of_a_fork_shares_what_its_parent_uses(host: Host) -> None:
    """Over a fork, one count: the engine was made before the workers were."""
    engine = host.engine()
    engine.reserve(charges(60), id="parent", lease=LEASE)
    child = os.fork()
    if not child:
        refused = isinstance(engine.reserve(charges(60), id="child-1", lease=LEASE), LimitRefusal)
        admitted = isinstance(engine.reserve(charges(30), id="child-2", lease=LEASE), Reservation)
        os._exit(0 if refused and admitted else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert used(engine) == [90, 90, 2]
