"""Tensors as bytes, whichever way they came: the elements in row-major order, little-endian (docs/spec/projection.md infer-1).

What cannot be written so has no bytes, and None is said of it: a datatype we do not know, a number out of its range, a count that is not
the product of the shape.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final

from tos_guard._canonical import MAX_SAFE_INTEGER
from tos_guard.provenance import encode_text

__all__ = ["DATATYPES", "element_count", "elements_from_json", "pack_integers", "pack_strings", "raw_tensor", "shape_bytes"]

MAX_ELEMENTS: Final = 1 << 40  # far more than a message holds; a product beyond it is not worth computing
MAX_NESTING: Final = 64  # as JSON bodies
LENGTH_BYTES: Final = 4  # before each element of BYTES

_INTEGERS: Final = {
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
}
_FLOATS: Final = {"FP16": "e", "FP32": "f", "FP64": "d"}
_SIZES: Final = {
    "BOOL": 1,
    "BF16": 2,  # of which Python packs none: raw bytes only
    **{name: struct.calcsize(f"<{code}") for name, code in (_INTEGERS | _FLOATS).items()},
}

DATATYPES: Final = frozenset({*_SIZES, "BYTES"})
"""Datatypes whose elements have bytes."""


def shape_bytes(shape: Sequence[int]) -> bytes | None:
    """The RFC 8785 bytes of a shape, or None where it has none."""
    if any(not -MAX_SAFE_INTEGER <= size <= MAX_SAFE_INTEGER for size in shape):
        return None
    return ("[" + ",".join(map(str, shape)) + "]").encode("ascii")


def element_count(shape: Sequence[int]) -> int | None:
    """How many elements a tensor of this shape has, or None where none can have it."""
    if any(size < 0 for size in shape):
        return None
    if 0 in shape:
        return 0
    count = 1
    for size in shape:
        count *= size
        if count > MAX_ELEMENTS:
            return None
    return count


def raw_tensor(datatype: str, data: memoryview, count: int) -> bytes | memoryview | None:
    """Bytes that are the elements already, if there are as many as must be."""
    size = _SIZES.get(datatype)
    if size is not None:
        return data if len(data) == size * count else None
    return data if datatype == "BYTES" and _count_strings(data, count) == count else None


def _count_strings(data: memoryview, most: int) -> int | None:
    """How many elements of BYTES there are, at most one more than *most*; None where the last is cut."""
    found = at = 0
    while at < len(data) and found <= most:
        at += LENGTH_BYTES + int.from_bytes(data[at : at + LENGTH_BYTES], "little")
        found += 1
    return found if at == len(data) else None


def pack_integers(datatype: str, numbers: Iterable[int], count: int) -> bytes | None:
    """Integers, or truth values of BOOL as such."""
    values = list(numbers)
    if len(values) != count:
        return None
    return bytes(map(bool, values)) if datatype == "BOOL" else _packed(_INTEGERS[datatype], values)


def pack_strings(elements: Sequence[bytes | memoryview], count: int) -> bytes | None:
    """Elements of BYTES, each behind its length."""
    if len(elements) != count:
        return None
    pieces: list[bytes | memoryview] = []
    for element in elements:
        pieces += (len(element).to_bytes(LENGTH_BYTES, "little"), element)
    return b"".join(pieces)


def elements_from_json(datatype: str, data: list[Any], count: int) -> bytes | None:
    """The elements of a JSON array, nested or not. A number is taken as the double that it reads as, an integer as it is."""
    elements = _flat(data)
    if elements is None or len(elements) != count:
        return None
    kinds = set(map(type, elements))
    if datatype == "BOOL":
        return bytes(elements) if kinds <= {bool} else None
    if datatype in _INTEGERS:
        return _packed(_INTEGERS[datatype], elements) if kinds <= {int} else None
    if datatype in _FLOATS:
        # 1e400 is JSON, and infinite once read.
        plain = kinds <= {int, float} and not (
            float in kinds and any(type(element) is float and math.isinf(element) for element in elements)
        )
        return _packed(_FLOATS[datatype], elements) if plain else None
    if datatype == "BYTES" and kinds <= {str}:
        encoded = [text for element in elements if (text := encode_text(element)) is not None]
        return pack_strings(encoded, count)  # of which there are too few if one has no UTF-8
    return None


def _flat(data: list[Any]) -> list[Any] | None:
    for _ in range(MAX_NESTING):
        if not any(type(element) is list for element in data):
            return data
        data = [element for part in data for element in (part if type(part) is list else (part,))]
    return None


def _packed(code: str, values: Sequence[Any]) -> bytes | None:
    try:
        return struct.pack(f"<{len(values)}{code}", *values)
    except (struct.error, OverflowError):
        return None
