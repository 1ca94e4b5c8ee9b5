"""What the drivers in Python share: a request a line in, what the client saw a line out. Needs no package at all."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

PROMPT = "What is the weather?"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Now.", "parameters": PARAMETERS}}

Seen = dict[str, Any]
Actions = Callable[[dict[str, Any], dict[str, Any], Seen], None]
"""Asks at a place (`base_url` and `api_key`) for what is asked, and writes down what it sees as it sees it."""


def drive(does: Mapping[str, Actions]) -> None:
    """Run as `python -m DRIVER BASE_URL KEY`; `does` has a way for each kind of request."""
    base_url, key = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a package prints of its own accord goes to the log
    for line in sys.stdin:
        request = json.loads(line)
        place = {"base_url": base_url, "api_key": request.get("key", key)}
        seen: Seen = {"text": "", "finish": None, "usage": None, "calls": [], "request_id": None, "error": None}
        try:
            does[request["do"]](place, request, seen)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the caller of the package would get
            seen["error"] = _report(error)
        print(json.dumps(seen), file=answers, flush=True)


def _report(error: BaseException) -> dict[str, Any]:
    """What a caller can learn from it. Frameworks wrap the error of the package below: what it knows counts too."""
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    return {
        "kinds": [kind.__name__ for kind in type(error).__mro__],
        **{name: _first(chain, name) for name in ("code", "param", "request_id")},
        "status": _first(chain, "status_code"),
        "message": " <- ".join(map(str, chain)),
    }


def _first(chain: list[BaseException], name: str) -> Any:
    results = (getattr(error, name, None) for error in chain)
    return next((value for value in results if isinstance(value, str | int)), None)
