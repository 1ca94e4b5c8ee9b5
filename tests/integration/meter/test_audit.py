"""A day's audit on real databases: engines that restart and die, gateways that crash, sums that were tampered with."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meter.adapters.audit_store import SqlAuditStore
from services.meter.adapters.engine_store import SqlEngineStore
from services.meter.adapters.ledger import SqlLedger
from services.meter.adapters.tables import events, horizon, rollups
from services.meter.core.batch import parse_batch
from services.meter.core.day import day_of, parse_day
from services.meter.core.day_audit import audit_day, list_faults
from services.meter.core.engine_counters import EngineCounters
from services.meter.core.engine_readings import EngineReading
from services.meter.core.fleet_event import EVENT_RETENTION_S, FleetEvent, FleetEventKind
from services.meter.wiring import MIGRATIONS, VERSION_TABLE
from shared import database
from shared.messages.codec import encode
from shared.messages.gateway import UsageEvent
from shared.messages.meter import Tokens, TokenSums
from shared.messages.meter_audit import Audit, MachineAudit
from tests.unit.meter.events import MIDNIGHT, event

DAY = parse_day("2026-11-23")
NOW = DAY.end + 1000.0
MACHINE = "l4x2-1"


class Books:
    """The ledger, the engines' book and the audit's facts on one database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.ledger = SqlLedger(engine)
        self.book = SqlEngineStore(engine)
        self.facts = SqlAuditStore(engine)

    async def served(self, *found: UsageEvent) -> None:
        await self.ledger.record(parse_batch([encode(e) for e in found], NOW))

    async def look(
        self,
        at: float,
        tokens: int,
        *,
        generation: int = 1,
        is_unmanaged: bool = False,
        running: int = 0,
        process: str | None = None,
        requests: int | None = None,
    ) -> bool:
        counters = EngineCounters(
            prompt_tokens=tokens,
            completion_tokens=0,
            running=running,
            rounding=0,
            process=process,
            requests=requests,
        )
        reading = EngineReading(machine=MACHINE, generation=generation, at=MIDNIGHT + at, counters=counters)
        return await self.book.record_reading(reading, day_of(reading.at), is_unmanaged=is_unmanaged)

    async def note(self, kind: str, at: float, amount: int = 0) -> None:
        note = FleetEvent(machine=MACHINE, at=MIDNIGHT + at, kind=FleetEventKind(kind), amount=amount)
        await self.book.record_events({f"{kind}/{at}": note})

    async def audit_day(
        self, *, now: float = NOW, complete: bool = True, backlog: int = 0, day: str = DAY.name
    ) -> Audit:
        nothing = TokenSums()
        tokens = Tokens(day=day, complete=complete, totals=nothing, served=nothing)
        return audit_day(parse_day(day), await self.facts.load_day(parse_day(day)), tokens, now=now, backlog=backlog)

    async def machine(self, **how: Any) -> MachineAudit:
        (found,) = (await self.audit_day(**how)).machines
        return found

    async def run(self, statement: Any) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(statement)


@pytest.fixture
async def books(database_url: str) -> AsyncIterator[Books]:
    async with database.migrated_engine(database_url, MIGRATIONS, version_table=VERSION_TABLE) as engine:
        yield Books(engine)


def used(seq: int, at: float, tokens: int = 100, **fields: Any) -> UsageEvent:
    """A request of one second that ended `at` seconds after midnight."""
    known = {"completed_at": MIDNIGHT + at, "prompt_tokens": tokens, "completion_tokens": 0, "cached_tokens": 0}
    return event(source_seq=seq, **{**known, "reasoning_tokens": 0, **fields})


