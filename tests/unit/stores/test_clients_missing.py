"""What PostgreSQL and Valkey need is imported when a setting names it, and named where it is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT = """
import sys
sys.modules["{}"] = None
from tos_guard import stores
from tos_guard.errors import ConfigurationError
try:
    stores.{}
except ConfigurationError as error:
    print(error)
"""

UNTOUCHED = """
import sys
from tos_guard import stores
stores.SQLiteStore, stores.open_store
print([name for name in sys.modules if name.partition(".")[0] in ("psycopg", "psycopg_pool", "redis", "hiredis")])
"""


def run(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("module", "name", "extra"),
    [
        ("psycopg", "PostgresStore", "postgres"),
        ("redis", "ValkeyLimits", "redis"),
        ("redis", "AsyncValkeyLimits", "redis"),
        ("redis", "ValkeyReplays", "redis"),
        ("redis", "AsyncValkeyReplays", "redis"),
        ("redis", "look_at_engine", "redis"),
    ],
)
def test_the_extra_is_named_where_it_is_missing(module: str, name: str, extra: str):
    assert f'pip install "tos-guard[{extra}]"' in run(WITHOUT.format(module, name))


def test_nothing_of_it_is_imported_before():
    assert run(UNTOUCHED).strip() == "[]"
