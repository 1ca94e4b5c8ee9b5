"""Drives `aiperf`, NVIDIA's load generator."""

import json
import os
from pathlib import Path
from typing import Any

from tests.clients.driving import Seen, drive
from tests.clients.load_tools import REQUESTS, TOKENIZER, make_tokenizer, run

RESULTS = Path(os.environ["HOME"]) / "aiperf"


def load(place: dict[str, Any], request: dict[str, Any], seen: Seen) -> None:
    export = RESULTS / "profile_export.jsonl"
    export.unlink(missing_ok=True)
    options = [
        "--model",
        request["model"],
        "--url",
        place["base_url"].removesuffix("/v1"),
        "--api-key",
        place["api_key"],
    ]
    options += ["--endpoint-type", "chat", *(["--streaming"] if request["stream"] else [])]
    options += ["--tokenizer", TOKENIZER, "--isl", "20", "--osl", "5", "--concurrency", "1"]
    options += ["--request-count", str(REQUESTS), "--num-dataset-entries", str(REQUESTS)]
    run(
        "aiperf", "profile", *options, "--use-server-token-count", "--ui", "none", "--output-artifact-dir", str(RESULTS)
    )
    records = [json.loads(line) for line in export.read_text().splitlines()]
    seen["errors"] = [record["error"] for record in records if record.get("error")]
    counts = [record["metrics"] for record in records if "usage_completion_tokens" in record["metrics"]]
    seen["usage"] = [[count[f"usage_{kind}_tokens"]["value"] for kind in ("prompt", "completion")] for count in counts]


if __name__ == "__main__":
    make_tokenizer()
    drive({"load": load})
