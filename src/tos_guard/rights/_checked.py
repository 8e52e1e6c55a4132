"""What accounts and all that belongs to them have in common: plain values that pydantic has checked."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tos_guard.errors import AccountError

__all__ = ["Checked"]


class Checked(BaseModel):
    """A frozen value that refuses what it does not know, with our error."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **members: Any) -> None:
        try:
            super().__init__(**members)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join((type(self).__name__.lower(), *(str(part) for part in first["loc"])))
            raise AccountError(first["msg"], where=where) from None
