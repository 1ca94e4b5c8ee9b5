"""Drives `llm`, with a model that its `extra-openai-models.yaml` names."""

import importlib
import json
from pathlib import Path
from typing import Any

from tests.clients.driving import PROMPT, Seen, drive

llm: Any = importlib.import_module("llm")  # not among this project's own packages


def chat(place: dict[str, Any], request: dict[str, Any], seen: Seen) -> None:
    name = request["model"]
    extra = {"model_id": name, "model_name": name, "api_base": place["base_url"], "supports_tools": True}
    (Path(llm.user_dir()) / "extra-openai-models.yaml").write_text(json.dumps([extra]))  # JSON is YAML

    def weather(city: str) -> str:
        """Now."""
        seen["calls"].append({"name": "weather", "arguments": json.dumps({"city": city})})
        return "sunny"

    model = llm.get_model(name)
    if request.get("tools"):
        seen["text"] = model.chain(PROMPT, tools=[weather], stream=request["stream"], key=place["api_key"]).text()
        return
    response = model.prompt(PROMPT, stream=request["stream"], key=place["api_key"])
    for piece in response:
        seen["text"] += piece
    usage = response.usage()
    if not request["stream"]:
        seen["usage"] = [usage.input, usage.output]


if __name__ == "__main__":
    drive({"chat": chat})
