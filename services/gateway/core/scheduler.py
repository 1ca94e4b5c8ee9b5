"""Who waits for which model, who is in flight on which machine, and who goes next. The books of the front door.

Plain calls that change the books and return at once; nothing here waits. A grant is told through the ticket's
callback, so that the shell decides what waiting means.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from services.gateway.core.breaker import Breaker
from services.gateway.core.errors import ApiError
from shared.budget import GateView
from shared.config import Config, Model
from shared.messages.gateway import MachineActivity, WakeCause
from shared.messages.waker import MachineRecord


class TooManyWaiting(Exception):
    """The bound on waiting requests, in total or of one key, is reached."""

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit
        """`waiting` or `waiting_per_key`."""


@dataclass(eq=False, slots=True)
class Ticket:
    """One waiting request."""

    model: str
    key_id: str
    request_id: str
    deadline: float
    on_grant: Callable[[MachineRecord], None]
    on_refuse: Callable[[ApiError], None]
    """It waits no more, for nothing will come."""
    cause: WakeCause | None = None
    """Its key and what that may cause of wakes."""
    may_wake: bool = True
    """Whether it is demand. False: it only waits for room on a machine that is awake."""


@dataclass(eq=False, slots=True)
class _Use:
    in_flight: int = 0
    last_used_at: float | None = None


@dataclass
class Queue:
    """The waiters of one model: keys take turns, and within a key the first to come goes first."""

    _keys: "OrderedDict[str, OrderedDict[Ticket, None]]" = field(default_factory=OrderedDict)
    """The key whose turn it is comes first."""
    _size: int = 0
    demanding: int = 0
    """How many of them are demand."""

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Ticket]:
        """Key by key, in the order of their turns."""
        for tickets in self._keys.values():
            yield from tickets

    def of_key(self, key_id: str) -> int:
        return len(self._keys.get(key_id, ()))

    def add(self, ticket: Ticket) -> None:
        self._keys.setdefault(ticket.key_id, OrderedDict())[ticket] = None
        self._size += 1
        self.demanding += ticket.may_wake

    def discard(self, ticket: Ticket) -> bool:
        """Whether it was there."""
        tickets = self._keys.get(ticket.key_id)
        if tickets is None or ticket not in tickets:
            return False
        del tickets[ticket]
        if not tickets:
            del self._keys[ticket.key_id]
        self._size -= 1
        self.demanding -= ticket.may_wake
        return True

    @property
    def next_key(self) -> str:
        """Whose turn it is."""
        return next(iter(self._keys))

    def pop(self) -> Ticket:
        """Whose turn it is; the next turn is another key's."""
        key_id, tickets = next(iter(self._keys.items()))
        ticket, _ = tickets.popitem(last=False)
        if tickets:
            self._keys.move_to_end(key_id)
        else:
            del self._keys[key_id]
        self._size -= 1
        self.demanding -= ticket.may_wake
        return ticket


