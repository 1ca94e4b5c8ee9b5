"""Drives `aider`, which edits files as the model says."""

import contextlib
import importlib
import io
import os
from pathlib import Path
from typing import Any

from tests.clients.driving import PROMPT, Seen, drive

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it asks the internet for prices otherwise
aider: Any = importlib.import_module("aider.main")  # not among this project's own packages
coders: Any = importlib.import_module("aider.coders.base_coder")
OPTIONS = ("--yes-always", "--no-git", "--no-pretty", "--no-check-update", "--no-analytics", "--no-show-model-warnings")
FILE = "weather.txt"


class AiderFailed(Exception):
    """It raises nothing: it writes what went wrong."""


def chat(place: dict[str, Any], request: dict[str, Any], seen: Seen) -> None:
    Path(FILE).write_text("city\n")
    words = [
        *OPTIONS,
        "--model",
        f"openai/{request['model']}",
        "--stream" if request["stream"] else "--no-stream",
    ]
    words += ["--openai-api-base", place["base_url"], "--openai-api-key", place["api_key"], "--edit-format", "diff"]
    content = io.StringIO()
    with contextlib.redirect_stdout(content):
        coder = aider.main([*words, *([FILE] if request.get("tools") else [])], return_coder=True)
        coder.run(with_message=PROMPT)
    seen["text"] = coder.partial_response_content
    if request.get("tools"):
        seen["calls"].append({"name": "weather", "arguments": Path(FILE).read_text()})
    if "Error" in content.getvalue():
        raise AiderFailed(content.getvalue())


if __name__ == "__main__":
    home = Path(os.environ["HOME"])
    os.chdir(home)
    (home / ".aider" / "caches").mkdir(parents=True)
    (home / ".aider" / "caches" / "model_prices_and_context_window.json").write_text('{"none": {}}')
    coders.RETRY_TIMEOUT = 0.2  # by default it repeats for two minutes even what is not to be repeated
    drive({"chat": chat})
