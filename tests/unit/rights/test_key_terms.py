"""What one key is for: never read as more than was written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tos_guard.errors import AccountError
from tos_guard.rights import UNLIMITED_KEY, Binding, KeyTerms

NAMES = st.none() | st.frozensets(
    st.text(st.characters(codec="utf-8", categories=("L", "N", "P")), min_size=1, max_size=20), min_size=1, max_size=5
)
TIMES = st.none() | st.integers(0, 4_000_000_000_000).map(lambda ms: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms))
PRINTS = st.none() | st.sampled_from(["A" * 43, "B" * 43])


@given(NAMES, NAMES, TIMES, PRINTS, PRINTS)
def test_what_was_written_is_read_again(actions: Any, models: Any, expires: Any, jkt: str | None, x5t: str | None) -> None:
    terms = KeyTerms(actions, models, expires, Binding(jkt, x5t))
    assert KeyTerms.from_document(terms.document()) == terms


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {"action": ["generate"]},
        {"actions": []},
        {"actions": [1]},
        {"actions": ["a\n"]},
        {"models": [""]},
        {"models": 7},
        {"expires": "soon"},
        {"expires": 10**30},
        {"jkt": "short"},
        {"scopes": []},
    ],
)
def test_what_cannot_be_read_is_not_passed_over(document: Any) -> None:
    """A member that this release does not know may have said what the key is not for."""
    with pytest.raises(AccountError):
        KeyTerms.from_document(document)


def test_a_key_is_for_its_actions_and_models_alone() -> None:
    terms = KeyTerms(frozenset({"generate"}), frozenset({"small"}))
    asked = [("generate", "small"), ("generate", "large"), ("classify", "small"), ("*", "*")]
    assert [terms.permits(*each) for each in asked] == [True, False, False, False]
    assert all(UNLIMITED_KEY.permits(*each) for each in asked)
    assert not terms.permits_account_routes
    assert KeyTerms(actions=frozenset({"account"})).permits_account_routes
    assert KeyTerms(models=frozenset({"small"})).permits_account_routes


def test_times_have_zones_and_names_are_few() -> None:
    for wrong in ({"expires": datetime(2027, 1, 1)}, {"actions": frozenset()}, {"models": frozenset(map(str, range(65)))}):  # noqa: DTZ001 - that is the fault
        with pytest.raises(AccountError):
            KeyTerms(**wrong)  # type: ignore[arg-type]
