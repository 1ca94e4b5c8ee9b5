"""Drives `guidellm`, vLLM's load generator."""

import json
import os
from pathlib import Path
from typing import Any

from tests.clients.driving import Seen, drive
from tests.clients.load_tools import REQUESTS, make_tokenizer, run

REPORT = Path(os.environ["HOME"]) / "guidellm.json"
STAND_INS = Path(__file__).parent / "stand_ins"
ENVIRONMENT = {"PYTHONPATH": f"{STAND_INS}{os.pathsep}{os.environ['PYTHONPATH']}", "USE_TORCH": "0"}


def load(place: dict[str, Any], request: dict[str, Any], seen: Seen) -> None:
    REPORT.unlink(missing_ok=True)
    backend = {
        "target": place["base_url"],
        "api_key": place["api_key"],
        "model": request["model"],
        "stream": request["stream"],
    }
    options = {
        "backend": {"kind": "openai_http", **backend},
        "profile": {"kind": "synchronous"},
        "constraint": {"kind": "max_requests", "count": REQUESTS},
        "data": {"kind": "synthetic_text", "prompt_tokens": 20, "output_tokens": 5},
        "tokenizer": {"kind": "huggingface_auto", "model": str(TOKENIZER)},
        "output": {"kind": "json", "path": str(REPORT)},
    }
    words = [word for name, value in options.items() for word in (f"--{name}", json.dumps(value))]
    run("guidellm", "run", *words, "--disable-console", **ENVIRONMENT)
    (benchmark,) = json.loads(REPORT.read_text())["benchmarks"]
    seen["errors"] = benchmark["requests"]["errored"]
    seen["usage"] = [
        [request["input_metrics"]["text_tokens"], request["output_metrics"]["text_tokens"]]
        for request in benchmark["requests"]["successful"]
    ]


if __name__ == "__main__":
    TOKENIZER = make_tokenizer()
    drive({"load": load})
