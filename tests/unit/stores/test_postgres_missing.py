"""What PostgreSQL needs is imported when a setting names it, and named where it is missing."""

from __future__ import annotations

import subprocess
import sys

WITHOUT = """
import sys
sys.modules["psycopg"] = None
from tos_guard import stores
from tos_guard.errors import ConfigurationError
try:
    stores.PostgresStore
except ConfigurationError as error:
    print(error)
"""

UNTOUCHED = """
import sys
from tos_guard import stores
stores.SQLiteStore, stores.open_store
print([name for name in sys.modules if name.partition(".")[0] in ("psycopg", "psycopg_pool")])
"""


def run(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout


def test_the_extra_is_named_where_it_is_missing():
    assert 'pip install "tos-guard[postgres]"' in run(WITHOUT)


def test_nothing_of_it_is_imported_before():
    assert run(UNTOUCHED).strip() == "[]"
