"""The books of the front door: who waits, who is in flight, who is next."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.gateway.core.breaker import FAILURES, PAUSE_SECONDS
from services.gateway.core.errors import ApiError
from services.gateway.core.hold import Hold, Ticket, TooManyWaiting
from shared.config import parse
from shared.messages.waker import MachineRecord, MachineState

CONFIG = parse(
    """
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
    """,
    "test",
)
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


def fails(hold: Hold, machine: str, *, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        hold.breaker.on_unreachable(machine, now)


def test_the_least_busy_of_the_first_tier_goes_first() -> None:
    hold = Hold(CONFIG, {m: record(m, "ready") for m in ROOM})
    taken = [hold.take("m", "k", 0.0) for _ in range(6)]
    assert [t.machine if t else None for t in taken] == ["s1", "s2", "s1", "s2", "d1", None]


@pytest.mark.parametrize("state", ["asleep", "waking", "draining", "falling_asleep", "broken", "gone"])
def test_only_a_ready_machine_is_taken(state: MachineState) -> None:
    hold = Hold(CONFIG, {"s1": record("s1", state)})
    assert hold.take("m", "k", 0.0) is None


def test_waiting_is_bounded_per_key_and_in_total() -> None:
    hold = Hold(CONFIG, {})
    for _ in range(4):
        hold.enqueue(ticket([], "a"))
    with pytest.raises(TooManyWaiting):
        hold.enqueue(ticket([], "a"))
    for _ in range(2):
        hold.enqueue(ticket([], "b"))
    with pytest.raises(TooManyWaiting):
        hold.enqueue(ticket([], "c"))


def test_a_machine_that_drains_is_acknowledged_when_nothing_is_in_flight() -> None:
    fleet = {"s1": record("s1", "ready")}
    hold = Hold(CONFIG, fleet)
    assert hold.take("m", "k", 0.0) is not None
    fleet["s1"] = record("s1", "draining")
    assert hold.activity(lambda _m: 7, 5.0)["s1"].acknowledged is None
    hold.give_back("s1", 5.0)
    told = hold.activity(lambda _m: 7, 8.0)["s1"]
    assert (told.in_flight, told.last_used_at, told.idle_s, told.acknowledged) == (0, 5.0, 3.0, 7)


def test_a_model_whose_machines_are_all_gone_cannot_be_served() -> None:
    assert Hold(CONFIG, {}).servable(MODEL)
    assert not Hold(CONFIG, {m: record(m, "gone") for m in ROOM}).servable(MODEL)


def test_a_machine_that_fails_again_and_again_is_left_alone_and_tried_again() -> None:
    hold = Hold(CONFIG, {m: record(m, "ready") for m in ROOM})
    fails(hold, "s1", times=FAILURES)
    taken = [hold.take("m", "k", 0.0) for _ in range(3)]
    assert [t.machine if t else None for t in taken] == ["s2", "s2", "d1"]
    trial = hold.take("m", "k", PAUSE_SECONDS)
    assert trial is not None
    assert trial.machine == "s1"
    hold.breaker.on_success("s1")
    again = hold.take("m", "k", PAUSE_SECONDS)
    assert again is not None
    assert again.machine == "s1"


def test_a_machine_left_alone_is_taken_where_there_is_no_other() -> None:
    hold = Hold(CONFIG, {"s1": record("s1", "ready")})
    fails(hold, "s1", times=FAILURES)
    assert hold.take("m", "k", 0.0) is not None
    assert hold.take("m", "k", 0.0, besides="s2") is None, "nobody moves to a machine that fails as well"


def test_keys_take_turns_and_within_a_key_the_first_goes_first() -> None:
    fleet: dict[str, MachineRecord] = {}
    hold = Hold(CONFIG, fleet)
    order: list[str] = []
    for number, key in enumerate("aaab"):
        hold.enqueue(Ticket("m", key, "r", 1.0, lambda _machine, name=f"{key}{number}": order.append(name), unheard))  # type: ignore[misc]  # bound at once
    fleet["s1"] = record("s1", "ready")
    fleet["s2"] = record("s2", "ready")
    assert not hold.release(0.0, 64)
    assert order == ["a0", "b3", "a1", "a2"]


def test_models_take_turns_for_a_machine_that_serves_both() -> None:
    config = parse(TWO_MODELS, "test")
    fleet: dict[str, MachineRecord] = {}
    hold = Hold(config, fleet)
    order: list[str] = []
    for model in ("m", "m", "m", "n"):
        hold.enqueue(Ticket(model, "k", "r", 1.0, lambda _machine, name=model: order.append(name), unheard))  # type: ignore[misc]  # bound at once
    fleet["s1"] = record("s1", "ready")
    hold.release(0.0, 64)
    assert order == ["m", "n", "m", "m"]


def test_a_slice_of_grants_leaves_the_rest_for_the_next_turn() -> None:
    fleet: dict[str, MachineRecord] = {}
    hold = Hold(parse(TWO_MODELS, "test"), fleet)
    granted: list[str] = []
    for _ in range(5):
        hold.enqueue(ticket(granted))
    fleet["s1"] = record("s1", "ready")
    assert hold.release(0.0, 2)
    assert len(granted) == 2
    assert not hold.release(0.0, 64)
    assert len(granted) == 5


class Books(RuleBasedStateMachine):
    """Any order of arrivals, departures, ends and fleet changes."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet: dict[str, MachineRecord] = {}
        self.hold = Hold(CONFIG, self.fleet)
        self.granted: list[str] = []
        self.waiting: list[Ticket] = []

    @rule(machine=st.sampled_from(sorted(ROOM)), state=st.sampled_from(["ready", "draining", "asleep"]))
    def change(self, machine: str, state: MachineState) -> None:
        self.fleet[machine] = record(machine, state)
        self.release()

    @rule(key=st.sampled_from(["a", "b"]))
    def arrive(self, key: str) -> None:
        taken = self.hold.arrive("m", "k", 0.0)
        if taken is not None:
            assert not self.waiting, "a newcomer may not pass those who wait"
            self.granted.append(taken.machine)
            return
        new = Ticket("m", key, "r", 1.0, lambda machine: self.on_grant(new, machine), unheard)
        try:
            self.hold.enqueue(new)
        except TooManyWaiting:
            return
        self.waiting.append(new)

    def on_grant(self, ticket: Ticket, machine: MachineRecord) -> None:
        self.granted.append(machine.machine)
        first_of_key = next(waiter for waiter in self.waiting if waiter.key_id == ticket.key_id)
        assert first_of_key is ticket
        self.waiting.remove(ticket)

    def release(self) -> None:
        """In slices of one, as a loop's turns would."""
        while self.hold.release(0.0, 1):
            pass

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        if self.waiting:
            gone = data.draw(st.sampled_from(self.waiting))
            self.hold.leave(gone)
            self.hold.leave(gone)
            self.waiting.remove(gone)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if self.granted:
            machine = data.draw(st.sampled_from(self.granted))
            self.granted.remove(machine)
            self.hold.give_back(machine, 1.0)
            self.release()

    @invariant()
    def agree(self) -> None:
        for machine, room in ROOM.items():
            assert self.hold.in_flight(machine) == self.granted.count(machine) <= room
        assert self.hold.total_in_flight == len(self.granted)
        assert set(self.hold.waiting("m")) == set(self.waiting)
        assert self.hold.is_wanted("m") == bool(self.waiting)
        assert self.hold.total_waiting == len(self.waiting)
        free = any(r.state == "ready" and self.hold.in_flight(m) < ROOM[m] for m, r in self.fleet.items())
        assert not (free and self.waiting), "nobody waits while there is room"


Books.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBooks = Books.TestCase
