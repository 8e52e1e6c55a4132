"""A stand-in for a language model: quick, deterministic, and able to do everything that models and upstreams do.

The answer is a walk over recorded text, seeded by the request: the same request gets the same bytes, a different one another text,
and the JSON answer says what the stream says. What a real model does rarely, or never when wanted, is asked for in the last user message:

==================  ==================================================================================================
``[[think]]``       reasoning comes first, as ``reasoning_content``
``[[refuse]]``      a refusal in place of the content
``[[choices 1]]``   fewer choices than ``n``
``[[words 400]]``   an answer of this many pieces
``[[halves]]``      an emoji at the end whose UTF-16 halves are in two chunks
``[[crlf]]``        CR LF line ends, and white space around the answer
``[[filter 5]]``    chunk 5 and what follows is not sent; every choice ends there with ``content_filter``
``[[policy 5]]``    in place of chunk 5 the host stops the answer: the exception of `ReplayModel`'s *policy_stop*
``[[error 5]]``     in place of chunk 5 comes an error, which the provider reports in an error event
``[[crash 5]]``     in place of chunk 5 an exception that nobody expects, so that the connection is cut
==================  ==================================================================================================

Chunks are counted from 0. Without a stream, ``policy``, ``error`` and ``crash`` happen in place of the answer.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from .wire import ChatRequest, JSONObject, ProviderError

__all__ = ["ReplayModel"]

# Said by SmolLM2-135M-Instruct at temperature 0.5, but for the last one, which is here for its characters.
_RECORDINGS = tuple(text.strip() for text in Path(__file__).with_name("recordings.txt").read_text(encoding="utf-8").split("\n%\n"))
_PIECE = re.compile(r"\s*[^\W\d_]+|\s*\d|\s*[^\w\s]|\s+|_")
_DIRECTIVE = re.compile(r"\[\[([a-z]+)(?: (\d{1,6}))?\]\]")
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_REFUSAL = "I'm sorry, but I can't help with that."
_REASONING = "The user asks for something short. First the plain facts, then one example; no list is needed here."


def _pieces(text: str) -> list[str]:
    return _PIECE.findall(text)


def _followers() -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for recording in _RECORDINGS:
        pieces = _pieces(recording)
        for piece, follower in pairwise(pieces):
            found.setdefault(piece, []).append(follower)
    return {piece: tuple(followers) for piece, followers in found.items()}


_FOLLOWERS = _followers()
_STARTS = tuple(_pieces(recording)[0] for recording in _RECORDINGS)


def _walk(rng: random.Random, length: int | None) -> list[str]:
    """Pieces of text; without *length* the walk ends with a sentence after some thirty to eighty of them."""
    target = length or rng.randint(30, 80)
    pieces = [rng.choice(_STARTS)]
    while len(pieces) < target or (length is None and pieces[-1] != "." and len(pieces) < target + 40):
        followers = _FOLLOWERS.get(pieces[-1])
        pieces.append(rng.choice(followers) if followers else " " + rng.choice(_STARTS))
    return pieces


def _base62(digest: bytes, length: int) -> str:
    number = int.from_bytes(digest)
    letters = []
    for _ in range(length):
        number, letter = divmod(number, 62)
        letters.append(_BASE62[letter])
    return "".join(letters)


def _content_text(message: JSONObject) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""


@dataclass(frozen=True, slots=True)
class _Prompt:
    """The last user message without its directives, and these."""

    text: str
    directives: dict[str, int | None]

    @classmethod
    def from_request(cls, request: ChatRequest) -> _Prompt:
        users = [message for message in request.messages if message.get("role") == "user"]
        text = _content_text(users[-1]) if users else ""
        directives = {name: int(number) if number else None for name, number in _DIRECTIVE.findall(text)}
        return cls(text=_DIRECTIVE.sub("", text).strip(), directives=directives)

    def at(self, name: str) -> int | None:
        """The chunk at which *name* happens, or None where it was not asked for."""
        return (self.directives[name] or 0) if name in self.directives else None


@dataclass(slots=True)
class _Choice:
    """One choice: what its chunks say, in order, and how it ends."""

    index: int
    deltas: list[JSONObject] = field(default_factory=list)
    finish_reason: str = "stop"
    completion_tokens: int = 0
    reasoning_tokens: int = 0

    def message(self) -> JSONObject:
        """What the deltas say together."""
        whole: JSONObject = {"role": "assistant", "content": None, "refusal": None}
        calls: dict[int, JSONObject] = {}
        for delta in self.deltas:
            for name in ("content", "refusal", "reasoning_content"):
                if isinstance(delta.get(name), str):
                    whole[name] = (whole.get(name) or "") + delta[name]
            for part in delta.get("tool_calls", ()):
                if "id" in part:
                    calls[part["index"]] = {"id": part["id"], "type": part["type"], part["type"]: dict(part[part["type"]])}
                    continue
                call = calls[part["index"]]
                for name, value in part[call["type"]].items():
                    call[call["type"]][name] += value
        if calls:
            whole["tool_calls"] = [calls[index] for index in sorted(calls)]
        # A pair of UTF-16 halves from two chunks is one character in a whole answer.
        for name in ("content", "refusal", "reasoning_content"):
            if isinstance(whole.get(name), str):
                whole[name] = whole[name].encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        if not whole["content"] and (calls or whole["refusal"]):
            whole["content"] = None
        return whole


def _sample(schema: object, rng: random.Random, words: Sequence[str]) -> object:
    """A value that fits a simple JSON Schema."""
    if not isinstance(schema, dict):
        return None
    options = schema.get("enum")
    if isinstance(options, list) and options:
        return rng.choice(options)
    match schema.get("type"):
        case "object":
            properties = schema.get("properties")
            return {name: _sample(inner, rng, words) for name, inner in properties.items()} if isinstance(properties, dict) else {}
        case "array":
            return [_sample(schema.get("items"), rng, words)]
        case "integer":
            return rng.randint(1, 100)
        case "number":
            return rng.randint(1, 1000) / 8
        case "boolean":
            return rng.random() < 0.5
        case "string":
            return rng.choice(words)
        case _:
            return None


def _wanted_tools(request: ChatRequest, prompt: str) -> list[tuple[str, JSONObject]]:
    """The tools to call, each with its kind (``function`` or ``custom``): those chosen, required, or named in the prompt."""
    offered: list[tuple[str, JSONObject]] = []
    for tool in request.tools or ():
        kind = str(tool.get("type", "function"))
        inner = tool.get(kind)
        if kind not in {"function", "custom"} or not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            raise ProviderError(400, "each of 'tools' needs a 'type' and a named tool", type="invalid_request_error", param="tools")
        offered.append((kind, inner))
    match request.tool_choice:
        case "none":
            return []
        case dict() as choice:
            chosen = choice.get(str(choice.get("type")))
            return [tool for tool in offered if isinstance(chosen, dict) and tool[1]["name"] == chosen.get("name")]
        case choice:
            asked = prompt.casefold()
            named = [tool for tool in offered if tool[1]["name"].replace("_", " ").casefold() in asked.replace("_", " ")]
            return named or (offered[:1] if choice == "required" or "tool" in asked else [])


class ReplayModel:
    """Deterministic chat completions; the module's text says what a prompt may ask for.

    Args:
        names: Model names it answers to.
        seed: Another seed, other answers.
        clock: Seconds since the epoch for ``created``. A fixed one makes the answer's bytes depend on the request alone.
        before_chunk: Awaited with the number of each chunk before the chunk is handed out, so that a test can hold a stream at any point.
        on_close: Called once for each stream, with the number of chunks handed out and whether the stream came to its end. A caller who
            leaves early closes the stream early.
        policy_stop: Makes the exception with which the host stops an answer (``[[policy k]]``).
    """

    def __init__(
        self,
        *,
        names: Sequence[str] = ("smollm2-135m", "smollm2-135m-preview"),
        seed: int = 0,
        clock: Callable[[], float] = time.time,
        before_chunk: Callable[[int], Awaitable[None]] | None = None,
        on_close: Callable[[int, bool], None] | None = None,
        policy_stop: Callable[[], Exception] | None = None,
    ) -> None:
        self._names = tuple(names)
        self._seed = seed
        self._clock = clock
        self._before_chunk = before_chunk
        self._on_close = on_close
        self._policy_stop = policy_stop or (
            lambda: ProviderError(400, "The answer was stopped by the content policy.", type="policy_stop", code="content_policy_violation")
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Model names it answers to."""
        return self._names

    async def aclose(self) -> None:
        """Nothing is held."""

    async def complete(self, request: ChatRequest) -> JSONObject:
        """The whole answer.

        Raises:
            ProviderError: The request cannot be answered, or its prompt asks for an error.
        """
        prompt = _Prompt.from_request(request)
        choices = self._choices(request, prompt)
        for name in ("policy", "error", "crash"):
            if name in prompt.directives:
                raise self._failure(name)
        return {
            "id": f"chatcmpl-{_base62(self._digest(request), 29)}",
            "object": "chat.completion",
            "created": int(self._clock()),
            "model": request.model,
            "choices": [
                {
                    "index": choice.index,
                    "message": choice.message(),
                    "logprobs": None,
                    "finish_reason": "content_filter" if "filter" in prompt.directives else choice.finish_reason,
                }
                for choice in choices
            ],
            "usage": self._usage(request, choices),
            "service_tier": "default",
            "system_fingerprint": self._fingerprint(),
        }

    async def stream(self, request: ChatRequest) -> AsyncGenerator[JSONObject, None]:
        """The chunks of an answer, the choices interleaved.

        Raises:
            ProviderError: The request cannot be answered, or its prompt asks for an error.
        """
        handed_out, ended = 0, False
        try:
            prompt = _Prompt.from_request(request)
            failures = {at: name for name in ("policy", "error", "crash") if (at := prompt.at(name)) is not None}
            for number, chunk in enumerate(self._chunks(request, prompt)):
                if self._before_chunk is not None:
                    await self._before_chunk(number)
                if number in failures:
                    raise self._failure(failures[number])
                handed_out = number + 1
                yield chunk
            ended = True
        finally:
            if self._on_close is not None:
                self._on_close(handed_out, ended)

    def _chunks(self, request: ChatRequest, prompt: _Prompt) -> Iterator[JSONObject]:
        choices = self._choices(request, prompt)
        head: JSONObject = {
            "id": f"chatcmpl-{_base62(self._digest(request), 29)}",
            "object": "chat.completion.chunk",
            "created": int(self._clock()),
            "model": request.model,
            "service_tier": "default",
            "system_fingerprint": self._fingerprint(),
        }
        unused: JSONObject = {"usage": None} if request.wants_usage else {}

        def chunk(index: int, delta: JSONObject, finish_reason: str | None = None) -> JSONObject:
            return {**head, "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}], **unused}

        filtered_at = prompt.at("filter")
        rng = random.Random(self._digest(request))
        waiting = {choice.index: (choice, iter(choice.deltas)) for choice in choices}
        sent = 0
        while waiting:
            if filtered_at is not None and sent >= filtered_at:
                for index in sorted(waiting):
                    yield chunk(index, {}, "content_filter")
                break
            choice, deltas = waiting[rng.choice(sorted(waiting))]
            delta = next(deltas, None)
            if delta is None:
                del waiting[choice.index]
                yield chunk(choice.index, {}, choice.finish_reason)
            else:
                yield chunk(choice.index, delta)
            sent += 1
        if request.wants_usage:
            yield {**head, "choices": [], "usage": self._usage(request, choices)}

    def _choices(self, request: ChatRequest, prompt: _Prompt) -> list[_Choice]:
        if request.model not in self._names:
            raise ProviderError(
                404, f"The model '{request.model}' does not exist.", type="invalid_request_error", code="model_not_found", param="model"
            )
        count = min(request.choices, prompt.at("choices") or request.choices)
        return [self._choice(request, prompt, index) for index in range(count)]

    def _choice(self, request: ChatRequest, prompt: _Prompt, index: int) -> _Choice:
        rng = random.Random(self._digest(request) + index.to_bytes(2))
        choice = _Choice(index)
        if "think" in prompt.directives:
            reasoning = _pieces(_REASONING)
            choice.reasoning_tokens = len(reasoning)
            choice.deltas += [{"reasoning_content": piece} for piece in reasoning]
        tools = _wanted_tools(request, prompt.text)
        if tools:
            choice.finish_reason = "tool_calls"
            for position, (kind, tool) in enumerate(tools):
                choice.deltas += self._call(position, kind, tool, rng, prompt.text)
            choice.completion_tokens = len(choice.deltas)
            choice.deltas.insert(0, {"role": "assistant", "content": None, "refusal": None})
            return choice
        name = "refusal" if "refuse" in prompt.directives else "content"
        pieces = _pieces(_REFUSAL) if name == "refusal" else _walk(rng, prompt.at("words"))
        if "crlf" in prompt.directives:
            pieces = ["\r\n", *(".\r\n" if piece == "." else piece.replace("\n", "\r\n") for piece in pieces), "\r", "\n", " \t"]
        if "halves" in prompt.directives:
            pieces += [" ", "\ud83c", "\udf27"]
        if request.token_limit is not None and request.token_limit < len(pieces):
            pieces = pieces[: request.token_limit]
            choice.finish_reason = "length"
        choice.deltas += [{name: piece} for piece in pieces]
        choice.completion_tokens = len(choice.deltas)
        first: JSONObject = {"role": "assistant", "content": "", "refusal": None}
        choice.deltas.insert(0, first)
        return choice

    @staticmethod
    def _call(position: int, kind: str, tool: JSONObject, rng: random.Random, prompt: str) -> Iterator[JSONObject]:
        words = re.findall(r"[^\W\d_]{3,}", prompt) or ["nothing"]
        argument = "arguments" if kind == "function" else "input"
        sample = _sample(tool.get("parameters"), rng, words) if kind == "function" else None
        value = json.dumps(sample if isinstance(sample, dict) else {}, ensure_ascii=False) if kind == "function" else " ".join(words)
        identity = f"call_{_base62(rng.randbytes(24), 24)}"
        yield {"tool_calls": [{"index": position, "id": identity, "type": kind, kind: {"name": tool["name"], argument: ""}}]}
        for piece in _pieces(value):
            yield {"tool_calls": [{"index": position, kind: {argument: piece}}]}

    def _failure(self, name: str) -> Exception:
        if name == "policy":
            return self._policy_stop()
        if name == "error":
            return ProviderError(500, "The server had an error while processing your request.", type="server_error", code="upstream_failed")
        return RuntimeError("the prompt asked for a crash")

    def _digest(self, request: ChatRequest) -> bytes:
        """Of the request but for how it is delivered: streamed or not, the answer is the same."""
        asked = request.model_dump(mode="python", exclude={"stream", "stream_options"}, exclude_none=True)
        text = json.dumps([self._seed, asked], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).digest()

    def _fingerprint(self) -> str:
        return "fp_" + hashlib.sha256(f"replay {self._seed}".encode()).hexdigest()[:10]

    @staticmethod
    def _usage(request: ChatRequest, choices: Sequence[_Choice]) -> JSONObject:
        prompt = sum(4 + len(_pieces(_content_text(message))) for message in request.messages)
        completion = sum(choice.completion_tokens for choice in choices)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": sum(choice.reasoning_tokens for choice in choices), "audio_tokens": 0},
        }
