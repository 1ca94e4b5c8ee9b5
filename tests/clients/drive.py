"""Drives the `openai` package, whichever major version this process finds, with its base URL and key alone changed."""

from typing import Any

import openai

from tests.clients.driving import PROMPT, TOOL, Seen, drive

MESSAGES = [{"role": "user", "content": PROMPT}]


def chat(place: dict[str, Any], request: dict[str, Any], seen: Seen) -> None:
    client: Any = openai.OpenAI(**place)
    more: dict[str, Any] = {"tools": [TOOL]} if request.get("tools") else {}
    if request.get("usage"):
        more["stream_options"] = {"include_usage": True}
    if request["stream"]:
        stream = client.chat.completions.create(model=request["model"], messages=MESSAGES, stream=True, **more)
        seen["request_id"] = stream.response.headers["x-request-id"]
        for chunk in stream:
            _chunk(chunk, seen)
        return
    answer = client.chat.completions.create(model=request["model"], messages=MESSAGES, **more)
    seen["request_id"] = answer._request_id
    (choice,) = answer.choices
    seen["text"], seen["finish"], seen["usage"] = choice.message.content or "", choice.finish_reason, _usage(answer)
    for call in choice.message.tool_calls or ():
        seen["calls"].append({"id": call.id, "name": call.function.name, "arguments": call.function.arguments})


def _chunk(chunk: Any, seen: Seen) -> None:
    if chunk.usage:
        seen["usage"] = _usage(chunk)
    for choice in chunk.choices:
        seen["text"] += choice.delta.content or ""
        seen["finish"] = choice.finish_reason or seen["finish"]
        for call in choice.delta.tool_calls or ():
            if call.id:
                seen["calls"].append({"id": call.id, "name": call.function.name, "arguments": ""})
            seen["calls"][call.index]["arguments"] += call.function.arguments or ""


def _usage(answer: Any) -> list[int]:
    return [answer.usage.prompt_tokens, answer.usage.completion_tokens]


def respond(place: dict[str, Any], request: dict[str, Any], seen: Seen) -> None:
    client: Any = openai.OpenAI(**place)
    answer = client.responses.create(model=request["model"], input="hi", stream=request["stream"])
    if request["stream"]:
        seen["request_id"] = answer.response.headers["x-request-id"]
        for event in answer:
            if event.type == "response.output_text.delta":
                seen["text"] += event.delta
            elif event.type == "response.completed":
                seen["finish"] = event.response.status
                seen["usage"] = [event.response.usage.input_tokens, event.response.usage.output_tokens]
        return
    seen["request_id"], seen["text"], seen["finish"] = answer._request_id, answer.output_text, answer.status
    seen["usage"] = [answer.usage.input_tokens, answer.usage.output_tokens]


def embed(place: dict[str, Any], request: dict[str, Any], seen: Seen) -> None:
    answer = openai.OpenAI(**place).embeddings.create(model=request["model"], input=["a", "b"])
    seen["vectors"] = [row.embedding for row in answer.data]


def version(_place: dict[str, Any], _unused: dict[str, Any], seen: Seen) -> None:
    seen["text"] = openai.__version__


if __name__ == "__main__":
    drive({"chat": chat, "respond": respond, "embed": embed, "version": version})