async def test_all_three_agree_over_wakes_and_a_night(books: Books) -> None:
    """Two generations; the second goes on over midnight."""
    await books.note("start", 10)
    await books.note("probe", 20, 3)
    await books.look(30, 3)
    await books.served(used(1, 100), used(2, 200))
    await books.look(300, 203)
    await books.note("start", 400)
    await books.note("probe", 420, 3)
    await books.look(430, 3, generation=2)
    await books.served(used(3, 500, generation=2))
    await books.look(86_390, 103, generation=2)
    await books.served(used(4, 86_500, 70, generation=2))
    await books.look(86_600, 173, generation=2)
    found = await books.audit_day()
    (machine,) = found.machines
    assert (machine.state, machine.engine, machine.probes, machine.read) == ("equal", 306, 6, 300)
    assert (machine.generations, machine.readings, machine.requests, machine.resets) == (2, 4, 3, 0)
    assert [(s.first, s.last, s.kept, s.missing, s.mark) for s in found.sources] == [(1, 3, 3, 0, 4)]
    assert (found.rollups, found.final, found.events, found.tokens, list_faults(found)) == ("equal", True, 3, 300, [])
    next_day = await books.machine(day="2026-11-24", now=NOW + 86_400)
    assert (next_day.state, next_day.engine, next_day.read, next_day.probes) == ("equal", 70, 70, 0)


@pytest.mark.parametrize("is_unmanaged", [False, True])
async def test_an_engine_that_says_which_process_it_is_hides_no_restart(books: Books, *, is_unmanaged: bool) -> None:
    """It climbs past its old count between two readings; what it did before it died is in no reading."""
    await books.note("start", 10)
    await books.look(30, 0, is_unmanaged=is_unmanaged, process="1")
    await books.served(used(1, 100))
    await books.look(110, 100, is_unmanaged=is_unmanaged, process="1")
    await books.served(used(2, 118, 40), used(3, 200, 150))
    await books.look(300, 150, is_unmanaged=is_unmanaged, process="2")
    found = await books.machine()
    assert (found.state, found.difference, found.engine, found.resets) == ("explained", -40, 250, 1)
    assert [(c.name, c.tokens) for c in found.causes] == [("resets", 190)]
    await books.served(used(4, 310, 5))
    await books.look(400, 155, is_unmanaged=is_unmanaged, process="2")
    again = await books.machine()
    assert (again.difference, again.engine, again.resets) == (-40, 255, 1)
    await books.look(410, 165, is_unmanaged=is_unmanaged, process="2")
    assert (await books.machine()).engine == 265
    assert (await books.machine()).difference == -30


async def test_a_counter_that_rose_as_high_again_hides_its_restart_where_the_engine_does_not_tell(books: Books) -> None:
    await books.note("start", 10)
    await books.look(30, 0)
    await books.served(used(1, 100))
    await books.look(110, 100)
    await books.served(used(2, 200))
    await books.look(300, 100)
    found = await books.machine()
    assert (found.state, found.difference) == ("wrong", -100)
    assert "restarted by hand between two readings" in found.words


async def test_a_reset_that_shows_is_explained_by_what_ended_in_its_time(books: Books) -> None:
    await books.note("start", 10)
    await books.look(30, 0)
    await books.served(used(1, 100))
    await books.look(110, 100)
    await books.served(used(2, 118, 40), used(3, 200, 60))
    await books.look(300, 60)
    found = await books.machine()
    assert (found.state, found.difference, found.engine) == ("explained", -40, 160)
    assert [(c.name, c.tokens) for c in found.causes] == [("resets", 100)]
    await books.served(used(4, 250, 101))
    assert (await books.machine()).difference == -141
    await books.look(299, 10)
    assert (await books.machine()).engine == 160, "an older reading changes nothing"


async def test_an_engine_that_we_started_has_no_edge_where_it_began(books: Books) -> None:
    await books.note("start", 100)
    await books.served(used(1, 101.5, duration=0.1))
    await books.note("start", 400)
    await books.look(110, 100)
    found = await books.machine()
    assert (found.state, found.engine, found.causes) == ("equal", 100, ()), "the later start is not its own"
    await books.look(120, 101)
    assert (await books.machine()).state == "wrong"


