"""JSON bodies of requests and responses: strict reading, and putting a tag in without moving another byte."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from tos_guard._canonical import MAX_SAFE_INTEGER, parse_json
from tos_guard.errors import MalformedError, MalformedRequestError
from tos_guard.limits import Usage

__all__ = [
    "CHOICES",
    "MAX_BODY_BYTES",
    "MAX_BODY_DEPTH",
    "OUTPUT_MAXIMA",
    "PROMPTS",
    "TAG_MEMBER",
    "RequestFacts",
    "check_counts",
    "count_media",
    "count_prompts",
    "cut_tag",
    "is_running",
    "parse_request_json",
    "parse_request_object",
    "parse_response_json",
    "read_usage",
    "request_choices",
    "request_end_user",
    "request_integer",
    "request_model",
    "request_output_maximum",
    "request_prompts",
    "response_id",
    "splice_tag",
    "without_tag",
]

TAG_MEMBER: Final = "ai_provenance"
MAX_BODY_BYTES: Final = 16 * 1024 * 1024  # C9: a response of 128 choices of 32,000 tokens
MAX_BODY_DEPTH: Final = 64  # C3, C9: tool schemas nest about 20 deep
MAX_MODEL_CHARS: Final = 96  # as the claim
MAX_END_USER_CHARS: Final = 512  # OpenAI takes 64 to 128; longer ones are no identifiers
MAX_NUMBER_CHARS: Final = 32  # of a number in a text; no server counts further

_WHITE: Final = b" \t\r\n"
_scan: Final = json.JSONDecoder().raw_decode

_COUNTED: Final = ("n", "best_of")
CHOICES: Final = (
    *_COUNTED,
    "num_return_sequences",
    "num_generations",
    "num_outputs",
    "num_samples",
    "candidate_count",
    "candidateCount",
    "sample_count",
    "sampleCount",
)
"""By which names servers take how many choices to make."""

PROMPTS: Final = ("prompt", "prompt_embeds")
"""By which names servers of the older completions take prompts, each of which is answered."""

_OUTPUT_MAXIMA: Final = (
    ("max_tokens",),
    ("max_completion_tokens",),
    ("max_output_tokens",),
    ("max_new_tokens",),
    ("max_gen_len",),
    ("max_length",),
    ("max_tokens_to_sample",),
    ("n_predict",),
    ("num_predict",),
    ("generationConfig", "maxOutputTokens"),
    ("generation_config", "max_output_tokens"),
    ("inferenceConfig", "maxTokens"),
    ("options", "num_predict"),
    ("parameters", "max_new_tokens"),
    ("reasoning", "max_tokens"),
    ("sampling_params", "max_new_tokens"),
    ("sampling_params", "max_tokens"),
    ("thinking", "budget_tokens"),
)
"""By which names servers take the largest output, or a part of it that some add on top."""

_HOLDERS: Final = tuple(dict.fromkeys(path[0] for path in _OUTPUT_MAXIMA if len(path) > 1))
"""Members in which servers take maxima, and choices as well."""

MAX_RESPONSE_ID_CHARS: Final = 256  # OpenAI's have about 60
_RUNNING: Final = ("queued", "in_progress")
OUTPUT_MAXIMA: Final = frozenset(path[0] for path in _OUTPUT_MAXIMA if len(path) == 1)
"""Those of them that a form can have."""

_BESIDE_INPUT: Final = ("cache_creation_input_tokens", "cache_read_input_tokens")
"""Tokens of the prompt that Anthropic's ``input_tokens`` leaves out. OpenAI's names for these stand for a part of what it counts."""

_OUTPUT_DETAILS: Final = ("completion_tokens_details", "output_tokens_details")
_WORDS: Final = frozenset(
    {"text", "refusal", "input_text", "output_text", "reasoning_text", "summary_text", "tool_use", "tool_result", "thinking"}
)


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What a request asks for, as its dialect says it.

    Attributes:
        action: Action name of the terms.
        model: Model id as the request names it; empty where the dialect has none.
        stream: Whether the response is asked for as a stream.
        choices: How many choices may be made for it, for all its prompts; those that are made and thrown away (``best_of``) count.
        max_output_tokens: The largest number of output tokens the request allows per choice, over every name by which servers take
            it, or None where it names no number.
        is_open_ended: By one of these names it says something else: that there is no end, or what some server may take for that.
        media_parts: Images, sounds and files in it, whose tokens do not show in its size.
        end_user: How the caller names the end user it serves, or None; not to be kept as it is.
        retrieves: Id of a response made before that the request asks for, or does something with, or None. Such a request makes nothing.
        stores: The response may be asked for again by its own id.
        background: The response may leave before it has ended.
        takes_input: A model reads its prompt, which takes tokens.
        gives_output: A model writes an answer of tokens.
    """

    action: str
    model: str
    stream: bool = False
    choices: int = 1
    max_output_tokens: int | None = None
    is_open_ended: bool = False
    media_parts: int = 0
    end_user: str | None = None
    retrieves: str | None = None
    stores: bool = False
    background: bool = False
    takes_input: bool = True
    gives_output: bool = True


