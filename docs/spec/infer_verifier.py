"""The third part of verifier.py: infer-1 (Open Inference), as JSON and as protobuf messages, and the messages of gRPC calls.

Written from the pages beside it. Importing it brings the other two parts; `main` of verifier.py then reads whatever the pages describe.
"""

import contextlib
import json
import math
import struct

from dialect_verifier import NO, check_first, check_points, coded, shown
from verifier import (
    BODIES, CHECKS, DISABLED, KNOWN, Refused, check_found, check_token, has, is_int, is_list, is_text, leaves_of, main, rule, verify,
)  # fmt: skip

__all__ = ["main", "verify"]
FORMS = {"BOOL": "?", "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q",
         "FP16": "e", "FP32": "f", "FP64": "d"}  # fmt: skip
SIZES = {"BF16": 2, "BYTES": 0, **{name: struct.calcsize(f"<{form}") for name, form in FORMS.items()}}
CONTENTS = {"BOOL": 1, "INT8": 2, "INT16": 2, "INT32": 2, "INT64": 3, "UINT8": 4, "UINT16": 4, "UINT32": 4, "UINT64": 5, "FP32": 6,
            "FP64": 7, "BYTES": 8}  # fmt: skip
FLOATS, SIGNED = {6: "<f", 7: "<d"}, (2, 3)
ELSEWHERE = {"shared_memory_region", "binary_data_size"}
WIRE = {  # of each field that is known its wire types
    "response": dict.fromkeys(range(1, 7), (2,)), "output": {1: (2,), 2: (2,), 3: (0, 2), 4: (2,), 5: (2,)}, "stream": {1: (2,), 2: (2,)},
    "contents": {**dict.fromkeys(range(1, 6), (0, 2)), 6: (5, 2), 7: (1, 2), 8: (2,)}, "entry": {1: (2,), 2: (2,)},
    "parameter": {}}  # fmt: skip
ONCE = {"response": (1, 2, 3), "output": (1, 2, 5), "stream": (1, 2), "entry": (1, 2)}


def fits(shape, count): return is_list(shape, lambda size: is_int(size, 0)) and math.prod(shape) == count
def strings(elements): return b"".join(struct.pack("<I", len(one)) + one for one in elements)
def tensor(datatype, shape, elements):  # the raw bytes of the elements
    kinds = {"BYTES": (str,), "BOOL": (bool,), "FP16": (int, float), "FP32": (int, float), "FP64": (int, float)}.get(datatype, (int,))
    if not fits(shape, len(elements)) or not is_list(elements, lambda element: type(element) in kinds):
        return NO
    try:
        packed = [one.encode() for one in elements] if datatype == "BYTES" else struct.pack(f"<{len(elements)}{FORMS[datatype]}", *elements)
        return strings(packed) if datatype == "BYTES" else packed
    except (KeyError, ValueError, OverflowError, struct.error):
        return NO
def flat(data):  # a number that overflows a double is none
    return [one for item in data for one in (flat(item) if isinstance(item, list) else [None if item in (math.inf, -math.inf) else item])]
def infer_values(body, content):
    with contextlib.suppress(ValueError, RecursionError):  # once more, with integers of 64 bits as they are
        body = json.loads(content, parse_int=lambda text: int(text) if len(text) < 21 else math.inf)
    outputs, found = [output if has(output) else {} for output in body.get("outputs") or ()], []
    rule("P12", len(outputs) <= 4096, detail="more than 4,096 outputs")
    for at, output in enumerate(outputs):
        datatype, shape, data = output.get("datatype"), output.get("shape"), output.get("data")
        data = [] if data is None else data
        elsewhere = has(output.get("parameters")) and ELSEWHERE & output["parameters"].keys()
        here = is_text(datatype) and isinstance(data, list) and not elsewhere
        found += [(f"{at}.name", output.get("name")), (f"{at}.datatype", datatype)]
        found += [(f"{at}.shape", shape if shape is None else coded(shape) if is_list(shape, is_int) else NO)]
        found.append((f"{at}.data", tensor(datatype, shape, flat(data)) if here else NO))
    return shown((0, f"outputs.{name}", value) for name, value in found)


