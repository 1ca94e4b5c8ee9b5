"""What the drivers in Python share: a request a line in, what the client saw a line out. Needs no package at all."""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

Seen = dict[str, Any]
Does = Callable[[dict[str, Any], dict[str, Any], Seen], None]
"""Asks at a place (`base_url` and `api_key`) for what is asked, and writes down what it sees as it sees it."""


def drive(does: Mapping[str, Does]) -> None:
    """Run as `python -m DRIVER BASE_URL KEY`; `does` has a way for each kind of request."""
    base_url, key = sys.argv[1:]
    for line in sys.stdin:
        asked = json.loads(line)
        place = {"base_url": base_url, "api_key": asked.get("key", key)}
        seen: Seen = {"text": "", "finish": None, "usage": None, "calls": [], "request_id": None, "error": None}
        try:
            does[asked["do"]](place, asked, seen)
        except Exception as error:  # noqa: BLE001 - whatever the caller of the package would get
            seen["error"] = _told(error)
        print(json.dumps(seen), flush=True)


def _told(error: Exception) -> dict[str, Any]:
    """What a caller can learn from it."""
    return {
        "kinds": [kind.__name__ for kind in type(error).__mro__],
        "status": getattr(error, "status_code", None),
        "code": getattr(error, "code", None),
        "param": getattr(error, "param", None),
        "message": str(error),
        "request_id": getattr(error, "request_id", None),
    }
