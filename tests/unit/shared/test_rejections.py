"""What is rejected is counted always, and logged at a bounded rate."""

import pytest
import structlog

from shared.bus.memory import MemoryBus
from shared.bus.rejections import LOGGED_PER_MINUTE, Rejections
from shared.messages.codec import Unreadable, decode
from shared.messages.meter import ErrorReply


async def test_a_flood_is_counted_and_logged_at_a_bounded_rate() -> None:
    now = [0.0]
    rejections = Rejections(lambda: now[0])
    with structlog.testing.capture_logs() as lines:
        for n in range(1000):
            rejections.record("activity.*", Unreadable("bad"), subject=f"activity.{n}")
        rejections.record("limits.*", Unreadable("bad"))
        now[0] = 60.0
        rejections.record("activity.*", Unreadable("bad again"))
    assert rejections.counts == {"activity.*": 1001, "limits.*": 1}
    assert len(lines) == LOGGED_PER_MINUTE + 2
    assert lines[LOGGED_PER_MINUTE - 1]["further"] == "counted and not logged, for a minute"


@pytest.mark.parametrize("defect", [KeyError("x"), RecursionError(), Unreadable("y")])
async def test_a_request_whose_handler_raises_is_answered_with_the_fault_in_the_log(defect: Exception) -> None:
    bus = MemoryBus()

    async def answer(_data: bytes) -> bytes:
        raise defect

    await bus.respond("billing", "billing.report", answer)
    with structlog.testing.capture_logs() as lines:
        refused = decode(await bus.request("billing.report", b"", timeout=1.0), ErrorReply)
    (line,) = lines
    assert refused.reason == f"internal error {line['incident']}: see the log of billing"
    assert line["exc_info"] is defect
