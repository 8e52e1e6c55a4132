"""Streams of every dialect as a handler sends them, and what a server makes of one: sealed, with checkpoints or without."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["STREAMS", "event", "responses_body", "responses_events"]


def event(data: Any, name: str | None = None) -> bytes:
    """One event."""
    return (f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(data).encode() + b"\n\n"


def _chat() -> list[bytes]:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        return event({"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    usage = event({"id": "c", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    texts = ({"role": "assistant"}, {"content": "Hel"}, {"content": "lo, wö"}, {"content": "rld"})
    return [b": hi\n\n", *map(chunk, texts), chunk({}, "stop"), usage, b"data: [DONE]\n\n"]


def _completions() -> list[bytes]:
    def chunk(text: str, index: int, finish: str | None = None) -> bytes:
        choice = {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
        return event({"id": "c", "object": "text_completion", "choices": [choice]})

    texts = [chunk("Hel", 0), chunk("Bye", 1), chunk("lo, wö", 0), chunk("", 0, "stop"), chunk(" bye", 1, "length")]
    return [*texts, b"data: [DONE]\n\n"]


CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "weather", "status": "completed"}
CUSTOM = {"type": "custom_tool_call", "id": "ct_1", "call_id": "call_2", "name": "sql", "status": "completed"}
SEARCH = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}}
CHART = {"type": "chart", "points": [1, 2.5]}


def _message(*content: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": list(content)}


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


OUTPUT = [
    {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "Greet."}],
        "content": [{"type": "reasoning_text", "text": "They greet."}],
        "encrypted_content": "c2VjcmV0",
    },
    _message(_text("Hello, wörld"), {"type": "refusal", "refusal": "No more."}, CHART),
    {**CALL, "arguments": '{"city":"Köln"}'},
    {**CUSTOM, "input": "select 1"},
    SEARCH,
]


def responses_body(output: list[dict[str, Any]] | None = None, **members: Any) -> dict[str, Any]:
    """A whole response."""
    usage = {"input_tokens": 9, "output_tokens": 21, "output_tokens_details": {"reasoning_tokens": 5}}
    body = {"id": "resp_1", "object": "response", "status": "completed", "model": "small", "output": OUTPUT, "usage": usage}
    return {**body, **({} if output is None else {"output": output}), **members}


def responses_events() -> list[dict[str, Any]]:
    """The events of a stream of this response, in the order of the official server."""
    found: list[dict[str, Any]] = []

    def say(kind: str, **members: Any) -> None:
        found.append({"type": f"response.{kind}", "sequence_number": len(found), **members})

    def deltas(kind: str, pieces: list[str], done: str, **where: Any) -> None:
        for piece in pieces:
            say(f"{kind}.delta", **where, delta=piece)
        say(f"{kind}.done", **where, **{done: "".join(pieces)})

    say("created", response=responses_body([], status="in_progress", usage=None))
    say("in_progress", response=responses_body([], status="in_progress", usage=None))
    say("output_item.added", output_index=0, item={"type": "reasoning", "id": "rs_1", "summary": []})
    say("reasoning_summary_part.added", output_index=0, summary_index=0, part={"type": "summary_text", "text": ""})
    deltas("reasoning_summary_text", ["Gre", "et."], "text", output_index=0, summary_index=0)
    say("reasoning_summary_part.done", output_index=0, summary_index=0, part={"type": "summary_text", "text": "Greet."})
    deltas("reasoning_text", ["They ", "greet."], "text", output_index=0, content_index=0)
    say("output_item.done", output_index=0, item=OUTPUT[0])
    say("output_item.added", output_index=1, item={**_message(), "status": "in_progress"})
    say("content_part.added", output_index=1, content_index=0, part=_text(""))
    deltas("output_text", ["Hel", "lo, w", "örld"], "text", output_index=1, content_index=0)
    say("output_text.annotation.added", output_index=1, content_index=0, annotation={"type": "url_citation"})
    say("content_part.done", output_index=1, content_index=0, part=_text("Hello, wörld"))
    say("content_part.added", output_index=1, content_index=1, part={"type": "refusal", "refusal": ""})
    deltas("refusal", ["No ", "more."], "refusal", output_index=1, content_index=1)
    say("content_part.added", output_index=1, content_index=2, part={"type": "chart", "points": []})
    say("content_part.done", output_index=1, content_index=2, part=CHART)
    say("output_item.done", output_index=1, item=OUTPUT[1])
    say("output_item.added", output_index=2, item={**CALL, "arguments": "", "status": "in_progress"})
    deltas("function_call_arguments", ['{"city":', '"Köln"}'], "arguments", output_index=2)
    say("output_item.done", output_index=2, item=OUTPUT[2])
    say("output_item.added", output_index=3, item={**CUSTOM, "input": "", "status": "in_progress"})
    deltas("custom_tool_call_input", ["select ", "1"], "input", output_index=3)
    say("output_item.done", output_index=3, item=OUTPUT[3])
    say("output_item.added", output_index=4, item={"type": "web_search_call", "id": "ws_1", "status": "in_progress"})
    say("web_search_call.searching", output_index=4, item_id="ws_1")
    say("output_item.done", output_index=4, item=SEARCH)
    say("completed", response=responses_body())
    return found


def _messages() -> list[bytes]:
    def say(kind: str, **members: Any) -> bytes:
        return event({"type": kind, **members}, kind)

    def delta(index: int, kind: str, **members: Any) -> bytes:
        return say("content_block_delta", index=index, delta={"type": f"{kind}_delta", **members})

    usage = {"input_tokens": 3, "output_tokens": 1}
    return [
        say("message_start", message={"id": "msg_1", "type": "message", "role": "assistant", "content": [], "usage": usage}),
        say("ping"),
        say("content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""}),
        delta(0, "thinking", thinking="hm"),
        delta(0, "signature", signature="c2ln"),
        say("content_block_stop", index=0),
        say("content_block_start", index=1, content_block={"type": "text", "text": ""}),
        delta(1, "text", text="Hello, wö"),
        delta(1, "text", text="rld"),
        say("content_block_stop", index=1),
        say("content_block_start", index=2, content_block={"type": "tool_use", "id": "t", "name": "weather", "input": {}}),
        delta(2, "input_json", partial_json='{"city": "K'),
        delta(2, "input_json", partial_json='öln"}'),
        say("content_block_stop", index=2),
        say("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 2}),
        say("message_stop"),
    ]


STREAMS: dict[str, list[bytes]] = {
    "anthropic-messages": _messages(),
    "openai-chat": _chat(),
    "openai-completions": _completions(),
    "openai-responses": [event(each, each["type"]) for each in responses_events()],
}
"""Dialect → the events of a complete stream."""
