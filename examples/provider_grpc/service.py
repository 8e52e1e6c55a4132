"""A small text service as one finds it: four kinds of method, no terms, no tags.

``text_pb2.py`` and ``text_pb2_grpc.py`` are made from ``text.proto``:
``python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. provider_grpc/text.proto``, in ``examples``.
"""

from __future__ import annotations

from collections.abc import Iterator

import grpc

from .text_pb2 import Completion, Piece, Prompt
from .text_pb2_grpc import TextServicer

__all__ = ["Continuing"]

STORY = "and so the story went on until somebody asked who had written it and what else might be done with it"
MAX_WORDS = 1_000
DEFAULT_WORDS = 8


class Continuing(TextServicer):
    """Continues a prompt by words from a list, always the same ones for the same prompt."""

    def Complete(self, request: Prompt, context: grpc.ServicerContext) -> Completion:  # noqa: N802 - named by the proto
        words = _words(request, context)
        return Completion(text=" ".join(words), words=len(words))

    def Stream(self, request: Prompt, context: grpc.ServicerContext) -> Iterator[Piece]:  # noqa: N802
        for word in _words(request, context):
            yield Piece(text=f"{word} ")

    def Collect(self, request_iterator: Iterator[Prompt], context: grpc.ServicerContext) -> Completion:  # noqa: N802
        words = [word for prompt in request_iterator for word in _words(prompt, context)]
        return Completion(text=" ".join(words), words=len(words))

    def Chat(self, request_iterator: Iterator[Prompt], context: grpc.ServicerContext) -> Iterator[Piece]:  # noqa: N802
        for prompt in request_iterator:
            yield Piece(text=" ".join(_words(prompt, context)))


def _words(prompt: Prompt, context: grpc.ServicerContext) -> list[str]:
    if not prompt.text.strip():
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the prompt is empty")
    if prompt.max_words > MAX_WORDS:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"at most {MAX_WORDS} words")
    words, start = STORY.split(), sum(prompt.text.encode())
    return [words[(start + number) % len(words)] for number in range(prompt.max_words or DEFAULT_WORDS)]
