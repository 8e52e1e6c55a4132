"""Reading the claims of our own documents member by member, each with its form (docs/spec/token.md T9)."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, Final, TypeVar

from tos_guard._canonical import is_digest
from tos_guard.errors import MalformedError

__all__ = ["ID", "ORIGIN", "ClaimReader"]

ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Form of the ids in our documents."""

_LOOPBACK = r"http://(?:localhost|127\.0\.0\.1|\[::1\])"
ORIGIN: Final = re.compile(rf"(?:https://[a-z0-9.-]{{1,253}}|https://\[[0-9a-f:.]+\]|{_LOOPBACK})(?::[0-9]{{1,5}})?")
"""Form of an issuer."""

_Word = TypeVar("_Word", bound=StrEnum)


class ClaimReader:
    """Takes members of one JSON object, each with its form. Every method raises `MalformedError` where the form is another."""

    def __init__(self, members: dict[str, Any], where: str) -> None:
        self._members = members
        self._where = where

    def _wrong(self, name: str, form: str) -> MalformedError:
        return MalformedError(f"{name} is {'not ' + form if name in self._members else 'missing'}", where=self._where)

    def string(self, name: str, shortest: int = 0, longest: int | None = None) -> str:
        """A string of so many characters."""
        value = self._members.get(name)
        if not isinstance(value, str) or len(value) < shortest or (longest is not None and len(value) > longest):
            raise self._wrong(name, "a string" if longest is None else f"a string of {shortest} to {longest} characters")
        return value

    def matching(self, name: str, form: re.Pattern[str]) -> str:
        """A string that has the form as a whole."""
        value = self.string(name)
        if form.fullmatch(value) is None:
            raise self._wrong(name, "of the form the format asks for")
        return value

    def integer(self, name: str) -> int:
        """An integer."""
        value = self._members.get(name)
        if type(value) is not int:  # a bool is an int to Python, and none to JSON
            raise self._wrong(name, "an integer")
        return value

    def object(self, name: str) -> dict[str, Any]:
        """An object."""
        value = self._members.get(name)
        if not isinstance(value, dict):
            raise self._wrong(name, "an object")
        return value

    def digest(self, name: str) -> str:
        """32 bytes as canonical base64url."""
        value = self._members.get(name)
        if not is_digest(value):
            raise self._wrong(name, "a digest of 43 characters")
        return str(value)

    def word(self, name: str, words: type[_Word]) -> _Word:
        """One of the words."""
        value = self._members.get(name)
        try:
            return words(str(value))
        except ValueError:
            raise self._wrong(name, f"one of {', '.join(words)}") from None
