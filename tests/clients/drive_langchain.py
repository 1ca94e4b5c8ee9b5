"""Drives `langchain-openai`."""

import importlib
import importlib.metadata
import json
from typing import Any

from tests.clients.driving import PROMPT, TOOL, Seen, drive

langchain_openai: Any = importlib.import_module("langchain_openai")  # not among this project's own packages


def chat(place: dict[str, Any], request: dict[str, Any], seen: Seen, **settings: Any) -> None:
    if request.get("usage"):
        settings["stream_usage"] = True
    model = langchain_openai.ChatOpenAI(model=request["model"], include_response_headers=True, **place, **settings)
    runnable = model.bind_tools([TOOL]) if request.get("tools") else model
    if not request["stream"]:
        _learn(runnable.invoke(PROMPT), seen)
        return
    whole: Any = None
    for chunk in runnable.stream(PROMPT):
        whole = chunk if whole is None else whole + chunk
        _learn(whole, seen)


def _learn(message: Any, seen: Seen) -> None:
    about = message.response_metadata
    seen["text"] = message.text
    seen["finish"] = about.get("finish_reason") or about.get("status")
    seen["request_id"] = about["headers"]["x-request-id"]
    if usage := message.usage_metadata:
        seen["usage"] = [usage["input_tokens"], usage["output_tokens"]]
    seen["calls"] = [
        {"id": call["id"], "name": call["name"], "arguments": json.dumps(call["args"])} for call in message.tool_calls
    ]


def respond(place: dict[str, Any], request: dict[str, Any], seen: Seen) -> None:
    chat(place, request, seen, use_responses_api=True)


def embed(place: dict[str, Any], request: dict[str, Any], seen: Seen) -> None:
    # Words as they are: by default it sends tokens of OpenAI's own models, which no other engine knows.
    embeddings = langchain_openai.OpenAIEmbeddings(model=request["model"], check_embedding_ctx_length=False, **place)
    seen["vectors"] = embeddings.embed_documents(["a", "b"])


def version(_place: dict[str, Any], _unused: dict[str, Any], seen: Seen) -> None:
    seen["text"] = importlib.metadata.version("langchain-openai")


if __name__ == "__main__":
    drive({"chat": chat, "respond": respond, "embed": embed, "version": version})
