"""The protobuf wire format, read strictly and without a schema compiler (protobuf.dev, "Encoding").

What the serialiser sent and what a client serialised again must mean the same to us, so values are read and not bytes compared. Rules:

- A message is fields one after another to its end; lengths stay within it. Groups, which nobody has written since 2008, are refused.
- Numbers of ten bytes at most, no bit beyond 64. Longer spellings of one number are read, as every parser reads them.
- A field that a schema has once and that occurs twice is refused: parsers keep the last or merge the two, and readers differ.
- Repeated numbers are read packed or not, as parsers must.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

from tos_guard.errors import MalformedError

__all__ = ["Field", "Wire", "encode_field", "fields_of", "floats_of", "read_text", "signed", "varints_of"]

MAX_FIELD_NUMBER: Final = (1 << 29) - 1
MAX_VARINT_BYTES: Final = 10  # 64 bits, seven in each
_SIGN: Final = 1 << 63
_WHOLE: Final = 1 << 64


class Wire(IntEnum):
    """How a field's value is written."""

    VARINT = 0
    FIXED64 = 1
    BYTES = 2
    FIXED32 = 5


class Field(NamedTuple):
    """One field of a message.

    Attributes:
        number: Its number.
        wire: How its value is written.
        varint: The value of a varint, from 0 to 2^64-1; 0 for other fields.
        data: The bytes of any other value; empty for a varint.
        start: Where the field begins in the message.
        end: Where it ends.
    """

    number: int
    wire: Wire
    varint: int
    data: memoryview
    start: int
    end: int


_FIXED: Final = {Wire.FIXED64: 8, Wire.FIXED32: 4}
_NOTHING: Final = memoryview(b"")
_WIRES: Final = {wire.value: wire for wire in Wire}


def fields_of(message: bytes | memoryview, *, where: str) -> Iterator[Field]:
    """The fields of a message in their order.

    Raises:
        MalformedError: It is not a message, as is seen when the iteration comes to the fault.
    """
    view = memoryview(message)
    size = len(view)
    at = 0
    while at < size:
        start = at
        key, at = _varint(view, at, where)
        number, wire = key >> 3, _WIRES.get(key & 7)
        if wire is None or not 1 <= number <= MAX_FIELD_NUMBER:
            raise MalformedError(f"has no field at byte {start}", where=where)
        if wire is Wire.VARINT:
            value, at = _varint(view, at, where)
            yield Field(number, wire, value, _NOTHING, start, at)
            continue
        if wire is Wire.BYTES:
            length, at = _varint(view, at, where)
        else:
            length = _FIXED[wire]
        end = at + length
        if end > size:
            raise MalformedError(f"a field at byte {start} is longer than what holds it", where=where)
        yield Field(number, wire, 0, view[at:end], start, end)
        at = end


def _varint(view: memoryview, at: int, where: str) -> tuple[int, int]:
    """A number and where it ends."""
    value = 0
    size = len(view)
    for index in range(MAX_VARINT_BYTES):
        if at >= size:
            raise MalformedError("ends within a number", where=where)
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value >= _WHOLE:
                break
            return value, at
    raise MalformedError(f"a number before byte {at} has more than 64 bits", where=where)


def signed(value: int) -> int:
    """A varint as the two's complement that ``int32`` and ``int64`` are written in."""
    return value - _WHOLE if value >= _SIGN else value


def varints_of(field: Field, *, where: str) -> Iterator[int]:
    """The numbers of a repeated field of varints, packed or not, from 0 to 2^64-1.

    Raises:
        MalformedError: It is of another wire type, or cut.
    """
    if field.wire is Wire.VARINT:
        yield field.varint
    elif field.wire is Wire.BYTES:
        at = 0
        while at < len(field.data):
            value, at = _varint(field.data, at, where)
            yield value
    else:
        raise MalformedError(f"field {field.number} holds no integers", where=where)


def floats_of(field: Field, wire: Wire, *, where: str) -> memoryview:
    """The bytes of a repeated field of ``float`` or ``double``, packed or not: little-endian, one number after another.

    Raises:
        MalformedError: It is of another wire type, or cut.
    """
    if field.wire is wire or (field.wire is Wire.BYTES and len(field.data) % _FIXED[wire] == 0):
        return field.data
    raise MalformedError(f"field {field.number} holds no numbers of {_FIXED[wire]} bytes", where=where)


def read_text(field: Field, *, where: str) -> str:
    """The value of a ``string`` field.

    Raises:
        MalformedError: It is of another wire type, or not UTF-8.
    """
    if field.wire is not Wire.BYTES:
        raise MalformedError(f"field {field.number} is no string", where=where)
    try:
        return str(field.data, "utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"field {field.number} is not UTF-8 at its byte {error.start}", where=where) from None


def encode_field(number: int, data: bytes) -> bytes:
    """A length-delimited field as serialisers write it."""
    return b"".join((_encode_varint(number << 3 | Wire.BYTES), _encode_varint(len(data)), data))


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
