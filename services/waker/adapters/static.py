"""Machines that never sleep: there is nothing to start, to stop or to see but what their probes say."""

from services.waker.ports import AccountSnapshot, CallResult

NEVER = CallResult(
    outcome="refused",
    code="static",
    reason="a machine of provider static is neither woken nor stopped",
    scope="machine",
)


class StaticMachines:
    """A `Provider`."""

    async def start(self, machine: str, generation: int) -> CallResult:
        del machine, generation
        return NEVER

    async def stop(self, machine: str, *, force: bool) -> CallResult:
        del machine, force
        return NEVER

    async def observe(self) -> AccountSnapshot:
        return AccountSnapshot(observations={})

    async def test(self) -> tuple[str, ...]:
        return ()

    async def close(self) -> None:
        """Nothing is open."""
