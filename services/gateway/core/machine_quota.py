"""Shares each machine's `max_concurrency` among the gateways, by the leases that share a key's concurrent requests.

For the coordinator a machine is one more key, with a limit on requests in flight alone. So all gateways together never
send a machine more than it takes, and a gateway can use what the others leave.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from services.gateway.core.key_usage import CONCURRENCY
from services.gateway.core.quota_coordinator import QuotaCoordinator
from services.gateway.core.quota_lease import MACHINE
from shared.messages.gateway import KeyQuota

UNMET_SECONDS = 0.25
"""How long a request that found no room counts as waiting for it, while it retries."""


def quota_key(machine: str) -> str:
    """Return the machine's name among the keys."""
    return MACHINE + machine


def quota_of(in_flight: int, limit: int, unmet: int) -> KeyQuota:
    """Return what the other gateways are told of a machine."""
    return KeyQuota(used=(0, 0, in_flight, 0), limits=(None, None, limit, None), wanted=(0, 0, unmet, 0))


@dataclass(eq=False, slots=True)
class MachineQuota:
    """How many requests this gateway may have in flight on each machine. `now` is Unix seconds."""

    coordinator: QuotaCoordinator
    notify: Callable[[], None]
    """Called when the other gateways should learn of a change."""
    _revision: int = -1
    _room: dict[str, int] = field(default_factory=dict)
    """By machine, until the coordinator's state changes."""

    def room(self, machine: str, limit: int, now: float) -> int:
        """Return how many requests may be in flight on the machine from here."""
        coordinator = self.coordinator
        if coordinator.is_alone:
            return limit
        coordinator.expire(now)
        if coordinator.revision != self._revision:
            self._revision = coordinator.revision
            self._room.clear()
        room = self._room.get(machine)
        if room is None:
            room = self._room[machine] = coordinator.ceiling(quota_key(machine), CONCURRENCY, limit)
        return room

    def on_release(self, machine: str) -> None:
        """Tell the others of a free place if one of them waits for it."""
        if not self.coordinator.is_alone and self.coordinator.is_short_elsewhere(quota_key(machine), CONCURRENCY):
            self.notify()
