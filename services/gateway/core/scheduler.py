"""Which requests wait for which model, which are in flight on which machine, and which one goes next.

None of these calls blocks: each updates the state and returns. A place is granted through the ticket's callback, so the
caller decides how to wait.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from math import inf

from services.gateway.core.breaker import Breaker
from services.gateway.core.machine_quota import UNMET_SECONDS, MachineQuota, quota_key, quota_of
from services.gateway.core.waiting_queue import Queue, Ticket
from shared.budget_gates import GateView
from shared.config.fleet import Model
from shared.config.sections import Config
from shared.messages.gateway import KeyQuota, MachineActivity
from shared.messages.waker import MachineRecord


class TooManyWaiting(Exception):
    """Too many requests wait, in total or for one key."""

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit
        """`waiting` or `waiting_per_key`."""


@dataclass(eq=False, slots=True)
class _Machine:
    id: str
    room: int
    in_flight: int = 0
    last_used_at: float | None = None
    unmet_at: float = -inf
    """When a request last found all of this gateway's places taken, although the machine may have room."""


class RequestScheduler:
    """Assigns places on machines and queues requests.

    The caller keeps `fleet`, the waker's view of the machines, and `gates` up to date. Without `gates` no tier is
    closed. Without `quota` this gateway is the only one.
    """

    def __init__(
        self,
        config: Config,
        fleet: Mapping[str, MachineRecord],
        gates: GateView | None = None,
        quota: MachineQuota | None = None,
    ) -> None:
        self._quota = quota
        self._fleet = fleet
        self._machines: dict[str, _Machine] = {}
        self.update(config, gates)
        self._waiting: OrderedDict[str, Queue] = OrderedDict()
        """By model; only models with waiting requests. The next model comes first."""
        self.breaker = Breaker()
        self.total_waiting = 0

    def update(self, config: Config, gates: GateView | None) -> None:
        """Follow a new configuration. Requests stay where they are, on removed machines too."""
        self._config = config
        self._gates = gates
        used = {machine.id: machine for machine in self._machines.values() if machine.in_flight}
        self._machines = used | {m.id: self._machines.get(m.id) or _Machine(m.id, 0) for m in config.machine}
        for m in config.machine:
            self._machines[m.id].room = config.tiers[m.tier].max_concurrency
        self._tiers = {
            model.name: [
                (tier, [self._machines[m.id] for m in config.machine if m.tier == tier]) for tier in model.lineup
            ]
            for model in config.model
        }

    @property
    def total_in_flight(self) -> int:
        return sum(machine.in_flight for machine in self._machines.values())

    def in_flight(self, machine: str) -> int:
        return self._machines[machine].in_flight

    @property
    def oldest_arrival(self) -> float | None:
        """When the oldest waiting request arrived; None if none waits."""
        firsts = (next(iter(tickets)) for queue in self._waiting.values() for tickets in queue.keys.values())
        return min((ticket.arrived for ticket in firsts), default=None)

    def waiting(self, model: str) -> Queue:
        """Return the requests that wait for the model; empty if there are none."""
        return self._waiting.get(model, Queue())

    def waiting_models(self) -> list[str]:
        """Return the models that have waiting requests."""
        return list(self._waiting)

    def has_waiting(self, model: str) -> bool:
        return model in self._waiting

    def has_demand(self, model: str) -> bool:
        """Return whether a waiting request of the model may wake a machine."""
        return self.waiting(model).demanding > 0

    def is_awake(self, model: str) -> bool:
        """Return whether any of the model's machines is ready, even if it is full."""
        return any(self._ready(machine) for _, machines in self._tiers.get(model, ()) for machine in machines)

    def is_servable(self, model: Model) -> bool:
        """Return whether any machine could serve the model: its lineup has one that is not gone."""
        records = (self._fleet.get(machine.id) for machine in self._config.machines_of(model))
        return any(record is None or record.state != "gone" for record in records)

    def try_acquire(self, model: str, key_id: str, now: float) -> MachineRecord | None:
        """Take a place for a new request, unless others already wait for the model; None: there is none."""
        return None if model in self._waiting else self.acquire(model, key_id, now)

    def acquire(self, model: str, key_id: str, now: float, *, exclude: str | None = None) -> MachineRecord | None:
        """Take a place on the least busy ready machine with room, in the first open tier that has one; None: there is
        none.

        A machine that the breaker has paused is used only if there is no other. `exclude` names a machine never to use.
        """
        spared: list[_Machine] = []
        for tier, machines in self._tiers.get(model, ()):
            if self._gates is not None and self._gates.tier_closed_reason(tier, now) is not None:
                continue
            free = [m for m in machines if m.id != exclude and self._has_room(m, now) and self._ready(m)]
            closed = (
                [m for m in free if self.breaker.is_closed(m.id, key_id, now)] if self.breaker.has_failures else free
            )
            if closed:
                return self._occupy(min(closed, key=lambda m: m.in_flight), key_id, now)
            spared += free
        return self._occupy(spared[0], key_id, now) if spared and exclude is None else None

    def _ready(self, machine: _Machine) -> bool:
        record = self._fleet.get(machine.id)
        return record is not None and record.state == "ready" and record.endpoint is not None

    def _has_room(self, machine: _Machine, now: float) -> bool:
        if machine.in_flight >= machine.room:
            return False
        if self._quota is None or machine.in_flight < self._quota.room(machine.id, machine.room, now):
            return True
        machine.unmet_at = now
        self._quota.notify()
        return False

    def is_unsettled(self, model: str) -> bool:
        """Return whether a request that got no place may get one at once: the gateways share out what is free."""
        if self._quota is None or model in self._waiting:
            return False
        tiers = self._tiers.get(model, ())
        return any(m.in_flight < m.room and self._ready(m) for _, machines in tiers for m in machines)

    def is_leased_elsewhere(self, model: str, now: float, *, exclude: str) -> bool:
        """Return whether a machine but `exclude` lacks nothing but a lease on a place that other gateways may leave."""
        return self._quota is not None and any(
            m.id != exclude and m.in_flight < m.room and self._ready(m) and not self._has_room(m, now)
            for tier, machines in self._tiers.get(model, ())
            if self._gates is None or self._gates.tier_closed_reason(tier, now) is None
            for m in machines
        )

    def machine_usage(self, now: float) -> dict[str, KeyQuota]:
        """Return what the other gateways are told of the machines in use or short of room."""
        waiting: Counter[str] = Counter()
        for model, queue in self._waiting.items():
            for machine in {m.id for _, machines in self._tiers.get(model, ()) for m in machines if self._ready(m)}:
                waiting[machine] += sum(map(len, queue.keys.values()))
        usage: dict[str, KeyQuota] = {}
        for m in self._machines.values():
            is_retried = 0 <= now - m.unmet_at < UNMET_SECONDS
            unmet = max(0, min(m.room - m.in_flight, max(waiting[m.id], int(is_retried))))
            if m.in_flight or unmet:
                usage[quota_key(m.id)] = quota_of(m.in_flight, m.room, unmet)
        return usage

    def _occupy(self, machine: _Machine, key_id: str, now: float) -> MachineRecord:
        machine.in_flight += 1
        self.breaker.on_attempt(machine.id, key_id, now)
        return self._fleet[machine.id]

    def release(self, machine: str, now: float) -> bool:
        """Free a place on the machine; return whether it was the last one in use."""
        left = self._machines[machine]
        assert left.in_flight > 0, f"{machine}: released a place that was not taken"
        left.in_flight -= 1
        left.last_used_at = now
        if self._quota is not None:
            self._quota.on_release(machine)
        return left.in_flight == 0

    def enqueue(self, ticket: Ticket) -> None:
        """Queue the ticket.

        Raises:
            TooManyWaiting: the queue is full, in total or for the key.
        """
        limits = self._config.gateway
        if self.total_waiting >= limits.max_waiting:
            raise TooManyWaiting("waiting")
        of_key = sum(len(queue.keys.get(ticket.key_id, ())) for queue in self._waiting.values())
        if of_key >= limits.max_waiting_per_key:
            raise TooManyWaiting("waiting_per_key")
        self._waiting.setdefault(ticket.model, Queue()).add(ticket)
        self.total_waiting += 1

    def remove(self, ticket: Ticket) -> None:
        """Take the ticket out of the queue, if it is still there."""
        queue = self._waiting.get(ticket.model)
        if queue is not None and queue.discard(ticket):
            self.total_waiting -= 1
            if not queue.keys:
                del self._waiting[ticket.model]

    def evict(self, model: str, most: int) -> list[Ticket]:
        """Take up to `most` tickets of the model out of the queue and return them. The caller refuses them."""
        evicted = list(islice(self.waiting(model), most))
        for ticket in evicted:
            self.remove(ticket)
        return evicted

    def dispatch(self, now: float, most: int) -> bool:
        """Grant places to waiting requests while there is room; return whether `most` grants ended it.

        Models take turns, and keys do within a model.
        """
        granted = without_room = 0
        while without_room < len(self._waiting):
            if granted == most:
                return True
            model, queue = next(iter(self._waiting.items()))
            self._waiting.move_to_end(model)
            ticket = next(iter(queue))
            record = self.acquire(model, ticket.key_id, now)
            if record is None:
                without_room += 1
                continue
            granted, without_room = granted + 1, 0
            queue.end_turn()
            self.remove(ticket)
            ticket.on_grant(record)
        return False

    def activity(self, revision: Callable[[str], int], now: float) -> dict[str, MachineActivity]:
        """Return what the waker is told of each machine in the fleet; `revision` returns that of a machine's record."""
        reports: dict[str, MachineActivity] = {}
        for machine, use in self._machines.items():
            record = self._fleet.get(machine)
            if record is None and not use.in_flight:
                continue
            is_drained = record is not None and record.state == "draining" and use.in_flight == 0
            reports[machine] = MachineActivity(
                in_flight=use.in_flight,
                last_used_at=use.last_used_at,
                idle_s=None if use.last_used_at is None else max(0.0, now - use.last_used_at),
                acknowledged=revision(machine) if is_drained else None,
            )
        return reports
