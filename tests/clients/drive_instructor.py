"""Drives `instructor`: an answer that has to have a shape."""

import importlib
from typing import Any

from tests.clients.driving import PROMPT, Seen, drive

instructor: Any = importlib.import_module("instructor")  # not among this project's own packages
openai: Any = importlib.import_module("openai")
pydantic: Any = importlib.import_module("pydantic")


def chat(place: dict[str, Any], request: dict[str, Any], seen: Seen) -> None:
    client = instructor.from_openai(openai.OpenAI(**place), mode=instructor.Mode.TOOLS)
    messages = [{"role": "user", "content": PROMPT}]
    if request.get("tools"):
        weather = pydantic.create_model("weather", city=(str, ...))
        answer = client.create(model=request["model"], messages=messages, response_model=weather, max_retries=1)
        seen["calls"].append({"name": "weather", "arguments": answer.model_dump_json()})
        return
    answer = client.create(model=request["model"], messages=messages, response_model=None, stream=request["stream"])
    if request["stream"]:
        for chunk in answer:
            for choice in chunk.choices:
                seen["text"] += choice.delta.content or ""
        return
    seen["text"] = answer.choices[0].message.content
    seen["usage"] = [answer.usage.prompt_tokens, answer.usage.completion_tokens]


if __name__ == "__main__":
    drive({"chat": chat})
