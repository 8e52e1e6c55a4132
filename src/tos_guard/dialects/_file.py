"""Files and media: any request, answered by bytes that are passed on as they are (projection ``bytes-1``)."""

from __future__ import annotations

from tos_guard.dialects._plain import PlainDialect
from tos_guard.dialects._projection import BytesProjection, Projection

__all__ = ["FileDialect"]


class FileDialect(PlainDialect):
    """Any method, with a body or without; whatever it has is read as that of `PlainDialect`, so that it names no model unseen.

    JSON in a response is a file like any other: no byte of it is touched.
    """

    name = "file"
    projection: type[Projection] = BytesProjection
