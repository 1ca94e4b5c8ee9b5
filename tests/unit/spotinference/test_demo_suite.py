"""How the demo uses the running services."""

from pathlib import Path
from typing import Any

from spotinference.demo.suite import Suite

BEFORE_MIDNIGHT = 1_795_391_999.9
"""2026-11-22T23:59:59.9Z"""


class RecordingSuite(Suite):
    """Records the command and replies with one request."""

    words: tuple[str, ...] = ()

    async def run_json(self, *words: str) -> Any:
        self.words = words
        return {"totals": {"requests": 1}}


async def test_usage_is_counted_from_the_day_of_the_first_request() -> None:
    suite = RecordingSuite(Path(), {})
    assert await suite.usage_since(BEFORE_MIDNIGHT) == {"requests": 1}
    assert suite.words == ("usage", "--from", "2026-11-22")
