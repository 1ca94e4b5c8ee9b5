"""Elects one leader among replicas: a key that expires unless its holder renews it, with a fencing token."""

import asyncio
from collections.abc import Callable

import structlog

from shared.bus.ports import Bus
from shared.bus.topology import LEASE_SECONDS, LEASES
from shared.errors import BusError, Conflict

log = structlog.get_logger()

LEADERLESS_SECONDS = 3 * LEASE_SECONDS
"""A released lease is taken within one lease time. If nobody holds it for this long, the bus is at fault."""


class Lease:
    """Takes the lease and renews it. `token` is None while another replica leads.

    The token is the revision at which the lease was taken, so it rises with every new leader. `held` is true only while
    the last successful renewal is younger than the lease, by this process's monotonic clock. A leader that was paused
    therefore notices before it acts.
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
        """When any replica last took or renewed it."""
        self._leader_revision: int | None = None
        self._error: str | None = None

    @property
    def leaderless_seconds(self) -> float:
        """How long no replica has been known to lead."""
        return 0.0 if self.held else self._clock() - self._led_at

    @property
    def fault(self) -> str | None:
        """Why no replica leads; None while one does."""
        seconds = self.leaderless_seconds
        if seconds <= LEADERLESS_SECONDS:
            return None
        return f"nobody has led for {seconds:.0f} s: {self._error or 'the lease is not renewed'}"

    @property
    def held(self) -> bool:
        return self.token is not None and self._clock() < self._valid_until

    async def renew(self) -> bool:
        """Take or renew the lease once. Returns whether it is held afterwards."""
        sent_at = self._clock()
        try:
            if self._revision is None:
                self._revision = self.token = await self._bus.create(LEASES, self._name, self._holder)
            else:
                self._revision = await self._bus.update(LEASES, self._name, self._holder, revision=self._revision)
            # Counted from before the call: the key's time on the server started no earlier.
            self._valid_until = sent_at + LEASE_SECONDS
            self._led_at, self._error = self._clock(), None
        except Conflict:
            if self.token is not None:
                log.warning("lease_lost", lease=self._name)
            self._revision = self.token = None
            await self._check_leader()
        except BusError as error:
            log.warning("lease_renewal_failed", lease=self._name, error=str(error))
            self._error = str(error)
            if not self.held:
                self._revision = self.token = None
        return self.held

    async def _check_leader(self) -> None:
        """Another replica has the key. If it leads, it renews the key, whose revision rises."""
        try:
            entry = await self._bus.get(LEASES, self._name)
        except BusError as error:
            self._error = str(error)
            return
        if entry is not None and entry.revision != self._leader_revision:
            self._leader_revision = entry.revision
            self._led_at, self._error = self._clock(), None

    async def verify(self) -> bool:
        """Ask the server whether the lease is still held, right before anything that must not be done twice."""
        if not self.held:
            return False
        entry = await self._bus.get(LEASES, self._name)
        # The answer may have waited in the socket while this process was paused, so the clock decides. A renewal may
        # overtake this request, so the revision may already be the next one.
        return entry is not None and entry.value == self._holder and self.held

    async def keep(self, may_lead: Callable[[], bool] = lambda: True) -> None:
        """Renew for ever, three times per lease time. While this replica may not lead, another one can."""
        while True:
            if may_lead():
                await self.renew()
            else:
                await self.release()
                await self._check_leader()
            await asyncio.sleep(LEASE_SECONDS / 3)

    async def release(self) -> None:
        """Let a standby take over at once."""
        if self.held:
            revision, self._revision, self.token = self._revision, None, None
            try:
                await self._bus.delete(LEASES, self._name, revision=revision)  # never another replica's
            except BusError as error:
                log.warning("lease_release_failed", lease=self._name, error=str(error))
