"""Drives `openai-agents`: an agent on the chat completions API, which calls its tool itself."""

import asyncio
import importlib
import json
from typing import Any

from tests.clients.driving import PROMPT, Seen, drive

agents: Any = importlib.import_module("agents")  # not among this project's own packages
openai: Any = importlib.import_module("openai")


async def _chat(place: dict[str, Any], request: dict[str, Any], seen: Seen) -> None:
    def weather(city: str) -> str:
        """Now."""
        seen["calls"].append({"name": "weather", "arguments": json.dumps({"city": city})})
        return "sunny"

    async with openai.AsyncOpenAI(**place) as client:
        agent = agents.Agent(
            name="assistant",
            model=agents.OpenAIChatCompletionsModel(request["model"], client),
            tools=[agents.function_tool(weather)] if request.get("tools") else [],
        )
        if not request["stream"]:
            result = await agents.Runner.run(agent, PROMPT)
            seen["text"], usage = result.final_output, result.context_wrapper.usage
            seen["usage"] = [usage.input_tokens, usage.output_tokens]
            return
        async for event in agents.Runner.run_streamed(agent, PROMPT).stream_events():
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                seen["text"] += event.data.delta


def chat(place: dict[str, Any], request: dict[str, Any], seen: Seen) -> None:
    asyncio.run(_chat(place, request, seen))


if __name__ == "__main__":
    agents.set_tracing_disabled(disabled=True)
    drive({"chat": chat})
