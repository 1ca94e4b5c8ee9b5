"""Drives `litellm`."""

import importlib
import os
from typing import Any

from tests.clients.driving import PROMPT, TOOL, Seen, drive

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it asks the internet for prices otherwise
litellm: Any = importlib.import_module("litellm")  # not among this project's own packages


def chat(place: dict[str, Any], request: dict[str, Any], seen: Seen) -> None:
    more: dict[str, Any] = {"tools": [TOOL]} if request.get("tools") else {}
    answer = litellm.completion(
        model=f"openai/{request['model']}",
        api_base=place["base_url"],
        api_key=place["api_key"],
        messages=[{"role": "user", "content": PROMPT}],
        stream=request["stream"],
        **more,
    )
    if request["stream"]:
        for chunk in answer:
            seen["text"] += chunk.choices[0].delta.content or ""
            seen["finish"] = chunk.choices[0].finish_reason or seen["finish"]
        return
    (choice,) = answer.choices
    seen["text"], seen["finish"] = choice.message.content or "", choice.finish_reason
    seen["usage"] = [answer.usage.prompt_tokens, answer.usage.completion_tokens]
    for call in choice.message.tool_calls or ():
        seen["calls"].append({"name": call.function.name, "arguments": call.function.arguments})


if __name__ == "__main__":
    drive({"chat": chat})