def parse_request_object(body: bytes) -> dict[str, Any]:
    """Read a JSON request body strictly.

    Raises:
        MalformedRequestError: Not a JSON object.
    """
    request = parse_request_json(body)
    if not isinstance(request, dict):
        raise MalformedRequestError("not a JSON object", where="request body")
    return request


def parse_request_json(body: bytes) -> Any:
    """Read a JSON request body strictly, whatever value it is.

    Raises:
        MalformedRequestError: Not JSON.
    """
    try:
        return parse_json(body, where="request body", max_depth=MAX_BODY_DEPTH, max_bytes=MAX_BODY_BYTES, lone_surrogates=True)
    except MalformedError as error:
        raise MalformedRequestError(error.what, where=error.where, cure="Send one JSON object, in UTF-8, each name once.") from None


def request_model(request: dict[str, Any]) -> str:
    """The model a request names.

    Raises:
        MalformedRequestError: It names none, or none of a reasonable form.
    """
    model = request.get("model")
    if not isinstance(model, str) or not 1 <= len(model) <= MAX_MODEL_CHARS or not model.isprintable():
        raise MalformedRequestError(f"model is not a printable string of 1 to {MAX_MODEL_CHARS} characters", where="request body")
    return model


def request_integer(request: dict[str, Any], name: str) -> int | None:
    """A positive whole number of a request, or None where it is absent.

    Raises:
        MalformedRequestError: It is there and is no such number.
    """
    value = request.get(name)
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise MalformedRequestError(f"{name} is not a whole number", where="request body")
    return value


def request_choices(request: dict[str, Any]) -> int:
    """How many choices a request may cause for each prompt, at least one: the largest number that any server may read in it."""
    holders = (request, *(holder for name in _HOLDERS for holder in _held(request, name)))
    said = (_number(holder.get(name)) for holder in holders for name in CHOICES)
    return max((1, *(number for number in said if number is not None)))


def request_prompts(request: dict[str, Any], names: Sequence[str] = PROMPTS) -> int:
    """How many prompts a request has under these names, at least one: each is answered with all the choices.

    A list of integers is one prompt, as tokens. Those under several names are added up, as some servers answer all of them.
    """
    return max(1, sum(count_prompts(request.get(name)) for name in names))


def count_prompts(prompt: Any) -> int:
    """How many prompts a value is: of a list each element, unless it is one of tokens; of what is no text and no list none."""
    if isinstance(prompt, list):
        return 1 if all(type(token) is int for token in prompt) else len(prompt)
    return 1 if isinstance(prompt, str) else 0


