"""One leader among replicas: a key that lives only while its holder renews it, and a token that fences."""

import asyncio
from collections.abc import Callable

import structlog

from shared.bus.ports import Bus
from shared.bus.topology import LEASE_SECONDS, LEASES
from shared.errors import BusError, Conflict

log = structlog.get_logger()

LEADERLESS_SECONDS = 3 * LEASE_SECONDS
"""A lease that was let go is taken within one; that nobody has it for longer is a fault of the bus."""


class Lease:
    """Tries for the lease and keeps it. `token` is None while somebody else leads.

    The token is the revision at which the lease was taken: it rises with every new leader. `held` is true only
    while the last successful renewal is younger than the lease, by this process's monotonic clock, so a leader
    that was paused finds out before it acts.
    """

    def __init__(self, bus: Bus, name: str, holder: str, clock: Callable[[], float]) -> None:
        self._bus = bus
        self._name = name
        self._holder = holder.encode()
        self._clock = clock
        self._revision: int | None = None
        self._valid_until = 0.0
        self.token: int | None = None
        self._led_at = clock()
        """When somebody last took or renewed it."""
        self._leader_revision: int | None = None
        self._error = ""

    @property
    def leaderless_seconds(self) -> float:
        """How long nobody is known to lead."""
        return 0.0 if self.held else self._clock() - self._led_at

    @property
    def fault(self) -> str | None:
        """Nobody leads, and why this replica does not."""
        seconds = self.leaderless_seconds
        if seconds <= LEADERLESS_SECONDS:
            return None
        return f"nobody has led for {seconds:.0f} s: {self._error or 'the lease is not renewed'}"

    @property
    def held(self) -> bool:
        return self.token is not None and self._clock() < self._valid_until

    async def renew(self) -> bool:
        """One step: take it, or renew it. True while it is held afterwards."""
        asked_at = self._clock()
        try:
            if self._revision is None:
                self._revision = self.token = await self._bus.create(LEASES, self._name, self._holder)
            else:
                self._revision = await self._bus.update(LEASES, self._name, self._holder, revision=self._revision)
            # Counted from before the call: the server's clock for the key started no earlier.
            self._valid_until = asked_at + LEASE_SECONDS
            self._led_at, self._error = self._clock(), ""
        except Conflict:
            if self.token is not None:
                log.warning("lease lost", lease=self._name)
            self._revision = self.token = None
            await self._look_at_leader()
        except BusError as error:
            log.warning("lease not renewed", lease=self._name, error=str(error))
            self._error = str(error)
            if not self.held:
                self._revision = self.token = None
        return self.held

    async def _look_at_leader(self) -> None:
        """Somebody has the key; whoever leads renews it, so that its revision rises."""
        try:
            entry = await self._bus.get(LEASES, self._name)
        except BusError as error:
            self._error = str(error)
            return
        if entry is not None and entry.revision != self._leader_revision:
            self._leader_revision = entry.revision
            self._led_at, self._error = self._clock(), ""

    async def verify(self) -> bool:
        """Whether the server still says so: asked right before anything that must not be done twice."""
        if not self.held:
            return False
        entry = await self._bus.get(LEASES, self._name)
        # An answer that lay in the socket while we were paused is old: the clock has the last word. And a renewal may
        # pass this question on its way, so that the revision is the next one already.
        return entry is not None and entry.value == self._holder and self.held

    async def keep(self) -> None:
        """Renew for ever, three times per lease."""
        while True:
            await self.renew()
            await asyncio.sleep(LEASE_SECONDS / 3)

    async def release(self) -> None:
        """Let a standby in at once."""
        if self.held:
            self._revision = self.token = None
            try:
                await self._bus.delete(LEASES, self._name)
            except BusError as error:
                log.warning("lease not released", lease=self._name, error=str(error))