class RequestScheduler:
    """The books. `fleet` is the waker's view of the machines, kept by the shell and read here, and so are `gates`.

    `gates` None: no tier is ever closed.
    """

    def __init__(self, config: Config, fleet: Mapping[str, MachineRecord], gates: GateView | None = None) -> None:
        self._config = config
        self._fleet = fleet
        self._gates = gates
        self._room = {m.id: config.tiers[m.tier].max_concurrency for m in config.machine}
        self._tiers = {
            model.name: [(tier, tuple(m.id for m in config.machine if m.tier == tier)) for tier in model.lineup]
            for model in config.model
        }
        self._uses: dict[str, _Use] = {}
        self._waiting: OrderedDict[str, Queue] = OrderedDict()
        """Models that somebody waits for; whose turn it is comes first."""
        self._per_key: Counter[str] = Counter()
        self.breaker = Breaker()
        self.total_waiting = 0
        self.total_in_flight = 0

    def in_flight(self, machine: str) -> int:
        return self._uses[machine].in_flight if machine in self._uses else 0

    def waiting(self, model: str) -> Queue:
        """Whoever waits for the model; empty when nobody does."""
        return self._waiting.get(model) or Queue()

    def waiting_models(self) -> list[str]:
        """Models that somebody waits for."""
        return list(self._waiting)

    def has_waiting(self, model: str) -> bool:
        return model in self._waiting

    def has_demand(self, model: str) -> bool:
        """Whether somebody waits for the model who is demand."""
        queue = self._waiting.get(model)
        return queue is not None and queue.demanding > 0

    def is_awake(self, model: str) -> bool:
        """Whether any of the model's machines is ready, be it full."""
        return any(
            record is not None and record.state == "ready" and record.endpoint is not None
            for _, machines in self._tiers[model]
            for record in map(self._fleet.get, machines)
        )

    def is_servable(self, model: Model) -> bool:
        """Whether any machine could ever serve it: its lineup has one that is not gone."""
        machines = self._config.machines_of(model)
        return any(m.id not in self._fleet or self._fleet[m.id].state != "gone" for m in machines)

    def try_acquire(self, model: str, key_id: str, now: float) -> MachineRecord | None:
        """A place for a newcomer, who may not pass those who wait."""
        return None if model in self._waiting else self.acquire(model, key_id, now)

    def acquire(self, model: str, key_id: str, now: float, *, besides: str | None = None) -> MachineRecord | None:
        """Book a place on the ready machine with room that is least busy, first open tier first; None: nowhere.

        A machine that the breaker leaves alone is taken only where there is no other.
        """
        spared: MachineRecord | None = None
        for tier, machines in self._tiers[model]:
            if self._gates is not None and self._gates.tier(tier, now):
                continue
            chosen, least = None, 0
            for machine in machines:
                record = self._fleet.get(machine)
                if record is None or record.state != "ready" or record.endpoint is None or machine == besides:
                    continue
                busy = self.in_flight(machine)
                if busy >= self._room[machine]:
                    continue
                if self.breaker.busy and not self.breaker.closed(machine, key_id, now):
                    spared = spared or record
                elif chosen is None or busy < least:
                    chosen, least = record, busy
            if chosen is not None:
                return self._book(chosen, key_id, now)
        return None if spared is None or besides is not None else self._book(spared, key_id, now)

    def _book(self, record: MachineRecord, key_id: str, now: float) -> MachineRecord:
        use = self._uses.get(record.machine)
        if use is None:
            use = self._uses[record.machine] = _Use()
        use.in_flight += 1
        self.total_in_flight += 1
        if self.breaker.busy:
            self.breaker.on_try(record.machine, key_id, now)
        return record

    def release(self, machine: str, now: float) -> bool:
        """A request has left the machine. Whether it was the last one there."""
        use = self._uses[machine]
        assert use.in_flight > 0, f"{machine} gave back a place that nobody took"
        use.in_flight -= 1
        self.total_in_flight -= 1
        use.last_used_at = now
        return use.in_flight == 0

    def enqueue(self, ticket: Ticket) -> None:
        """Wait, or `TooManyWaiting`."""
        limits = self._config.gateway
        if self.total_waiting >= limits.max_waiting:
            raise TooManyWaiting("waiting")
        if self._per_key.get(ticket.key_id, 0) >= limits.max_waiting_per_key:
            raise TooManyWaiting("waiting_per_key")
        self._waiting.setdefault(ticket.model, Queue()).add(ticket)
        self._per_key[ticket.key_id] += 1
        self.total_waiting += 1

    def leave(self, ticket: Ticket) -> None:
        """Wait no more; a ticket that waits no more already is fine."""
        queue = self._waiting.get(ticket.model)
        if queue is not None and queue.discard(ticket):
            self._left(ticket, queue)

    def evict(self, model: str, most: int) -> list[Ticket]:
        """Up to `most` of those who wait for the model: they wait no more. The caller tells them why."""
        found: list[Ticket] = []
        while len(found) < most and (queue := self._waiting.get(model)):
            found.append(queue.pop())
            self._left(found[-1], queue)
        return found

    def dispatch(self, now: float, most: int) -> bool:
        """Grant places to those who wait, as long as there is room, `most` of them. Whether that bound ended it.

        Models take turns, and within a model keys do.
        """
        granted = without_room = 0
        while without_room < len(self._waiting):
            if granted == most:
                return True
            model = next(iter(self._waiting))
            self._waiting.move_to_end(model)
            queue = self._waiting[model]
            record = self.acquire(model, queue.next_key, now)
            if record is None:
                without_room += 1
                continue
            granted, without_room = granted + 1, 0
            ticket = queue.pop()
            self._left(ticket, queue)
            ticket.on_grant(record)
        return False

    def _left(self, ticket: Ticket, queue: Queue) -> None:
        if not queue:
            del self._waiting[ticket.model]
        self.total_waiting -= 1
        self._per_key[ticket.key_id] -= 1
        if not self._per_key[ticket.key_id]:
            del self._per_key[ticket.key_id]

    def activity(self, revision: Callable[[str], int], now: float) -> dict[str, MachineActivity]:
        """What to tell the waker of every machine in the fleet; `revision` is that of a machine's record."""
        told: dict[str, MachineActivity] = {}
        for machine, record in self._fleet.items():
            use = self._uses.get(machine, _Use())
            idle_drain = record.state == "draining" and use.in_flight == 0
            told[machine] = MachineActivity(
                in_flight=use.in_flight,
                last_used_at=use.last_used_at,
                idle_s=None if use.last_used_at is None else max(0.0, now - use.last_used_at),
                acknowledged=revision(machine) if idle_drain else None,
            )
        return told
