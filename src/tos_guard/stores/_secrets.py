"""Secrets of other systems: read where they are used, from a file of their own or from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

from tos_guard.config import SecretPlace
from tos_guard.errors import ConfigurationError
from tos_guard.stores._files import read_secret_file

__all__ = ["read_secret"]


def read_secret(place: SecretPlace, environment: Mapping[str, str] = os.environ) -> str:
    """The secret at *place*, without the white space around it.

    Raises:
        ConfigurationError: There is none. It says where, and nothing of the secret.
        KeyFileError: The file cannot be read, or others than its owner may read it.
    """
    if place.file is not None:
        try:
            text = read_secret_file(place.file).decode("utf-8").strip()
        except UnicodeDecodeError:
            text = ""
    else:
        text = environment.get(place.variable or "", "").strip()
    if not text:
        raise ConfigurationError("holds no secret", where=str(place), cure="Set it, and let nobody else read it.")
    return text
