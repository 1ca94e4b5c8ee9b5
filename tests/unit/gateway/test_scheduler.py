"""The books of the front door: who waits, who is in flight, who is next."""

from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.gateway.core.breaker import FAILURES, PAUSE_SECONDS
from services.gateway.core.errors import ApiError
from services.gateway.core.scheduler import RequestScheduler, TooManyWaiting
from services.gateway.core.waiting_queue import Ticket
from shared.config.load import parse
from shared.messages.waker import MachineRecord, MachineState

ONE_MODEL = """
    [gateway]
    max_waiting = 6
    max_waiting_per_key = 4
    [[tier]]
    name = "spot"
    provider = "static"
    max_concurrency = 2
    [[tier]]
    name = "dear"
    provider = "static"
    max_concurrency = 1
    [[machine]]
    id = "s1"
    tier = "spot"
    endpoint = "http://127.0.0.1:1"
    [[machine]]
    id = "s2"
    tier = "spot"
    endpoint = "http://127.0.0.1:2"
    [[machine]]
    id = "d1"
    tier = "dear"
    endpoint = "http://127.0.0.1:3"
    [[model]]
    name = "m"
    lineup = ["spot", "dear"]
    """
CONFIG = parse(ONE_MODEL, "test")
TWO_LINEUPS = parse(ONE_MODEL + '[[model]]\nname = "n"\nlineup = ["dear"]\n', "test")
MODEL = CONFIG.models["m"]


def unheard(_error: ApiError) -> None:
    """Nobody is sent away here."""


TWO_MODELS = """
    [[tier]]
    name = "spot"
    provider = "static"
    max_concurrency = 9
    [[machine]]
    id = "s1"
    tier = "spot"
    endpoint = "http://127.0.0.1:1"
    [[model]]
    name = "m"
    lineup = ["spot"]
    [[model]]
    name = "n"
    lineup = ["spot"]
    """
ROOM = {"s1": 2, "s2": 2, "d1": 1}
MACHINES = st.sets(st.sampled_from(sorted(ROOM)))
TIERS = {"s1": "spot", "s2": "spot", "d1": "dear"}


def record(machine: str, state: MachineState) -> MachineRecord:
    return MachineRecord(
        machine=machine,
        tier=TIERS[machine],
        state=state,
        provider_state="",
        endpoint="http://127.0.0.1:1",
        generation=1,
        since=0.0,
        reason="",
    )


def ticket(granted: list[str], key: str = "k", model: str = "m") -> Ticket:
    return Ticket(model, key, "r", 1.0, lambda machine: granted.append(machine.machine), unheard)


def note(order: list[str], name: str, _machine: MachineRecord) -> None:
    order.append(name)


