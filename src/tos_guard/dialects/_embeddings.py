"""OpenAI embeddings: a model reads and answers in vectors, so that no output tokens are reserved (projection ``json-1``)."""

from __future__ import annotations

from tos_guard.dialects._body import RequestFacts, count_media, parse_request_object, request_end_user, request_model, request_prompts
from tos_guard.dialects._dialect import NO_HEAD, RequestHead
from tos_guard.dialects._openai import OpenAIDialect
from tos_guard.dialects._projection import JSONProjection, Projection
from tos_guard.dialects._streams import StreamFormat

__all__ = ["EmbeddingsDialect"]


class EmbeddingsDialect(OpenAIDialect):
    """OpenAI embeddings over HTTP. A body is covered whole, its vectors written as numbers or in base64."""

    name = "openai-embeddings"
    projection: type[Projection] = JSONProjection

    def read_request(self, body: bytes, head: RequestHead = NO_HEAD) -> RequestFacts:
        """What the request asks for: each input is a prompt, and answered with one vector.

        Raises:
            MalformedRequestError: Not a JSON object with a model.
        """
        del head
        request = parse_request_object(body)
        return RequestFacts(
            action=self.action,
            model=request_model(request),
            choices=request_prompts(request, ("input",)),
            media_parts=count_media(request.get("messages")) + count_media([{"content": request.get("input")}]),
            end_user=request_end_user(request),
            gives_output=False,
        )

    def stream_format(self, media_type: bytes) -> StreamFormat | None:
        """None: nothing of it is streamed."""
        del media_type
        return None
