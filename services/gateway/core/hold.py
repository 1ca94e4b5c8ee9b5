"""Who waits for which model, who is in flight on which machine, and who goes next. The books of the front door.

Plain calls that change the books and return at once; nothing here waits. A grant is told through the ticket's
callback, so that the shell decides what waiting means.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count

from shared.config import Config, Model
from shared.messages.gateway import MachineActivity
from shared.messages.waker import MachineRecord


class TooManyWaiting(Exception):
    """The bound on waiting requests, in total or of one key, is reached."""


@dataclass(eq=False)
class Ticket:
    """One waiting request."""

    model: str
    key_id: str
    request_id: str
    deadline: float
    on_grant: Callable[[MachineRecord], None]
    number: int = 0


@dataclass
class _Use:
    in_flight: int = 0
    last_used_at: float | None = None


@dataclass
class Hold:
    """The books. `fleet` is the waker's view of the machines, kept by the shell and read here."""

    config: Config
    fleet: Mapping[str, MachineRecord]
    _uses: dict[str, _Use] = field(default_factory=dict)
    _waiting: dict[str, "OrderedDict[int, Ticket]"] = field(default_factory=dict)
    _per_key: Counter[str] = field(default_factory=Counter)
    _numbers: "count[int]" = field(default_factory=count)

    @property
    def total_waiting(self) -> int:
        return sum(len(queue) for queue in self._waiting.values())

    @property
    def total_in_flight(self) -> int:
        return sum(use.in_flight for use in self._uses.values())

    def in_flight(self, machine: str) -> int:
        return self._uses[machine].in_flight if machine in self._uses else 0

    def waiting(self, model: str) -> list[Ticket]:
        """In the order of their arrival."""
        return list(self._waiting.get(model, {}).values())

    def servable(self, model: Model) -> bool:
        """Whether any machine could ever serve it: its lineup has one that is not gone."""
        machines = self.config.machines_of(model)
        return any(m.id not in self.fleet or self.fleet[m.id].state != "gone" for m in machines)

    def take(self, model: Model, *, besides: str | None = None) -> MachineRecord | None:
        """Book a place on the ready machine with room that is least busy, first tier first; None: nowhere."""
        for tier in model.lineup:
            room = self.config.tiers[tier].max_concurrency
            ready = [
                record
                for machine in self.config.machine
                if machine.tier == tier
                and machine.id != besides
                and (record := self.fleet.get(machine.id)) is not None
                and record.state == "ready"
                and record.endpoint is not None
                and self.in_flight(machine.id) < room
            ]
            if ready:
                chosen = min(ready, key=lambda record: self.in_flight(record.machine))
                self._uses.setdefault(chosen.machine, _Use()).in_flight += 1
                return chosen
        return None

    def give_back(self, machine: str, now: float) -> None:
        """A request has left the machine."""
        use = self._uses[machine]
        assert use.in_flight > 0, f"{machine} gave back a place that nobody took"
        use.in_flight -= 1
        use.last_used_at = now

    def enqueue(self, ticket: Ticket) -> None:
        """Wait, or `TooManyWaiting`."""
        limits = self.config.gateway
        if self.total_waiting >= limits.max_waiting or self._per_key[ticket.key_id] >= limits.max_waiting_per_key:
            raise TooManyWaiting
        ticket.number = next(self._numbers)
        self._waiting.setdefault(ticket.model, OrderedDict())[ticket.number] = ticket
        self._per_key[ticket.key_id] += 1

    def leave(self, ticket: Ticket) -> None:
        """Wait no more; a ticket that waits no more already is fine."""
        queue = self._waiting.get(ticket.model)
        if queue is not None and queue.pop(ticket.number, None) is not None:
            self._per_key[ticket.key_id] -= 1
            if not self._per_key[ticket.key_id]:
                del self._per_key[ticket.key_id]

    def release(self) -> None:
        """Grant places to those who wait, first come first served per model, as long as there is room."""
        for name, queue in self._waiting.items():
            model = self.config.models[name]
            while queue and (record := self.take(model)) is not None:
                ticket = next(iter(queue.values()))
                self.leave(ticket)
                ticket.on_grant(record)

    def activity(self, revision: Callable[[str], int]) -> dict[str, MachineActivity]:
        """What to tell the waker of every machine in the fleet; `revision` is that of a machine's record."""
        told: dict[str, MachineActivity] = {}
        for machine, record in self.fleet.items():
            use = self._uses.get(machine, _Use())
            idle_drain = record.state == "draining" and use.in_flight == 0
            told[machine] = MachineActivity(
                in_flight=use.in_flight,
                last_used_at=use.last_used_at,
                acknowledged=revision(machine) if idle_drain else None,
            )
        return told