def fails(scheduler: RequestScheduler, machine: str, *, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        scheduler.breaker.on_unreachable(machine, now)


def test_the_least_busy_of_the_first_tier_goes_first() -> None:
    scheduler = RequestScheduler(CONFIG, {m: record(m, "ready") for m in ROOM})
    taken = [scheduler.acquire("m", "k", 0.0) for _ in range(6)]
    assert [t.machine if t else None for t in taken] == ["s1", "s2", "s1", "s2", "d1", None]


@pytest.mark.parametrize("state", ["asleep", "waking", "draining", "falling_asleep", "broken", "gone"])
def test_only_a_ready_machine_is_taken(state: MachineState) -> None:
    scheduler = RequestScheduler(CONFIG, {"s1": record("s1", state)})
    assert scheduler.acquire("m", "k", 0.0) is None


def test_waiting_is_bounded_per_key_and_in_total() -> None:
    scheduler = RequestScheduler(CONFIG, {})
    for _ in range(4):
        scheduler.enqueue(ticket([], "a"))
    with pytest.raises(TooManyWaiting):
        scheduler.enqueue(ticket([], "a"))
    for _ in range(2):
        scheduler.enqueue(ticket([], "b"))
    with pytest.raises(TooManyWaiting):
        scheduler.enqueue(ticket([], "c"))


def test_a_machine_that_drains_is_acknowledged_when_nothing_is_in_flight() -> None:
    fleet = {"s1": record("s1", "ready")}
    scheduler = RequestScheduler(CONFIG, fleet)
    assert scheduler.acquire("m", "k", 0.0) is not None
    fleet["s1"] = record("s1", "draining")
    assert scheduler.activity(lambda _m: 7, 5.0)["s1"].acknowledged is None
    scheduler.release("s1", 5.0)
    reported = scheduler.activity(lambda _m: 7, 8.0)["s1"]
    assert (reported.in_flight, reported.last_used_at, reported.idle_s, reported.acknowledged) == (0, 5.0, 3.0, 7)


def test_a_model_whose_machines_are_all_gone_cannot_be_served() -> None:
    assert RequestScheduler(CONFIG, {}).is_servable(MODEL)
    assert not RequestScheduler(CONFIG, {m: record(m, "gone") for m in ROOM}).is_servable(MODEL)


def test_a_machine_that_fails_again_and_again_is_left_alone_and_tried_again() -> None:
    scheduler = RequestScheduler(CONFIG, {m: record(m, "ready") for m in ROOM})
    fails(scheduler, "s1", times=FAILURES)
    taken = [scheduler.acquire("m", "k", 0.0) for _ in range(3)]
    assert [t.machine if t else None for t in taken] == ["s2", "s2", "d1"]
    trial = scheduler.acquire("m", "k", PAUSE_SECONDS)
    assert trial is not None
    assert trial.machine == "s1"
    scheduler.breaker.reset("s1")
    again = scheduler.acquire("m", "k", PAUSE_SECONDS)
    assert again is not None
    assert again.machine == "s1"


def test_a_machine_left_alone_is_taken_where_there_is_no_other() -> None:
    scheduler = RequestScheduler(CONFIG, {"s1": record("s1", "ready")})
    fails(scheduler, "s1", times=FAILURES)
    assert scheduler.acquire("m", "k", 0.0) is not None
    assert scheduler.acquire("m", "k", 0.0, exclude="s2") is None, "nobody moves to a machine that fails as well"


def test_keys_take_turns_and_keep_their_requests_in_order() -> None:
    fleet: dict[str, MachineRecord] = {}
    scheduler = RequestScheduler(CONFIG, fleet)
    order: list[str] = []
    for number, key in enumerate("aaab"):
        scheduler.enqueue(Ticket("m", key, "r", 1.0, partial(note, order, f"{key}{number}"), unheard))
    fleet["s1"] = record("s1", "ready")
    fleet["s2"] = record("s2", "ready")
    assert not scheduler.dispatch(0.0, 64)
    assert order == ["a0", "b3", "a1", "a2"]


def test_models_take_turns_for_a_machine_that_serves_both() -> None:
    config = parse(TWO_MODELS, "test")
    fleet: dict[str, MachineRecord] = {}
    scheduler = RequestScheduler(config, fleet)
    order: list[str] = []
    for model in ("m", "m", "m", "n"):
        scheduler.enqueue(Ticket(model, "k", "r", 1.0, partial(note, order, model), unheard))
    fleet["s1"] = record("s1", "ready")
    scheduler.dispatch(0.0, 64)
    assert order == ["m", "n", "m", "m"]


def test_a_slice_of_grants_leaves_the_rest_for_the_next_turn() -> None:
    fleet: dict[str, MachineRecord] = {}
    scheduler = RequestScheduler(parse(TWO_MODELS, "test"), fleet)
    granted: list[str] = []
    for _ in range(5):
        scheduler.enqueue(ticket(granted))
    fleet["s1"] = record("s1", "ready")
    assert scheduler.dispatch(0.0, 2)
    assert len(granted) == 2
    assert not scheduler.dispatch(0.0, 64)
    assert len(granted) == 5


class AnyOrder(RuleBasedStateMachine):
    """Arrivals, departures, grants, ends and fleet changes in any order, against a plain model of who is where."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet: dict[str, MachineRecord] = {}
        self.scheduler = RequestScheduler(TWO_LINEUPS, self.fleet)
        self.waiting: list[Ticket] = []
        self.granted: list[tuple[Ticket | None, str]] = []
        """Places that are taken, each with the ticket that waited for it, if one did."""
        self.departing: Ticket | None = None
        """Its client turns out to be gone at the moment of its grant: the place is released from within the grant."""

    @rule(machines=MACHINES, state=st.sampled_from(["draining", "asleep"]))
    def change_machines(self, machines: set[str], state: MachineState) -> None:
        self.fleet.update({machine: record(machine, state) for machine in machines})

    @rule(model=st.sampled_from("mn"), keys=st.text("ab", min_size=1, max_size=4), may_wake=st.booleans())
    def arrive(self, model: str, keys: str, *, may_wake: bool) -> None:
        for key in keys:
            self.arrive_one(model, key, may_wake=may_wake)

    def arrive_one(self, model: str, key: str, *, may_wake: bool) -> None:
        machine = self.scheduler.try_acquire(model, key, 0.0)
        if machine is not None:
            assert not self.of(model), "a newcomer may not pass those who wait"
            self.book(None, model, machine)
            return
        new = Ticket(model, key, "r", 1.0, lambda machine: self.on_grant(new, machine), unheard, may_wake=may_wake)
        limits, of_key = TWO_LINEUPS.gateway, [ticket for ticket in self.waiting if ticket.key_id == key]
        if len(self.waiting) == limits.max_waiting or len(of_key) == limits.max_waiting_per_key:
            with pytest.raises(TooManyWaiting) as refused:
                self.scheduler.enqueue(new)
            assert refused.value.limit == ("waiting" if len(self.waiting) == limits.max_waiting else "waiting_per_key")
        else:
            self.scheduler.enqueue(new)
            self.waiting.append(new)

    @rule(model=st.sampled_from("mn"), machine=st.sampled_from(sorted(ROOM)))
    def acquire_elsewhere(self, model: str, machine: str) -> None:
        another = self.scheduler.acquire(model, "a", 0.0, exclude=machine)
        if another is not None:
            assert another.machine != machine
            self.book(None, model, another)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), woken=MACHINES, most=st.integers(1, 3), is_gone=st.booleans())
    def dispatch(self, data: st.DataObject, woken: set[str], most: int, *, is_gone: bool) -> None:
        self.change_machines(woken, "ready")
        self.departing = data.draw(st.sampled_from(self.waiting)) if is_gone else None
        before = len(self.waiting)
        is_bounded = self.scheduler.dispatch(0.0, most)
        granted = before - len(self.waiting)
        assert granted <= most or self.departing is not None, "a released place is granted again at once"
        if is_bounded:
            assert granted >= most
        else:
            self.check_nobody_waits_for_what_is_free()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(ticket)
        self.scheduler.remove(ticket)
        self.scheduler.remove(ticket)

    @precondition(lambda self: self.waiting)
    @rule(model=st.sampled_from("mn"), most=st.integers(0, 3))
    def evict(self, model: str, most: int) -> None:
        evicted, waited = self.scheduler.evict(model, most), len(self.of(model))
        assert len(evicted) == min(most, waited)
        for ticket in evicted:
            assert ticket.model == model
            self.waiting.remove(ticket)

    @precondition(lambda self: self.granted)
    @rule(machines=MACHINES)
    def end(self, machines: set[str]) -> None:
        """A request that is cancelled while its grant is on its way leaves the queue as well: that changes nothing."""
        for ticket, machine in [place for place in self.granted if place[1] in machines]:
            if ticket is not None:
                self.scheduler.remove(ticket)
            self.release(ticket, machine)

    def on_grant(self, ticket: Ticket, machine: MachineRecord) -> None:
        first = next(waiter for waiter in self.of(ticket.model) if waiter.key_id == ticket.key_id)
        assert first is ticket, "the first of a key goes first"
        self.waiting.remove(ticket)
        self.book(ticket, ticket.model, machine)
        if ticket is self.departing:
            self.release(ticket, machine.machine)
            self.scheduler.dispatch(0.0, 64)

    def book(self, ticket: Ticket | None, model: str, machine: MachineRecord) -> None:
        assert self.fleet[machine.machine].state == "ready"
        assert machine.tier in TWO_LINEUPS.models[model].lineup
        self.granted.append((ticket, machine.machine))

    def release(self, ticket: Ticket | None, machine: str) -> None:
        self.granted.remove((ticket, machine))
        last = self.scheduler.release(machine, 1.0)
        assert last == (machine not in [place for _, place in self.granted])

    def of(self, model: str) -> list[Ticket]:
        return [ticket for ticket in self.waiting if ticket.model == model]

    def check_nobody_waits_for_what_is_free(self) -> None:
        free = [m for m, one in self.fleet.items() if one.state == "ready" and self.scheduler.in_flight(m) < ROOM[m]]
        for model in "mn":
            assert not (self.of(model) and {TIERS[m] for m in free}.intersection(TWO_LINEUPS.models[model].lineup))

    @invariant()
    def every_place_and_every_ticket_is_there_once(self) -> None:
        places = [machine for _, machine in self.granted]
        for machine, room in ROOM.items():
            assert self.scheduler.in_flight(machine) == places.count(machine) <= room
        assert self.scheduler.total_in_flight == len(self.granted)
        assert self.scheduler.total_waiting == len(self.waiting)
        assert set(self.scheduler.waiting_models()) == {ticket.model for ticket in self.waiting}
        for model in "mn":
            queue, waiting = self.scheduler.waiting(model), self.of(model)
            assert len(list(queue)) == len(waiting)
            assert set(queue) == set(waiting)
            assert self.scheduler.has_waiting(model) == bool(waiting)
            assert self.scheduler.has_demand(model) == any(ticket.may_wake for ticket in waiting)


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase


def test_the_oldest_arrival_is_that_of_any_key_and_model() -> None:
    scheduler = RequestScheduler(TWO_LINEUPS, {})
    assert scheduler.oldest_arrival is None
    granted: list[str] = []
    for arrived, model, key in ((3.0, "m", "a"), (1.0, "n", "a"), (2.0, "m", "b"), (4.0, "n", "a")):
        waiting = ticket(granted, model=model, key=key)
        waiting.arrived = arrived
        scheduler.enqueue(waiting)
    assert scheduler.oldest_arrival == 1.0
    scheduler.remove(next(iter(scheduler.waiting("n"))))
    assert scheduler.oldest_arrival == 2.0


def test_an_update_leaves_requests_where_they_are() -> None:
    fleet = {"s1": record("s1", "ready")}
    scheduler = RequestScheduler(CONFIG, fleet)
    assert scheduler.acquire("m", "k", 0.0) is not None
    tiers = ONE_MODEL.split("[[machine]]", maxsplit=1)[0]
    without = parse(f'{tiers}[[model]]\nname = "n"\nlineup = ["dear"]\n', "test")
    scheduler.update(without, None)
    fleet.clear()
    assert scheduler.acquire("m", "k", 0.0) is None, "a removed model has no machines"
    activity = scheduler.activity(lambda _machine: 1, 0.0)
    assert {name: report.in_flight for name, report in activity.items()} == {"s1": 1}, "the waker must not stop it"
    assert scheduler.release("s1", 1.0)
    assert scheduler.activity(lambda _machine: 1, 2.0) == {}
    scheduler.update(CONFIG, None)
    fleet["s1"] = record("s1", "ready")
    assert [scheduler.acquire("m", "k", 3.0) is not None for _ in range(3)] == [True, True, False]