def varint(data, at):
    value = 0
    for count in range(10):
        value |= (data[at + count] & 127) << 7 * count
        if data[at + count] < 128:
            if value >= 1 << 64:
                break
            return value, at + count + 1
    raise ValueError
def fields(data, of):  # P12: (number, value) of each field; a value is an integer, or bytes
    found, at = [], 0
    try:
        while at < len(data):
            key, at = varint(data, at)
            number, wire = key >> 3, key & 7
            size, at = varint(data, at) if wire in (0, 2) else ({1: 8, 5: 4}[wire], at)
            value, at = (size, at) if wire == 0 else (data[at : at + size], at + size)
            twice = number in ONCE.get(of, ()) and every(found, number)
            if at > len(data) or not 1 <= number < 1 << 29 or wire not in WIRE[of].get(number, (wire,)) or twice or len(found) == 65536:
                raise ValueError
            found.append((number, value))
    except (ValueError, IndexError, KeyError):
        rule("P12", False, detail=f"not well-formed: {of}")
    return found
def every(found, number): return [value for at, value in found if at == number]
def one(found, number): return (every(found, number) or [b""])[0]
def text(found, number):
    try:
        return one(found, number).decode()
    except ValueError:
        rule("P12", False, detail="a string that is not UTF-8")
        return one(found, number).decode("utf-8", "replace")
def scalars(found, number, signed):  # packed or not
    made = []
    try:
        for value in every(found, number):
            at = 0
            if isinstance(value, bytes) and number in FLOATS:
                made += [element for (element,) in struct.iter_unpack(FLOATS[number], value)]
            while isinstance(value, bytes) and number not in FLOATS and at < len(value):
                element, at = varint(value, at)
                made.append(element)
            made += [value] if is_int(value, 0, 1 << 64) else []
    except (ValueError, IndexError, struct.error):
        rule("P12", False, detail="a packed field is cut")
    return [element - (1 << 64) if signed and element >= 1 << 63 else element for element in made]