def _held(request: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The object that a member of a request is, or the objects in it: some servers take one for each prompt."""
    held = request.get(name)
    return [each for each in (held if isinstance(held, list) else [held]) if isinstance(each, dict)]


def check_counts(request: dict[str, Any]) -> None:
    """Refuse what servers of chat dialects would refuse, or read as no one can foresee.

    Raises:
        MalformedRequestError: ``n``, ``best_of``, ``max_tokens`` or ``max_completion_tokens`` is no whole number.
    """
    for name in (*_COUNTED, "max_tokens", "max_completion_tokens"):
        request_integer(request, name)


def request_output_maximum(request: dict[str, Any]) -> tuple[int | None, bool]:
    """The largest number of output tokens that a request allows per choice, and whether it is open-ended (`RequestFacts`).

    Servers differ in which name they read, and some read more than one: whoever sends ``max_tokens`` of 1 beside another of 10,000
    means the latter. What is no number, or a negative one, which some servers take for "no end", bounds nothing; and it takes nothing
    back of a number that stands beside it, for others read that one.
    """
    largest: int | None = None
    is_open_ended = False
    for *within, name in _OUTPUT_MAXIMA:
        holders = _held(request, within[0]) if within else [request]
        for value in (holder[name] for holder in holders if holder.get(name) is not None):
            number = _number(value)
            if number is None or number < 0:
                is_open_ended = True
            else:
                largest = number if largest is None else max(largest, number)
    return largest, is_open_ended


def _number(value: Any) -> int | None:
    """The whole number that a lenient server reads in a value (``9``, ``9.0``, ``"9"``), rounded up; None where it is none."""
    if type(value) is int:
        return value
    if isinstance(value, float) or (isinstance(value, str) and len(value) <= MAX_NUMBER_CHARS):
        try:
            return math.ceil(float(value))
        except (ValueError, OverflowError):  # no number; not a number; infinity
            return None
    return None


def count_media(messages: Any) -> int:
    """Parts of messages, and of what tools gave, that are neither text nor an answer: images, sounds, files.

    Each costs tokens that its size does not show.
    """
    if not isinstance(messages, list):
        return 0
    contents: list[Any] = []
    for message in messages:
        if isinstance(message, dict):
            given = message.get("output")
            contents += [message.get("content"), [given] if isinstance(given, dict) else given]  # a screenshot stands alone
    return sum(
        1
        for content in contents
        if isinstance(content, list)
        for part in content
        if isinstance(part, dict) and str(part.get("type")) not in _WORDS
    )


def request_end_user(request: dict[str, Any]) -> str | None:
    """How a request names the end user: ``safety_identifier``, else ``user``, else ``metadata.user_id``; None where it does not.

    What is no string, or longer than any identifier, counts as not given: callers are not refused for a field that servers ignore.
    """
    metadata = request.get("metadata")
    named = (request.get("safety_identifier"), request.get("user"), metadata.get("user_id") if isinstance(metadata, dict) else None)
    return next((name for name in named if isinstance(name, str) and 1 <= len(name) <= MAX_END_USER_CHARS), None)


def read_usage(document: Any) -> Usage | None:
    """The tokens that a response says it used, or None where it says nothing.

    Read are the names of OpenAI's chat completions (``prompt_tokens``, ``completion_tokens``) and those of its responses and of
    Anthropic's messages (``input_tokens``, ``output_tokens``). A prompt that is read from a cache, or written to one, is a prompt.
    """
    usage = document.get("usage") if isinstance(document, dict) else None
    if not isinstance(usage, dict):
        return None
    details: dict[str, Any] = next((usage[name] for name in _OUTPUT_DETAILS if isinstance(usage.get(name), dict)), {})
    read = Usage(
        input_tokens=_input(usage),
        output_tokens=_counted(usage, "completion_tokens", "output_tokens"),
        reasoning_tokens=_counted(details, "reasoning_tokens", "thinking_tokens"),
    )
    return None if read.input_tokens is read.output_tokens is None else read


def _input(usage: dict[str, Any]) -> int | None:
    if (all_of_it := _counted(usage, "prompt_tokens")) is not None:
        return all_of_it
    uncached = _counted(usage, "input_tokens")
    return None if uncached is None else uncached + sum(_counted(usage, name) or 0 for name in _BESIDE_INPUT)


def _counted(members: dict[str, Any], *names: str) -> int | None:
    return next((value for name in names if type(value := members.get(name)) is int and 0 <= value <= MAX_SAFE_INTEGER), None)


def response_id(document: Mapping[str, Any]) -> str | None:
    """The id that a response gives itself: of a body, or of an event of its stream, which may hold it in ``response``. None without one."""
    named = document.get("id")
    if named is None and isinstance(inner := document.get("response"), dict):
        named = inner.get("id")
    return named if isinstance(named, str) and 1 <= len(named) <= MAX_RESPONSE_ID_CHARS and named.isprintable() else None


def is_running(document: Mapping[str, Any]) -> bool:
    """Whether a body is of a response that has not ended when the body leaves."""
    return document.get("status") in _RUNNING and isinstance(document.get("output"), list) and response_id(document) is not None


def parse_response_json(data: bytes, *, where: str) -> Any:
    """Read a response body or event strictly (C3, C9).

    Raises:
        MalformedError: Not such JSON.
    """
    return parse_json(data, where=where, max_depth=MAX_BODY_DEPTH, max_bytes=MAX_BODY_BYTES, lone_surrogates=True)


def splice_tag(data: bytes, tag: bytes, *, member: str | None = None) -> bytes:
    """Put the tag member at the end of a JSON object's bytes, without moving another byte.

    Args:
        data: Bytes of one JSON object that has no such member.
        tag: JSON bytes of the tag.
        member: The member of the object, an object itself, at whose end it is put; None for the object's own.
    """
    end = data.rindex(b"}") if member is None else _end_of(data, member)
    comma = b"" if data[:end].rstrip(_WHITE).endswith(b"{") else b","
    return b"".join((data[:end], comma, b'"', TAG_MEMBER.encode("ascii"), b'":', tag, data[end:]))


def cut_tag(data: bytes, nested: Sequence[str] = ()) -> bytes:
    """Take the tag member, and a comma beside it, out of a JSON object's bytes, without moving another byte.

    Args:
        data: Bytes of one JSON object, which has been parsed strictly.
        nested: Members of it out of which the tag is taken too, where they are objects.
    """
    text = data.decode("utf-8")
    members = _members(text, text.index("{"))
    cuts = [_place_of_tag(members)]
    cuts += [_place_of_tag(_members(text, each.value)) for each in members if each.name in nested and text[each.value] == "{"]
    for cut in sorted(filter(None, cuts), reverse=True):
        text = text[: cut[0]] + text[cut[1] :]
    return text.encode("utf-8")


class _Member(NamedTuple):
    """Where a member of an object stands in its text: its name, its value, and what follows."""

    name: str
    start: int
    value: int
    end: int


def _members(text: str, at: int) -> list[_Member]:
    """The members of the object that begins there and has been parsed."""
    found: list[_Member] = []
    at = _after_white(text, at + 1)
    while text[at] != "}":
        name, colon = _scan(text, at)
        value = _after_white(text, _after_white(text, colon) + 1)
        _, end = _scan(text, value)
        found.append(_Member(name, at, value, end))
        at = _after_white(text, end)
        if text[at] == ",":
            at = _after_white(text, at + 1)
    return found


def _place_of_tag(members: list[_Member]) -> tuple[int, int] | None:
    """From where to where an object holds its tag and the comma that goes with it."""
    for number, member in enumerate(members):
        if member.name == TAG_MEMBER:
            if number:
                return members[number - 1].end, member.end
            return member.start, members[1].start if len(members) > 1 else member.end
    return None


def _end_of(data: bytes, member: str) -> int:
    """Where the closing brace of a member of an object stands, both of which have been parsed."""
    text = data.decode("utf-8")
    end = next(each.end for each in _members(text, text.index("{")) if each.name == member)
    return len(text[: end - 1].encode("utf-8"))


def _after_white(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


def without_tag(body: dict[str, Any]) -> dict[str, Any]:
    """The object without a tag member."""
    return {name: value for name, value in body.items() if name != TAG_MEMBER}
