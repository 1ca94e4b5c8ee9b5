"""Drives `pydantic-ai`: an agent, which calls its tool itself."""

import importlib
import json
from typing import Any

from tests.clients.driving import PROMPT, Seen, drive

pydantic_ai: Any = importlib.import_module("pydantic_ai")  # not among this project's own packages
models: Any = importlib.import_module("pydantic_ai.models.openai")
providers: Any = importlib.import_module("pydantic_ai.providers.openai")


def chat(place: dict[str, Any], request: dict[str, Any], seen: Seen) -> None:
    agent = pydantic_ai.Agent(models.OpenAIChatModel(request["model"], provider=providers.OpenAIProvider(**place)))

    def weather(city: str) -> str:
        """Now."""
        seen["calls"].append({"name": "weather", "arguments": json.dumps({"city": city})})
        return "sunny"

    if request.get("tools"):
        agent.tool_plain(weather)
    if request["stream"]:
        for piece in agent.run_stream_sync(PROMPT).stream_text(delta=True, debounce_by=None):
            seen["text"] += piece
        return
    result = agent.run_sync(PROMPT)
    seen["text"], usage = result.output, result.usage
    usage = usage() if callable(usage) else usage
    seen["usage"] = [usage.input_tokens, usage.output_tokens]


if __name__ == "__main__":
    drive({"chat": chat})