def raw_fits(datatype, shape, raw):
    if datatype != "BYTES":
        return len(raw) % SIZES[datatype] == 0 and fits(shape, len(raw) // SIZES[datatype])
    at, count = 0, 0
    while at < len(raw):
        at, count = at + 4 + int.from_bytes(raw[at : at + 4], "little"), count + 1
    return at == len(raw) and fits(shape, count)
def output_data(output, raw):  # the elements of an output, wherever in a message they are
    datatype, shape, contents = text(output, 2), scalars(output, 3, True), fields(one(output, 5), "contents")
    held_in = {number for number, value in contents if value != b"" or number == 8}
    elsewhere = any(text(fields(entry, "entry"), 1) in ELSEWHERE for entry in every(output, 4))
    if elsewhere or datatype not in SIZES or len(held_in) + (raw is not None) > 1:
        return NO
    if raw is not None:
        return raw if raw_fits(datatype, shape, raw) else NO
    number = CONTENTS.get(datatype)
    if not held_in:
        return b"" if fits(shape, 0) else NO
    if held_in != {number}:
        return NO
    if number == 8:
        return strings(every(contents, 8)) if fits(shape, len(every(contents, 8))) else NO
    elements = scalars(contents, number, number in SIGNED)
    return tensor(datatype, shape, [element != 0 for element in elements] if number == 1 else elements)
def infer_message(data, choice, streamed):  # its values, and the token in its parameters
    outer = fields(data, "stream") if streamed else []
    inner = fields(one(outer, 2) if streamed else data, "response")
    outputs, raws, tokens = every(inner, 5), every(inner, 6), []
    rule("P12", len(outputs) <= 4096 and len(raws) <= len(outputs), detail="more than 4,096 outputs, or more raw contents than outputs")
    for entry in (fields(entry, "entry") for entry in every(inner, 4)):
        if text(entry, 1) == "ai_provenance":
            parameter = fields(one(entry, 2), "parameter")
            rule("C15", [number for number, _ in parameter] == [3] and isinstance(parameter[0][1], bytes), detail="not one string")
            tokens += [text(parameter, 3)] if isinstance(one(parameter, 3), bytes) else []
    rule("C15", len(tokens) <= 1, detail="a token twice in one message")
    parts = [(choice, "error_message", text(outer, 1))]
    for at, output in enumerate(fields(output, "output") for output in outputs):
        name, shape = f"outputs.{at}", scalars(output, 3, True)
        parts += [(choice, f"{name}.name", text(output, 1)), (choice, f"{name}.datatype", text(output, 2))]
        parts += [(choice, f"{name}.shape", coded(shape) if is_list(shape, is_int) else NO)]
        parts += [(choice, f"{name}.data", output_data(output, raws[at] if at < len(raws) else None))]
    return [part for part in shown(parts) if part[2] != b""], tokens[0] if tokens else None
def frames(content):  # messages as gRPC frames them: a zero byte, their length as four bytes, and the message
    found, at = [], 0
    while at < len(content):
        size = int.from_bytes(content[at + 1 : at + 5], "big")
        found.append(content[at + 5 : at + 5 + size])
        at += 5 + size
    return found
def read_messages(messages, streamed):  # of each its values and its token; and what is wrong with the first that is no such message
    read, wrong = [], []
    for place, message in enumerate(messages):
        try:
            read.append(infer_message(message, place, streamed))
        except Refused as refused:
            if not refused.args[1].startswith("P12"):
                raise
            read.append(([], None))
            wrong.append(refused)
    return read, wrong
def check_messages(form):  # of any call, of `ModelInferResponse` ("infer"), of `ModelStreamInferResponse` ("infer-stream")
    def check(content, trust, now, token, _digest, _leaves, _choice, pending):
        messages = frames(content) if isinstance(content, bytes) else content
        read, wrong = read_messages(messages, form == "infer-stream") if form else ([([], None)] * len(messages), [])
        own = read[0][1] if form == "infer" and len(read) == 1 else None
        points = [(place, inner, None) for place, (_, inner) in enumerate(read) if inner is not None and form == "infer-stream"]
        points = [] if "C11" in DISABLED else points
        if pending and not (own or token or points):
            check_first("C15", pending, None, trust, now)
        rule("C15", own or token or points, "incomplete" if pending else "absent", "no final token")
        rule("C15", not (own and token) or own == token, detail="two tokens")
        final = own or token or (points[0][1] if points else "")
        claims, sealed = check_token(final, trust, now, "final" if own or token else "checkpoint")
        if pending:
            check_first("C15", pending, claims, trust, now)
        proj = sealed.get("proj")
        rule("P9", proj == "grpc-1" or (proj == "infer-1" and form), detail="proj does not fit messages")
        rule("P12", proj != "infer-1" or len(messages) <= 65536, detail="more than 65,536 messages")
        if wrong and proj == "infer-1":
            raise wrong[0]
        proven = check_points(points, claims, trust, now, lambda _: ["infer-1"],
                              lambda place: leaves_of([value for values, _ in read[: place + 1] for value in values]))
        if not own and not token and points:
            return proven[-1], f"C11: proven: {points[-1][0] + 1} messages"
        sent = b"".join(len(message).to_bytes(4, "big") + message for message in messages)
        values = [(0, "messages", sent)] if proj == "grpc-1" else [value for values, _ in read for value in values]
        check_found(leaves_of(values), sealed, None)
        return claims, ""
    return check


BODIES["infer-1"] = (lambda body: is_list(body.get("outputs"), has), infer_values)
KNOWN |= {"infer-1", "grpc-1"}
CHECKS |= {"messages": check_messages(None), "infer": check_messages("infer"), "infer-stream": check_messages("infer-stream")}