async def test_who_asks_the_engine_directly_is_found(books: Books) -> None:
    await books.look(30, 5000, is_unmanaged=True)
    await books.served(used(1, 100))
    await books.look(200, 5107, is_unmanaged=True)
    found = await books.audit_day()
    assert [(m.state, m.difference) for m in found.machines] == [("wrong", 7)]
    assert "7 tokens that are not in the ledger" in list_faults(found)[0]
    assert not found.final


async def test_what_a_crashed_gateway_had_in_flight_explains_it(books: Books) -> None:
    await books.look(30, 0, is_unmanaged=True)
    await books.look(200, 300, is_unmanaged=True)
    assert (await books.machine()).state == "wrong"
    await books.note("crash", 150, 1)
    assert (await books.machine()).state == "explained"


async def test_what_failed_over_explains_more_at_its_first_machine_and_nothing_at_its_second(books: Books) -> None:
    await books.look(30, 0, is_unmanaged=True)
    await books.served(used(1, 100), used(2, 150, machine="l4x2-2", moved_from=MACHINE))
    await books.look(200, 180, is_unmanaged=True)
    first, second = (await books.audit_day()).machines
    assert (first.state, first.difference, [c.name for c in first.causes]) == ("explained", 80, ["failover"])
    assert (second.machine, second.state) == ("l4x2-2", "unknown")
    bound = 100 + 3 * 1000  # its prompt, and a second and the time to notice at the fastest
    assert [c.tokens for c in first.causes] == [bound]
    await books.look(201, 101 + bound, is_unmanaged=True)
    assert (await books.audit_day()).machines[0].state == "wrong", "one request explains no more than one"


async def test_choices_that_no_usage_tells_explain_what_the_engine_has_more(books: Books) -> None:
    await books.look(30, 0, is_unmanaged=True)
    await books.served(used(1, 100, choices=3), used(2, 110, 0, choices=10**9, outcome="failed", status=400))
    await books.look(200, 300, is_unmanaged=True)
    found = await books.machine()
    assert (found.state, found.difference) == ("explained", 200)
    bound = 2 * (100 + 3 * 1000)
    assert [(c.name, c.tokens) for c in found.causes] == [("choices", bound)], "what was refused explains nothing"
    await books.look(201, 101 + bound, is_unmanaged=True)
    assert (await books.machine()).state == "wrong"


async def test_refused_requests_hide_no_bypass_and_left_ones_as_much_as_the_engine_can_do(books: Books) -> None:
    await books.look(30, 0, is_unmanaged=True)
    refused = [used(n, 60, 0, outcome="failed", status=400, basis="none") for n in range(1, 200)]
    stream = used(200, 100, 10, completion_tokens=90, first_token=0.25, duration=3.25)
    left = used(201, 110, 10, completion_tokens=20, outcome="client_closed", duration=1.0)
    await books.served(*refused, stream, left)
    bound = int(2 * 30 * (1.0 + 2.0)) - 20
    await books.look(201, 130 + bound, is_unmanaged=True)
    found = await books.machine()
    assert (found.state, [(c.name, c.tokens) for c in found.causes]) == ("explained", [("left", bound)])
    await books.look(202, 131 + bound, is_unmanaged=True)
    assert (await books.machine()).state == "wrong"


def left_at_once(seq: int, **fields: Any) -> UsageEvent:
    """A request whose client went before anything was said."""
    return used(seq, 100, 0, outcome="client_closed", basis="counted", status=0, duration=0.2, **fields)


@pytest.mark.parametrize("requests", [None, 1], ids=["llama.cpp", "vllm"])
async def test_many_choices_that_were_left_explain_no_more_than_was_asked(books: Books, requests: int | None) -> None:
    bound = 128 * 16 + 128 * 200
    await books.look(30, 0, is_unmanaged=True, requests=requests)
    await books.served(left_at_once(1, choices=128, max_tokens=16, body_bytes=200))
    await books.look(200, bound, is_unmanaged=True, requests=requests)
    found = await books.machine()
    assert (found.state, sum(c.tokens for c in found.causes)) == ("explained", bound)
    await books.look(201, bound + 1, is_unmanaged=True, requests=requests)
    assert (await books.machine()).state == "wrong"


