"""A machine that never sleeps: there is nothing to start, to stop or to see but what its probes say."""

from services.waker.core.events import Sight
from services.waker.ports import CallResult

NEVER = CallResult(outcome="refused", code="static", reason="a machine of provider static is neither woken nor stopped")


class StaticMachine:
    """A `Provider`."""

    async def start(self, generation: int) -> CallResult:
        del generation
        return NEVER

    async def stop(self) -> CallResult:
        return NEVER

    async def look(self) -> Sight:
        return Sight(running=True, provider_state="static")
