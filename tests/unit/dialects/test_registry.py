"""Dialects by name: what settings accept is what there is."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError

from tos_guard.config import MAY_NAME_NO_MODEL, DialectName, RouteSettings
from tos_guard.dialects import DIALECT_NAMES, NEED_MODEL, dialect_named
from tos_guard.errors import ConfigurationError


def test_settings_name_the_dialects_that_there_are() -> None:
    assert set(get_args(DialectName)) == DIALECT_NAMES
    assert MAY_NAME_NO_MODEL == NEED_MODEL


@pytest.mark.parametrize("name", sorted(DIALECT_NAMES))
def test_every_dialect_is_made_by_its_name(name: str) -> None:
    assert dialect_named(name, action="embed", model="m").name == name


@pytest.mark.parametrize("name", sorted(NEED_MODEL))
def test_a_route_whose_requests_may_name_no_model_must_name_one(name: str) -> None:
    with pytest.raises(ConfigurationError, match="needs a model"):
        dialect_named(name)
    with pytest.raises(ValidationError, match='needs model = "…"'):
        RouteSettings.model_validate({"dialect": name})


def test_an_unknown_dialect_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigurationError, match="openai-chat"):
        dialect_named("openai-chatter")
