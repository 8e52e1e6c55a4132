"""What a request and a response mean: one small module for each dialect.

A dialect says what a request asks for, where the content of a response is (its projection), which shape an error has, and how a
stream carries its tag. The wire is docs/spec/projection.md and docs/spec/carriers.md.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from tos_guard.dialects._body import (
    MAX_BODY_BYTES,
    MAX_BODY_DEPTH,
    TAG_MEMBER,
    RequestFacts,
    cut_tag,
    is_running,
    parse_response_json,
    read_usage,
    response_id,
    splice_tag,
    without_tag,
)
from tos_guard.dialects._chat import CHAT_PROJECTION, ChatDialect, ChatFormat, ChatProjection
from tos_guard.dialects._completions import CompletionsDialect, CompletionsFormat, CompletionsProjection
from tos_guard.dialects._dialect import Dialect, RequestHead
from tos_guard.dialects._embeddings import EmbeddingsDialect
from tos_guard.dialects._file import FileDialect
from tos_guard.dialects._grpc import (
    GRPC_PROJECTION,
    NONCE_METADATA,
    REQUEST_ID_METADATA,
    SALT_METADATA,
    TOKEN_METADATA,
    USAGE_METADATA,
    CallDialect,
    CallFormat,
    CallProjection,
    GrpcDialect,
    GrpcFormat,
    GrpcProjection,
)
from tos_guard.dialects._infer import (
    INFER_PROJECTION,
    InferProjection,
    StreamedInferProjection,
    infer_streams,
    read_infer_tag,
    splice_infer_tag,
    strip_infer_tag,
)
from tos_guard.dialects._messages import MESSAGES_PROJECTION, MessagesDialect, MessagesFormat, MessagesProjection
from tos_guard.dialects._ndjson import LINES_PROJECTION, LINES_TYPES, LinesProjection, LinesSealing, LineStream, NdjsonDialect, tag_of_line
from tos_guard.dialects._open_inference import InferFormat, OpenInferenceDialect
from tos_guard.dialects._openai import OpenAIDialect
from tos_guard.dialects._plain import PlainDialect
from tos_guard.dialects._projection import BytesProjection, JSONProjection, Projection, projection_named
from tos_guard.dialects._registry import DIALECT_NAMES, NEED_MODEL, dialect_named
from tos_guard.dialects._responses import ResponsesDialect, ResponsesFormat, ResponsesProjection
from tos_guard.dialects._sealing import Step, StreamSealing
from tos_guard.dialects._sse import DONE, EventStream, ServerSentEvent, apart, ends_of, is_split, is_whole_object
from tos_guard.dialects._streams import Role, StreamFormat, is_named_right, told_form

__all__ = [
    "CHAT_PROJECTION",
    "DIALECT_NAMES",
    "DONE",
    "GRPC_PROJECTION",
    "INFER_PROJECTION",
    "LINES_PROJECTION",
    "LINES_TYPES",
    "MAX_BODY_BYTES",
    "MAX_BODY_DEPTH",
    "MESSAGES_PROJECTION",
    "NEED_MODEL",
    "NONCE_METADATA",
    "PROJECTIONS",
    "REQUEST_ID_METADATA",
    "SALT_METADATA",
    "STREAM_FORMATS",
    "TAG_MEMBER",
    "TOKEN_METADATA",
    "USAGE_METADATA",
    "BytesProjection",
    "CallDialect",
    "CallFormat",
    "CallProjection",
    "ChatDialect",
    "ChatFormat",
    "ChatProjection",
    "CompletionsDialect",
    "CompletionsFormat",
    "CompletionsProjection",
    "Dialect",
    "EmbeddingsDialect",
    "EventStream",
    "FileDialect",
    "GrpcDialect",
    "GrpcFormat",
    "GrpcProjection",
    "InferFormat",
    "InferProjection",
    "JSONProjection",
    "LineStream",
    "LinesProjection",
    "LinesSealing",
    "MessagesDialect",
    "MessagesFormat",
    "MessagesProjection",
    "NdjsonDialect",
    "OpenAIDialect",
    "OpenInferenceDialect",
    "PlainDialect",
    "Projection",
    "RequestFacts",
    "RequestHead",
    "ResponsesDialect",
    "ResponsesFormat",
    "ResponsesProjection",
    "Role",
    "ServerSentEvent",
    "Step",
    "StreamFormat",
    "StreamSealing",
    "StreamedInferProjection",
    "apart",
    "cut_tag",
    "dialect_named",
    "ends_of",
    "infer_streams",
    "is_named_right",
    "is_running",
    "is_split",
    "is_whole_object",
    "parse_response_json",
    "projection_named",
    "read_infer_tag",
    "read_usage",
    "response_id",
    "splice_infer_tag",
    "splice_tag",
    "strip_infer_tag",
    "tag_of_line",
    "told_form",
    "without_tag",
]

_FORMATS: tuple[StreamFormat, ...] = (
    ChatFormat(),
    CompletionsFormat(),
    ResponsesFormat(),
    MessagesFormat(),
)

STREAM_FORMATS: Final[Mapping[str, StreamFormat]] = MappingProxyType({known.projection.name: known for known in _FORMATS})
"""How streams of server-sent events carry their tag, by the name of their projection (C13)."""

PROJECTIONS: tuple[type[Projection], ...] = (
    *(known.projection for known in _FORMATS),
    InferProjection,
    LinesProjection,
    JSONProjection,
    GrpcProjection,
    BytesProjection,
)
"""Every projection this version reads."""
