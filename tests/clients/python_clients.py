"""LiteLLM's library and langchain-openai: what they make of a chat completion, as one JSON document."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the network at import

import litellm
from langchain_openai import ChatOpenAI

base, key, model = sys.argv[1:]
messages = [{"role": "user", "content": "Hello"}]
said: dict[str, Any] = {}

litellm.suppress_debug_info = True
given = {"model": f"openai/{model}", "api_base": f"{base}/v1", "api_key": key, "messages": messages, "num_retries": 0}
whole = litellm.completion(**given)
said["litellm json"] = {
    "text": whole.choices[0].message.content,
    "tag": (getattr(whole, "ai_provenance", None) or {}).get("token"),
    "header": (whole._hidden_params.get("additional_headers") or {}).get("llm_provider-ai-provenance"),
}
streamed: dict[str, Any] = {"text": "", "tag": None}
for chunk in litellm.completion(**given, stream=True):
    streamed["text"] += chunk.choices[0].delta.content or ""
    streamed["tag"] = (getattr(chunk, "ai_provenance", None) or {}).get("token") or streamed["tag"]
said["litellm stream"] = streamed

chat = ChatOpenAI(model=model, base_url=f"{base}/v1", api_key=key, max_retries=0, include_response_headers=True)
answer = chat.invoke("Hello")
said["langchain json"] = {"text": answer.content, "header": answer.response_metadata["headers"].get("ai-provenance")}
text, header = "", None
for part in chat.stream("Hello"):
    text += part.content
    header = part.response_metadata.get("headers", {}).get("ai-provenance") or header
said["langchain stream"] = {"text": text, "header": header}

print(json.dumps(said))
