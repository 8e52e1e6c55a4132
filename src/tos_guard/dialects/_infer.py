"""Open Inference (KServe v2, Triton): where the tensors of a response are, and where its messages carry the tag.

Implements projection ``infer-1`` (docs/spec/projection.md, P12) and the message carrier of gRPC (docs/spec/carriers.md). The same
tensors have the same leaves whether they came as JSON, as raw bytes or as typed contents: a client that serialises what it read again
can still prove it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final, Self

from tos_guard._canonical import b64url_encode
from tos_guard.dialects._body import TAG_MEMBER
from tos_guard.dialects._projection import Projection
from tos_guard.dialects._protobuf import Field, Wire, encode_field, fields_of, floats_of, read_text, signed, varints_of
from tos_guard.dialects._tensors import DATATYPES, element_count, elements_from_json, pack_integers, pack_strings, raw_tensor, shape_bytes
from tos_guard.errors import MalformedError
from tos_guard.provenance import Content, LeafTree, encode_text

__all__ = [
    "INFER_PROJECTION",
    "InferProjection",
    "StreamedInferProjection",
    "infer_streams",
    "read_infer_tag",
    "splice_infer_tag",
    "strip_infer_tag",
]

INFER_PROJECTION: Final = "infer-1"
MAX_MESSAGES: Final = 65_536  # P12: what a choice can number
MAX_OUTPUTS: Final = 4_096  # P12: models have a handful; a batch is one tensor
MAX_PARTS: Final = 65_536  # T11: what `n` can say
MAX_MESSAGE_FIELDS: Final = 65_536  # outputs, their raw contents and parameters; a message of empty fields would take seconds to read

_MESSAGE: Final = "infer response"
_METHOD: Final = re.compile(r"/[A-Za-z0-9_.]+/Model(Stream)?Infer")
_ELSEWHERE: Final = frozenset({"shared_memory_region", "binary_data_size"})
"""Parameters of an output whose data is in shared memory, or behind the JSON."""

# Field numbers (docs/spec/projection.md).
_PARAMETERS, _OUTPUTS, _RAW = 4, 5, 6
_NAME, _DATATYPE, _SHAPE, _OUTPUT_PARAMETERS, _CONTENTS = 1, 2, 3, 4, 5
_KEY, _VALUE, _STRING = 1, 2, 3
_ERROR_MESSAGE, _INFER_RESPONSE = 1, 2
_BYTES_CONTENTS: Final = 8
_CONTENTS_OF: Final = {
    "BOOL": 1,
    "INT8": 2,
    "INT16": 2,
    "INT32": 2,
    "INT64": 3,
    "UINT8": 4,
    "UINT16": 4,
    "UINT32": 4,
    "UINT64": 5,
    "FP32": 6,
    "FP64": 7,
    "BYTES": _BYTES_CONTENTS,
}
_FLOAT_CONTENTS: Final = {6: Wire.FIXED32, 7: Wire.FIXED64}
_SIGNED_CONTENTS: Final = frozenset({2, 3})
_CONTENTS_WIRES: Final = {**dict.fromkeys(range(1, 6), Wire.VARINT), **_FLOAT_CONTENTS, _BYTES_CONTENTS: Wire.BYTES}

_Part = tuple[str, bytes | memoryview | None]
"""Name of a part, and its bytes; None for what cannot be covered."""


def infer_streams(method: str) -> bool | None:
    """Whether a method of gRPC answers with a stream of Open Inference; None for one whose messages are not of it.

    Args:
        method: ``/package.Service/Method``.
    """
    known = _METHOD.fullmatch(method)
    return None if known is None else known[1] is not None


class InferProjection(Projection):
    """``infer-1``: the tensors of responses, one after another. Holds a digest of each part, and no tensor."""

    name = INFER_PROJECTION

    def __init__(self) -> None:
        super().__init__()
        self._tree = LeafTree()
        self.count: int = 0

    def add_body(self, body: Any) -> None:
        """Take a JSON response.

        Raises:
            MalformedError: It has no outputs, or they are not what P9 and P12 say.
        """
        outputs = body.get("outputs") if isinstance(body, dict) else None
        if not isinstance(outputs, list) or len(outputs) > MAX_OUTPUTS or not all(isinstance(output, dict) for output in outputs):
            raise MalformedError(f"has no array of at most {MAX_OUTPUTS} outputs", where=_MESSAGE)
        self._add(chain.from_iterable(_json_parts(f"outputs.{index}", output) for index, output in enumerate(outputs)))

    def add_message(self, message: bytes | memoryview, *, streamed: bool = False) -> bool:
        """Take the next response message as serialised. Returns whether it bears content.

        Args:
            message: A ``ModelInferResponse``.
            streamed: It is a ``ModelStreamInferResponse``, which holds one.

        Raises:
            MalformedError: It is not well formed (P12), or there are too many.
        """
        found: list[_Part] = []
        inner: bytes | memoryview = message
        if streamed:
            error, inner = _streamed(message)
            if error is not None:
                found.append(("error_message", error))
        return self._add(chain(found, _message_parts(inner)))

    def _add(self, parts: chain[_Part]) -> bool:
        if self.count >= MAX_MESSAGES:
            raise MalformedError(f"has more than {MAX_MESSAGES} messages", where=_MESSAGE)
        found = [(name, None if data is None else _digest(data)) for name, data in parts if data is None or len(data)]
        if self._tree.count + len(found) > MAX_PARTS:
            raise MalformedError(f"has more than {MAX_PARTS} parts", where=_MESSAGE)
        for name, digest in sorted(found, key=lambda part: part[0]):
            self._tree.append((self.count, name, digest))
        self.count += 1
        return bool(found)

    def note_body(self, body: Any) -> None:
        """Remember which members of a JSON response, already added, are not covered."""
        self.note(body.keys() - {"outputs", TAG_MEMBER})
        for output in body["outputs"]:
            self.note(f"outputs[].{name}" for name in output.keys() - {"name", "datatype", "shape", "data"})

    def note_message(self, message: bytes | memoryview, *, streamed: bool = False) -> None:
        """Remember which fields of a message, already added, are not covered."""
        inner = _streamed(message)[1] if streamed else message
        for field in fields_of(inner, where=_MESSAGE):
            if field.number == _PARAMETERS:
                key = _entry(field, _MESSAGE)[0]
                self.note(() if key == TAG_MEMBER else (f"parameters.{key}",))
            elif field.number == _OUTPUTS:
                self.note("outputs[].parameters" for part in fields_of(field.data, where=_MESSAGE) if part.number == _OUTPUT_PARAMETERS)
            elif field.number != _RAW:
                self.note((_FIELD_NAMES.get(field.number, f"field {field.number}"),))

    def content(self) -> Content:
        """The content so far, as a token of this moment says it. More messages may follow."""
        return self._tree.content(self.name)

    def copy(self) -> Self:
        """One that goes on from here by itself."""
        other = type(self)()
        other._tree = self._tree.copy()
        other._uncovered = set(self._uncovered)
        other.count = self.count
        return other


class StreamedInferProjection(InferProjection):
    """The same of ``ModelStreamInferResponse`` messages."""

    def add_message(self, message: bytes | memoryview, *, streamed: bool = True) -> bool:
        """Take the next message. Returns whether it bears content.

        Raises:
            MalformedError: As of `InferProjection`.
        """
        return super().add_message(message, streamed=streamed)

    def note_message(self, message: bytes | memoryview, *, streamed: bool = True) -> None:
        """Remember which fields of a message, already added, are not covered."""
        super().note_message(message, streamed=streamed)


_FIELD_NAMES: Final = {1: "model_name", 2: "model_version", 3: "id"}


def _digest(data: bytes | memoryview) -> str:
    return b64url_encode(hashlib.sha256(data).digest())


# JSON


def _json_parts(prefix: str, output: dict[str, Any]) -> list[_Part]:
    parts: list[_Part] = [(f"{prefix}.{member}", _text(output.get(member))) for member in ("name", "datatype")]
    said = output.get("shape")
    shape = said if isinstance(said, list) and all(type(size) is int for size in said) else None
    if said is not None:
        parts.append((f"{prefix}.shape", None if shape is None else shape_bytes(shape)))
    parts.append((f"{prefix}.data", None if shape is None else _json_data(output, shape)))
    return parts


def _text(value: Any) -> bytes | None:
    if value is None:
        return b""
    return encode_text(value) if isinstance(value, str) else None


def _json_data(output: dict[str, Any], shape: Sequence[int]) -> bytes | None:
    datatype, data, parameters = output.get("datatype"), output.get("data"), output.get("parameters")
    count = element_count(shape)
    data = [] if data is None else data
    elsewhere = isinstance(parameters, dict) and not _ELSEWHERE.isdisjoint(parameters)
    if count is None or elsewhere or not isinstance(datatype, str) or not isinstance(data, list):
        return None
    return elements_from_json(datatype, data, count)


# Protobuf


def _fields(message: bytes | memoryview, known: dict[int, Wire], *, once: frozenset[int], where: str) -> list[Field]:
    """The fields of a message whose number is known, each of its wire type (P12).

    Raises:
        MalformedError: They are not, one of *once* occurs twice, or there are too many.
    """
    found: list[Field] = []
    seen: set[int] = set()
    for position, field in enumerate(fields_of(message, where=where)):
        if position >= MAX_MESSAGE_FIELDS:
            raise MalformedError(f"has more than {MAX_MESSAGE_FIELDS} fields", where=where)
        wire = known.get(field.number)
        if wire is None:
            continue
        if field.wire is not wire and not (field.number == _SHAPE and wire is Wire.VARINT and field.wire is Wire.BYTES):
            raise MalformedError(f"field {field.number} has another wire type", where=where)
        if field.number in once:
            if field.number in seen:
                raise MalformedError(f"field {field.number} occurs twice", where=where)
            seen.add(field.number)
        found.append(field)
    return found


_RESPONSE_FIELDS: Final = dict.fromkeys(range(1, 7), Wire.BYTES)
_OUTPUT_FIELDS: Final = {
    _NAME: Wire.BYTES,
    _DATATYPE: Wire.BYTES,
    _SHAPE: Wire.VARINT,
    _OUTPUT_PARAMETERS: Wire.BYTES,
    _CONTENTS: Wire.BYTES,
}
_STREAM_FIELDS: Final = {_ERROR_MESSAGE: Wire.BYTES, _INFER_RESPONSE: Wire.BYTES}
_ONCE: Final = frozenset({1, 2, 3})
_OUTPUT_ONCE: Final = frozenset({_NAME, _DATATYPE, _CONTENTS})


def _streamed(message: bytes | memoryview) -> tuple[bytes | None, bytes | memoryview]:
    """Error message and response of a ``ModelStreamInferResponse``."""
    error, response = None, memoryview(b"")
    for field in _fields(message, _STREAM_FIELDS, once=_ONCE, where=_MESSAGE):
        if field.number == _ERROR_MESSAGE:
            error = read_text(field, where=_MESSAGE).encode("utf-8")
        else:
            response = field.data
    return error, response


def _message_parts(message: bytes | memoryview) -> list[_Part]:
    fields = _fields(message, _RESPONSE_FIELDS, once=_ONCE, where=_MESSAGE)
    outputs = [field.data for field in fields if field.number == _OUTPUTS]
    raw = [field.data for field in fields if field.number == _RAW]
    if len(outputs) > MAX_OUTPUTS:
        raise MalformedError(f"has more than {MAX_OUTPUTS} outputs", where=_MESSAGE)
    if len(raw) > len(outputs):
        raise MalformedError("has raw contents of no output", where=_MESSAGE)
    parts: list[_Part] = []
    for index, output in enumerate(outputs):
        parts += _output_parts(f"outputs.{index}", output, raw[index] if index < len(raw) else None)
    return parts


def _output_parts(prefix: str, output: memoryview, raw: memoryview | None) -> list[_Part]:
    where = f"{_MESSAGE} {prefix}"
    texts = {_NAME: "", _DATATYPE: ""}
    shape: list[int] = []
    contents = memoryview(b"")
    elsewhere = False
    for field in _fields(output, _OUTPUT_FIELDS, once=_OUTPUT_ONCE, where=where):
        if field.number in texts:
            texts[field.number] = read_text(field, where=where)
        elif field.number == _SHAPE:
            shape += map(signed, varints_of(field, where=where))
        elif field.number == _CONTENTS:
            contents = field.data
        else:
            elsewhere |= _entry(field, where)[0] in _ELSEWHERE
    data = _data(texts[_DATATYPE], shape, raw, _read_contents(contents, where), where)
    return [
        (f"{prefix}.name", texts[_NAME].encode("utf-8")),
        (f"{prefix}.datatype", texts[_DATATYPE].encode("utf-8")),
        (f"{prefix}.shape", shape_bytes(shape)),
        (f"{prefix}.data", None if elsewhere else data),
    ]


def _read_contents(contents: memoryview, where: str) -> dict[int, list[Field]]:
    """The fields of ``contents`` that hold anything, by number."""
    found: dict[int, list[Field]] = {}
    for field in fields_of(contents, where=where):
        wire = _CONTENTS_WIRES.get(field.number)
        if wire is None:
            continue
        if field.wire not in (wire, Wire.BYTES):
            raise MalformedError(f"field {field.number} has another wire type", where=where)
        if field.wire is wire or field.data:  # or packed, and of no number
            found.setdefault(field.number, []).append(field)
    return found


def _data(
    datatype: str, shape: Sequence[int], raw: memoryview | None, contents: dict[int, list[Field]], where: str
) -> bytes | memoryview | None:
    """The elements; None too where there is more than one place in which clients could look for them."""
    count = element_count(shape)
    if count is None or datatype not in DATATYPES or len(contents) + (raw is not None) > 1:
        return None
    if raw is not None:
        return raw_tensor(datatype, raw, count)
    number = _CONTENTS_OF.get(datatype)
    if not contents:
        return b"" if count == 0 else None
    if number is None or number not in contents:
        return None
    fields = contents[number]
    if number == _BYTES_CONTENTS:
        return pack_strings([field.data for field in fields], count)
    if (wire := _FLOAT_CONTENTS.get(number)) is not None:
        return raw_tensor(datatype, memoryview(b"".join(floats_of(field, wire, where=where) for field in fields)), count)
    numbers = chain.from_iterable(varints_of(field, where=where) for field in fields)
    return pack_integers(datatype, map(signed, numbers) if number in _SIGNED_CONTENTS else numbers, count)


# The tag in a message


def _entry(field: Field, where: str) -> tuple[str, memoryview]:
    """Key and serialised value of an entry of ``parameters``."""
    key, value = "", memoryview(b"")
    for part in _fields(field.data, _STREAM_FIELDS, once=_ONCE, where=where):
        if part.number == _KEY:
            key = read_text(part, where=where)
        else:
            value = part.data
    return key, value


def read_infer_tag(message: bytes, *, streamed: bool = False) -> str | None:
    """The token that a message carries as ``string_param`` of its parameter ``ai_provenance``, or None (C15).

    Args:
        message: A ``ModelInferResponse``.
        streamed: It is a ``ModelStreamInferResponse``, which holds one.

    Raises:
        MalformedError: It is not well formed, or carries two, or none that is a string.
    """
    inner = _streamed(message)[1] if streamed else message
    found = [value for field in _parameters(inner) for key, value in (_entry(field, _MESSAGE),) if key == TAG_MEMBER]
    if not found:
        return None
    params = list(fields_of(found[0], where=_MESSAGE))
    if len(found) > 1 or len(params) != 1 or params[0].number != _STRING:
        raise MalformedError("is not one string", where=f"parameter {TAG_MEMBER}")
    return read_text(params[0], where=f"parameter {TAG_MEMBER}")


def splice_infer_tag(message: bytes, token: str, *, streamed: bool = False) -> tuple[bytes, int]:
    """Put a token into a serialised message, without moving another byte.

    A ``ModelStreamInferResponse`` that holds no response, but an error, has no place for it and stays as it is.

    Args:
        message: A ``ModelInferResponse``.
        token: The token.
        streamed: It is a ``ModelStreamInferResponse``, which holds one.

    Returns:
        The message, and how many entries of that name were there before, which are taken out.

    Raises:
        MalformedError: It is not well formed.
    """

    def tagged(response: bytes) -> bytes:
        parameter = encode_field(_STRING, token.encode("ascii"))
        entry = encode_field(_KEY, TAG_MEMBER.encode("ascii")) + encode_field(_VALUE, parameter)
        return response + encode_field(_PARAMETERS, entry)

    plain, removed = strip_infer_tag(message, streamed=streamed)
    return _in_response(plain, tagged) if streamed else tagged(plain), removed


def strip_infer_tag(message: bytes, *, streamed: bool = False) -> tuple[bytes, int]:
    """Take the tags out of a serialised message, without moving another byte.

    Args:
        message: A ``ModelInferResponse``.
        streamed: It is a ``ModelStreamInferResponse``, which holds one.

    Returns:
        The message, itself where there are none, and how many there were.

    Raises:
        MalformedError: It is not well formed.
    """
    response = _streamed(message)[1] if streamed else message
    tags = [field for field in _parameters(response) if _entry(field, _MESSAGE)[0] == TAG_MEMBER]
    if not tags:
        return message, 0
    starts, ends = [0, *(field.end for field in tags)], [*(field.start for field in tags), len(response)]
    plain = b"".join(response[start:end] for start, end in zip(starts, ends, strict=True))
    return _in_response(message, lambda _: plain) if streamed else plain, len(tags)


def _in_response(message: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A ``ModelStreamInferResponse`` with its response changed, if it holds one."""
    for field in _fields(message, _STREAM_FIELDS, once=_ONCE, where=_MESSAGE):
        if field.number == _INFER_RESPONSE:
            return b"".join((message[: field.start], encode_field(_INFER_RESPONSE, change(bytes(field.data))), message[field.end :]))
    return message


def _parameters(message: bytes | memoryview) -> list[Field]:
    return [field for field in _fields(message, _RESPONSE_FIELDS, once=_ONCE, where=_MESSAGE) if field.number == _PARAMETERS]