async def test_many_long_prompts_that_were_left_are_explained_by_their_body(books: Books) -> None:
    prompts, tokens = 200, 500
    await books.look(30, 0, is_unmanaged=True)
    await books.served(left_at_once(1, max_tokens=16, body_bytes=prompts * tokens * 4))
    await books.look(200, prompts * (tokens + 16), is_unmanaged=True)
    found = await books.machine()
    assert (found.state, [c.tokens for c in found.causes]) == ("explained", [prompts * tokens * 4 + 16])


async def test_what_moved_and_was_left_explains_its_body_and_its_limit_at_its_first_machine(books: Books) -> None:
    await books.look(30, 0, is_unmanaged=True)
    await books.served(left_at_once(1, machine="l4x2-2", moved_from=MACHINE, choices=2, max_tokens=16, body_bytes=200))
    await books.look(200, 432, is_unmanaged=True)
    first, _second = (await books.audit_day()).machines
    assert (first.state, [(c.name, c.tokens) for c in first.causes]) == ("explained", [("failover", 432)])


async def test_an_engine_without_counters_is_unknown(books: Books) -> None:
    await books.served(used(1, 100))
    for _ in range(3):
        await books.book.record_failure(MACHINE, DAY, "answers 404\0")
    found = await books.audit_day()
    assert [(m.state, m.engine) for m in found.machines] == [("unknown", None)]
    assert "answers 404" in found.machines[0].words
    assert list_faults(found) == []


async def test_before_the_day_is_over_only_what_is_at_rest_is_judged(books: Books) -> None:
    await books.look(30, 0, is_unmanaged=True)
    await books.served(used(1, 100))
    await books.look(200, 107, is_unmanaged=True)
    now = MIDNIGHT + 206
    assert (await books.machine(now=now)).state == "wrong"
    assert (await books.machine(now=now, backlog=1)).state == "open"
    assert (await books.machine(now=MIDNIGHT + 204)).state == "open"
    await books.look(210, 107, is_unmanaged=True, running=1)
    assert (await books.machine(now=MIDNIGHT + 300)).state == "open"
    later = await books.audit_day(complete=False)
    assert (later.machines[0].state, later.final) == ("open", False), "events are still missing"


async def test_requests_over_the_last_reading_are_compared_by_what_they_can_be(books: Books) -> None:
    await books.look(30, 0, is_unmanaged=True)
    await books.served(used(1, 260, 500, duration=100.0), used(2, 100))
    await books.look(200, 350, is_unmanaged=True)
    found = await books.machine()
    assert (found.state, found.difference) == ("explained", 250)
    assert {c.name: c.tokens for c in found.causes} == {"edges": 500, "unread": 500}
    await books.look(201, 701, is_unmanaged=True)
    assert (await books.machine()).state == "wrong"


@pytest.mark.parametrize(
    ("fields", "counts"),
    [
        ({"outcome": "client_closed"}, True),
        ({"outcome": "engine_lost"}, True),
        ({"basis": "counted"}, True),
        ({"basis": "none", "prompt_tokens": 0}, True),
        ({"outcome": "failed", "status": 500}, True),
        ({"outcome": "failed", "status": 0}, True),
        ({"outcome": "failed", "status": 400, "prompt_tokens": 0}, False),
        ({"outcome": "failed", "status": 422, "prompt_tokens": 0, "basis": "none"}, False),
        ({}, False),
    ],
)
async def test_requests_that_the_engine_may_count_differently(books: Books, fields: Any, *, counts: bool) -> None:
    e = used(1, 100, **fields)
    await books.look(30, 0, is_unmanaged=True)
    await books.served(e)
    await books.look(200, e.prompt_tokens + 50, is_unmanaged=True)
    assert (await books.machine()).state == ("explained" if counts else "wrong")


