"""Drives `llama-index-llms-openai-like`."""

import importlib
import json
from typing import Any

from tests.clients.driving import PROMPT, Seen, drive

openai_like: Any = importlib.import_module("llama_index.llms.openai_like")  # not among this project's own packages
llms: Any = importlib.import_module("llama_index.core.llms")
tools: Any = importlib.import_module("llama_index.core.tools")


def weather(city: str) -> str:
    """Now."""
    return f"sunny in {city}"


def chat(place: dict[str, Any], request: dict[str, Any], seen: Seen) -> None:
    model = openai_like.OpenAILike(
        model=request["model"],
        api_base=place["base_url"],
        api_key=place["api_key"],
        is_chat_model=True,
        is_function_calling_model=True,
    )
    if request.get("tools"):
        answer = model.chat_with_tools([tools.FunctionTool.from_defaults(weather)], user_msg=PROMPT)
        for call in model.get_tool_calls_from_response(answer):
            seen["calls"].append({"name": call.tool_name, "arguments": json.dumps(call.tool_kwargs)})
        return
    messages = [llms.ChatMessage(role="user", content=PROMPT)]
    if request["stream"]:
        for piece in model.stream_chat(messages):
            seen["text"] += piece.delta or ""
        return
    answer = model.chat(messages)
    seen["text"] = answer.message.content
    seen["usage"] = [answer.raw.usage.prompt_tokens, answer.raw.usage.completion_tokens]


if __name__ == "__main__":
    drive({"chat": chat})
