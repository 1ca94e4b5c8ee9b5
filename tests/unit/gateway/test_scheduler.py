"""The books of the front door: who waits, who is in flight, who is next."""

from functools import partial

import pytest

from services.gateway.core.breaker import FAILURES, PAUSE_SECONDS
from services.gateway.core.errors import ApiError
from services.gateway.core.scheduler import RequestScheduler, Ticket, TooManyWaiting
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
    told = scheduler.activity(lambda _m: 7, 8.0)["s1"]
    assert (told.in_flight, told.last_used_at, told.idle_s, told.acknowledged) == (0, 5.0, 3.0, 7)


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
    scheduler.breaker.on_success("s1")
    again = scheduler.acquire("m", "k", PAUSE_SECONDS)
    assert again is not None
    assert again.machine == "s1"


def test_a_machine_left_alone_is_taken_where_there_is_no_other() -> None:
    scheduler = RequestScheduler(CONFIG, {"s1": record("s1", "ready")})
    fails(scheduler, "s1", times=FAILURES)
    assert scheduler.acquire("m", "k", 0.0) is not None
    assert scheduler.acquire("m", "k", 0.0, besides="s2") is None, "nobody moves to a machine that fails as well"


def test_keys_take_turns_and_within_a_key_the_first_goes_first() -> None:
    fleet: dict[str, MachineRecord] = {}
    scheduler = RequestScheduler(CONFIG, fleet)
    order: list[str] = []
    for number, key in enumerate("aaab"):
        scheduler.enqueue(Ticket("m", key, "r", 1.0, partial(note, order, f"{key}{number}"), unheard))