async def test_a_clock_that_was_set_back_over_midnight_hides_no_number(books: Books) -> None:
    """The second event was numbered after the first, and its clock says that it was the day before."""
    await books.served(used(1, 10), used(2, -5), used(3, 20), used(4, 30))
    found = await books.audit_day()
    assert [(s.first, s.last, s.kept, s.missing) for s in found.sources] == [(1, 4, 4, 0)]


async def test_numbers_that_the_ledger_lacks_are_told_by_source(books: Books) -> None:
    await books.served(*(used(n, 100 + n) for n in (1, 2, 4)), used(5, 86_500))
    damaged = encode(used(3, 103)).replace(b'"generation":1', b'"generation":-1')
    lost = await books.audit_day()
    assert [(s.first, s.last, s.kept, s.missing) for s in lost.sources] == [(1, 4, 3, 1)]
    assert list_faults(lost)[0].startswith("source gw-1: 1 of its events 1 to 4")
    again = damaged.replace(b'"status":200', b'"status":201')
    assert again != damaged
    await books.ledger.record(parse_batch([damaged, again], NOW))
    found = await books.audit_day()
    assert [(s.kept, s.quarantined, s.missing) for s in found.sources] == [(3, 1, 0)]
    assert found.quarantined == 2


@pytest.mark.parametrize(
    "tampering",
    [
        update(rollups).values(completion_tokens=rollups.c.completion_tokens + 1),
        delete(events).where(events.c.source_seq == 2),
        update(events).where(events.c.source_seq == 2).values(machine="other"),
        update(events).where(events.c.source_seq == 2).values(cached_tokens=1),
    ],
    ids=["sum", "event", "dimension", "field"],
)
async def test_sums_that_are_not_those_of_the_events_are_found(books: Books, tampering: Any) -> None:
    await books.served(*(used(n, 100 + n) for n in (1, 2, 3)))
    assert (await books.audit_day()).rollups == "equal"
    await books.run(tampering)
    found = await books.audit_day()
    assert found.rollups == "differ"
    assert "the rollups differ from the sums of the events" in list_faults(found)


async def test_a_day_whose_events_are_sealed_is_answered_by_the_audit_that_was_made(books: Books) -> None:
    await books.served(used(1, 100))
    made = await books.audit_day()
    await books.facts.save_audit(replace_at(made, 1.0))
    await books.facts.save_audit(made)
    assert await books.facts.load_audit(DAY.name) == made
    assert await books.facts.final_event_counts(DAY.name) == {DAY.name: 1}
    assert await books.facts.final_event_counts("2026-11-24") == {}
    await books.run(update(horizon).values(before=DAY.end))
    assert (await books.facts.load_day(DAY)).events_kept is False
    sealed = await books.audit_day()
    assert (sealed.rollups, sealed.machines, sealed.final, sealed.events) == ("unknown", (), False, 1)


def replace_at(made: Audit, at: float) -> Audit:
    return msgspec.structs.replace(made, at=at, final=False)


async def test_notes_are_kept_once_and_not_for_ever(books: Books) -> None:
    await books.look(30, 0, is_unmanaged=True)
    for _ in range(2):
        await books.note("probe", 50, 3)
    await books.look(100, 3, is_unmanaged=True)
    assert (await books.machine()).probes == 3
    await books.book.delete_old_events(MIDNIGHT + 50 + EVENT_RETENTION_S)
    assert (await books.machine()).probes == 3
    await books.book.delete_old_events(MIDNIGHT + 51 + EVENT_RETENTION_S)
    assert (await books.machine()).probes == 0


async def test_a_new_leader_goes_on_where_the_old_one_stood(books: Books) -> None:
    await books.look(30, 0, is_unmanaged=True)
    await books.look(100, 40, is_unmanaged=True)
    other = SqlEngineStore(books.engine)
    books.book = other
    await books.look(200, 90, is_unmanaged=True)
    assert (await books.machine()).engine == 90
