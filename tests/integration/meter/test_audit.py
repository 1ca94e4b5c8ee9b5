"""A day's audit on real databases: engines that restart and die, gateways that crash, manipulated sums."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meter.adapters.audit_store import SqlAuditStore
from services.meter.adapters.engine_store import SqlEngineStore
from services.meter.adapters.ledger import SqlLedger
from services.meter.adapters.schema import MIGRATIONS, VERSION_TABLE
from services.meter.adapters.tables import events, horizon, rollups
from services.meter.core.batch import parse_batch
from services.meter.core.day import day_of, parse_day
from services.meter.core.day_audit import audit_day, list_faults
from services.meter.core.engine_counters import EngineCounters
from services.meter.core.engine_readings import EngineReading
from services.meter.core.fleet_event import EVENT_RETENTION_S, FleetEvent, FleetEventKind
from shared import database
from shared.messages.codec import encode
from shared.messages.gateway import UsageEvent
from shared.messages.meter import Tokens, TokenSums
from shared.messages.meter_audit import Audit, MachineAudit
from tests.unit.meter.events import MIDNIGHT, event

DAY = parse_day("2026-11-23")
NOW = DAY.end + 1000.0
MACHINE = "l4x2-1"


class AuditedLedger:
    """The ledger, the engines' readings and the audits on one database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.ledger = SqlLedger(engine)
        self.engine_store = SqlEngineStore(engine)
        self.facts = SqlAuditStore(engine)

    async def served(self, *sent: UsageEvent) -> None:
        await self.ledger.record(parse_batch([encode(e) for e in sent], NOW))

    async def read_engine(
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
        return await self.engine_store.record_reading(reading, day_of(reading.at), is_unmanaged=is_unmanaged)

    async def note(self, kind: str, at: float, amount: int = 0) -> None:
        note = FleetEvent(machine=MACHINE, at=MIDNIGHT + at, kind=FleetEventKind(kind), amount=amount)
        await self.engine_store.record_events({f"{kind}/{at}": note})

    async def audit_day(
        self, *, now: float = NOW, complete: bool = True, backlog: int = 0, day: str = DAY.name
    ) -> Audit:
        nothing = TokenSums()
        tokens = Tokens(day=day, complete=complete, totals=nothing, served=nothing)
        return audit_day(parse_day(day), await self.facts.load_day(parse_day(day)), tokens, now=now, backlog=backlog)

    async def machine(self, **how: Any) -> MachineAudit:
        (result,) = (await self.audit_day(**how)).machines
        return result

    async def run(self, statement: Any) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(statement)


@pytest.fixture
async def audited(ledger_url: str) -> AsyncIterator[AuditedLedger]:
    async with database.migrated_engine(ledger_url, MIGRATIONS, version_table=VERSION_TABLE) as engine:
        yield AuditedLedger(engine)


def used(seq: int, at: float, tokens: int = 100, **fields: Any) -> UsageEvent:
    """A request of one second that ended `at` seconds after midnight."""
    known = {"completed_at": MIDNIGHT + at, "prompt_tokens": tokens, "completion_tokens": 0, "cached_tokens": 0}
    return event(source_seq=seq, **{**known, "reasoning_tokens": 0, **fields})


async def test_engine_probes_and_ledger_agree_over_wakes_and_midnight(audited: AuditedLedger) -> None:
    """Two generations; the second continues past midnight."""
    await audited.note("start", 10)
    await audited.note("probe", 20, 3)
    await audited.read_engine(30, 3)
    await audited.served(used(1, 100), used(2, 200))
    await audited.read_engine(300, 203)
    await audited.note("start", 400)
    await audited.note("probe", 420, 3)
    await audited.read_engine(430, 3, generation=2)
    await audited.served(used(3, 500, generation=2))
    await audited.read_engine(86_390, 103, generation=2)
    await audited.served(used(4, 86_500, 70, generation=2))
    await audited.read_engine(86_600, 173, generation=2)
    result = await audited.audit_day()
    (machine,) = result.machines
    assert (machine.state, machine.engine, machine.probes, machine.read) == ("equal", 306, 6, 300)
    assert (machine.generations, machine.readings, machine.requests, machine.resets) == (2, 4, 3, 0)
    assert [(s.first, s.last, s.kept, s.missing, s.mark) for s in result.sources] == [(1, 3, 3, 0, 4)]
    assert (result.rollups, result.final, result.events, result.tokens, list_faults(result)) == (
        "equal",
        True,
        3,
        300,
        [],
    )
    next_day = await audited.machine(day="2026-11-24", now=NOW + 86_400)
    assert (next_day.state, next_day.engine, next_day.read, next_day.probes) == ("equal", 70, 70, 0)


@pytest.mark.parametrize("is_unmanaged", [False, True])
async def test_restart_is_detected_when_the_engine_names_its_process(
    audited: AuditedLedger, *, is_unmanaged: bool
) -> None:
    """The new process exceeds the old count between two readings; the old one's last work is in no reading."""
    await audited.note("start", 10)
    await audited.read_engine(30, 0, is_unmanaged=is_unmanaged, process="1")
    await audited.served(used(1, 100))
    await audited.read_engine(110, 100, is_unmanaged=is_unmanaged, process="1")
    await audited.served(used(2, 118, 40), used(3, 200, 150))
    await audited.read_engine(300, 150, is_unmanaged=is_unmanaged, process="2")
    result = await audited.machine()
    assert (result.state, result.difference, result.engine, result.resets) == ("explained", -40, 250, 1)
    assert [(c.name, c.tokens) for c in result.causes] == [("resets", 190)]
    await audited.served(used(4, 310, 5))
    await audited.read_engine(400, 155, is_unmanaged=is_unmanaged, process="2")
    again = await audited.machine()
    assert (again.difference, again.engine, again.resets) == (-40, 255, 1)
    await audited.read_engine(410, 165, is_unmanaged=is_unmanaged, process="2")
    assert (await audited.machine()).engine == 265
    assert (await audited.machine()).difference == -30


async def test_restart_is_hidden_when_the_engine_does_not_name_its_process(audited: AuditedLedger) -> None:
    await audited.note("start", 10)
    await audited.read_engine(30, 0)
    await audited.served(used(1, 100))
    await audited.read_engine(110, 100)
    await audited.served(used(2, 200))
    await audited.read_engine(300, 100)
    result = await audited.machine()
    assert (result.state, result.difference) == ("wrong", -100)
    assert "restarted by hand between two readings" in result.words


async def test_detected_reset_is_explained_by_the_requests_of_its_time(audited: AuditedLedger) -> None:
    await audited.note("start", 10)
    await audited.read_engine(30, 0)
    await audited.served(used(1, 100))
    await audited.read_engine(110, 100)
    await audited.served(used(2, 118, 40), used(3, 200, 60))
    await audited.read_engine(300, 60)
    result = await audited.machine()
    assert (result.state, result.difference, result.engine) == ("explained", -40, 160)
    assert [(c.name, c.tokens) for c in result.causes] == [("resets", 100)]
    await audited.served(used(4, 250, 101))
    assert (await audited.machine()).difference == -141
    await audited.read_engine(299, 10)
    assert (await audited.machine()).engine == 160, "an older reading changes nothing"


async def test_engine_started_by_the_waker_has_no_edge_at_its_start(audited: AuditedLedger) -> None:
    await audited.note("start", 100)
    await audited.served(used(1, 101.5, duration=0.1))
    await audited.note("start", 400)
    await audited.read_engine(110, 100)
    result = await audited.machine()
    assert (result.state, result.engine, result.causes) == ("equal", 100, ()), "the later start is not its own"
    await audited.read_engine(120, 101)
    assert (await audited.machine()).state == "wrong"


async def test_requests_that_bypass_the_gateway_are_wrong(audited: AuditedLedger) -> None:
    await audited.read_engine(30, 5000, is_unmanaged=True)
    await audited.served(used(1, 100))
    await audited.read_engine(200, 5107, is_unmanaged=True)
    result = await audited.audit_day()
    assert [(m.state, m.difference) for m in result.machines] == [("wrong", 7)]
    assert "7 tokens that are not in the ledger" in list_faults(result)[0]
    assert not result.final


async def test_requests_in_flight_at_a_crashed_gateway_explain_a_difference(audited: AuditedLedger) -> None:
    await audited.read_engine(30, 0, is_unmanaged=True)
    await audited.read_engine(200, 300, is_unmanaged=True)
    assert (await audited.machine()).state == "wrong"
    await audited.note("crash", 150, 1)
    assert (await audited.machine()).state == "explained"


async def test_failover_explains_a_difference_only_at_the_first_machine(audited: AuditedLedger) -> None:
    await audited.read_engine(30, 0, is_unmanaged=True)
    await audited.served(used(1, 100), used(2, 150, machine="l4x2-2", moved_from=MACHINE))
    await audited.read_engine(200, 180, is_unmanaged=True)
    first, second = (await audited.audit_day()).machines
    assert (first.state, first.difference, [c.name for c in first.causes]) == ("explained", 80, ["failover"])
    assert (second.machine, second.state) == ("l4x2-2", "unknown")
    bound = 100 + 3 * 1000  # its prompt, and a second and the time to notice at the fastest
    assert [c.tokens for c in first.causes] == [bound]
    await audited.read_engine(201, 101 + bound, is_unmanaged=True)
    assert (await audited.audit_day()).machines[0].state == "wrong", "one request explains no more than one"


async def test_choices_missing_from_usage_explain_a_surplus(audited: AuditedLedger) -> None:
    await audited.read_engine(30, 0, is_unmanaged=True)
    await audited.served(used(1, 100, choices=3), used(2, 110, 0, choices=10**9, outcome="failed", status=400))
    await audited.read_engine(200, 300, is_unmanaged=True)
    result = await audited.machine()
    assert (result.state, result.difference) == ("explained", 200)
    bound = 2 * (100 + 3 * 1000)
    assert [(c.name, c.tokens) for c in result.causes] == [("choices", bound)], "what was refused explains nothing"
    await audited.read_engine(201, 101 + bound, is_unmanaged=True)
    assert (await audited.machine()).state == "wrong"


async def test_refused_requests_explain_nothing_and_abandoned_ones_up_to_the_engines_pace(
    audited: AuditedLedger,
) -> None:
    await audited.read_engine(30, 0, is_unmanaged=True)
    refused = [used(n, 60, 0, outcome="failed", status=400, basis="none") for n in range(1, 200)]
    stream = used(200, 100, 10, completion_tokens=90, first_token=0.25, duration=3.25)
    left = used(201, 110, 10, completion_tokens=20, outcome="client_closed", duration=1.0)
    await audited.served(*refused, stream, left)
    bound = int(2 * 30 * (1.0 + 2.0)) - 20
    await audited.read_engine(201, 130 + bound, is_unmanaged=True)
    result = await audited.machine()
    assert (result.state, [(c.name, c.tokens) for c in result.causes]) == ("explained", [("left", bound)])
    await audited.read_engine(202, 131 + bound, is_unmanaged=True)
    assert (await audited.machine()).state == "wrong"


def left_at_once(seq: int, **fields: Any) -> UsageEvent:
    """A request whose client disconnected before any output."""
    return used(seq, 100, 0, outcome="client_closed", basis="counted", status=0, duration=0.2, **fields)


@pytest.mark.parametrize("requests", [None, 1], ids=["llama.cpp", "vllm"])
async def test_abandoned_choices_explain_no_more_than_their_limits(
    audited: AuditedLedger, requests: int | None
) -> None:
    bound = 128 * 16 + 128 * 200
    await audited.read_engine(30, 0, is_unmanaged=True, requests=requests)
    await audited.served(left_at_once(1, choices=128, max_tokens=16, body_bytes=200))
    await audited.read_engine(200, bound, is_unmanaged=True, requests=requests)
    result = await audited.machine()
    assert (result.state, sum(c.tokens for c in result.causes)) == ("explained", bound)
    await audited.read_engine(201, bound + 1, is_unmanaged=True, requests=requests)
    assert (await audited.machine()).state == "wrong"


async def test_abandoned_prompts_are_bounded_by_their_body(audited: AuditedLedger) -> None:
    prompts, tokens = 200, 500
    await audited.read_engine(30, 0, is_unmanaged=True)
    await audited.served(left_at_once(1, max_tokens=16, body_bytes=prompts * tokens * 4))
    await audited.read_engine(200, prompts * (tokens + 16), is_unmanaged=True)
    result = await audited.machine()
    assert (result.state, [c.tokens for c in result.causes]) == ("explained", [prompts * tokens * 4 + 16])


async def test_abandoned_failover_is_bounded_by_its_body_and_limit(audited: AuditedLedger) -> None:
    await audited.read_engine(30, 0, is_unmanaged=True)
    await audited.served(
        left_at_once(1, machine="l4x2-2", moved_from=MACHINE, choices=2, max_tokens=16, body_bytes=200)
    )
    await audited.read_engine(200, 432, is_unmanaged=True)
    first, _second = (await audited.audit_day()).machines
    assert (first.state, [(c.name, c.tokens) for c in first.causes]) == ("explained", [("failover", 432)])


async def test_engine_without_counters_is_unknown(audited: AuditedLedger) -> None:
    await audited.served(used(1, 100))
    for _ in range(3):
        await audited.engine_store.record_failure(MACHINE, DAY, "answers 404\0")
    result = await audited.audit_day()
    assert [(m.state, m.engine) for m in result.machines] == [("unknown", None)]
    assert "answers 404" in result.machines[0].words
    assert list_faults(result) == []


async def test_running_day_is_judged_only_when_nothing_is_in_flight(audited: AuditedLedger) -> None:
    await audited.read_engine(30, 0, is_unmanaged=True)
    await audited.served(used(1, 100))
    await audited.read_engine(200, 107, is_unmanaged=True)
    now = MIDNIGHT + 206
    assert (await audited.machine(now=now)).state == "wrong"
    assert (await audited.machine(now=now, backlog=1)).state == "open"
    assert (await audited.machine(now=MIDNIGHT + 204)).state == "open"
    await audited.read_engine(210, 107, is_unmanaged=True, running=1)
    assert (await audited.machine(now=MIDNIGHT + 300)).state == "open"
    later = await audited.audit_day(complete=False)
    assert (later.machines[0].state, later.final) == ("open", False), "events are still missing"


async def test_requests_across_the_last_reading_explain_up_to_their_tokens(audited: AuditedLedger) -> None:
    await audited.read_engine(30, 0, is_unmanaged=True)
    await audited.served(used(1, 260, 500, duration=100.0), used(2, 100))
    await audited.read_engine(200, 350, is_unmanaged=True)
    result = await audited.machine()
    assert (result.state, result.difference) == ("explained", 250)
    assert {c.name: c.tokens for c in result.causes} == {"edges": 500, "unread": 500}
    await audited.read_engine(201, 701, is_unmanaged=True)
    assert (await audited.machine()).state == "wrong"


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
async def test_requests_the_engine_may_count_differently_explain_a_difference(
    audited: AuditedLedger, fields: Any, *, counts: bool
) -> None:
    e = used(1, 100, **fields)
    await audited.read_engine(30, 0, is_unmanaged=True)
    await audited.served(e)
    await audited.read_engine(200, e.prompt_tokens + 50, is_unmanaged=True)
    assert (await audited.machine()).state == ("explained" if counts else "wrong")


async def test_clock_set_back_over_midnight_hides_no_number(audited: AuditedLedger) -> None:
    """The second event has the higher number, but its clock was on the day before."""
    await audited.served(used(1, 10), used(2, -5), used(3, 20), used(4, 30))
    result = await audited.audit_day()
    assert [(s.first, s.last, s.kept, s.missing) for s in result.sources] == [(1, 4, 4, 0)]


async def test_missing_numbers_are_listed_by_source(audited: AuditedLedger) -> None:
    await audited.served(*(used(n, 100 + n) for n in (1, 2, 4)), used(5, 86_500))
    damaged = encode(used(3, 103)).replace(b'"generation":1', b'"generation":-1')
    lost = await audited.audit_day()
    assert [(s.first, s.last, s.kept, s.missing) for s in lost.sources] == [(1, 4, 3, 1)]
    assert list_faults(lost)[0].startswith("source gw-1: 1 of its events 1 to 4")
    again = damaged.replace(b'"status":200', b'"status":201')
    assert again != damaged
    await audited.ledger.record(parse_batch([damaged, again], NOW))
    result = await audited.audit_day()
    assert [(s.kept, s.quarantined, s.missing) for s in result.sources] == [(3, 1, 0)]
    assert result.quarantined == 2


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
async def test_rollups_that_differ_from_the_events_are_detected(audited: AuditedLedger, tampering: Any) -> None:
    await audited.served(*(used(n, 100 + n) for n in (1, 2, 3)))
    assert (await audited.audit_day()).rollups == "equal"
    await audited.run(tampering)
    result = await audited.audit_day()
    assert result.rollups == "differ"
    assert "the rollups differ from the sums of the events" in list_faults(result)


async def test_sealed_day_is_answered_with_its_stored_audit(audited: AuditedLedger) -> None:
    await audited.served(used(1, 100))
    made = await audited.audit_day()
    await audited.facts.save_audit(replace_at(made, 1.0))
    await audited.facts.save_audit(made)
    assert await audited.facts.load_audit(DAY.name) == made
    assert await audited.facts.final_event_counts(DAY.name) == {DAY.name: 1}
    assert await audited.facts.final_event_counts("2026-11-24") == {}
    await audited.run(update(horizon).values(before=DAY.end))
    assert (await audited.facts.load_day(DAY)).events_kept is False
    sealed = await audited.audit_day()
    assert (sealed.rollups, sealed.machines, sealed.final, sealed.events) == ("unknown", (), False, 1)


def replace_at(made: Audit, at: float) -> Audit:
    return msgspec.structs.replace(made, at=at, final=False)


async def test_fleet_events_are_stored_once_and_deleted_when_old(audited: AuditedLedger) -> None:
    await audited.read_engine(30, 0, is_unmanaged=True)
    for _ in range(2):
        await audited.note("probe", 50, 3)
    await audited.read_engine(100, 3, is_unmanaged=True)
    assert (await audited.machine()).probes == 3
    await audited.engine_store.delete_old_events(MIDNIGHT + 50 + EVENT_RETENTION_S)
    assert (await audited.machine()).probes == 3
    await audited.engine_store.delete_old_events(MIDNIGHT + 51 + EVENT_RETENTION_S)
    assert (await audited.machine()).probes == 0


async def test_new_leader_continues_where_the_old_one_stopped(audited: AuditedLedger) -> None:
    await audited.read_engine(30, 0, is_unmanaged=True)
    await audited.read_engine(100, 40, is_unmanaged=True)
    other = SqlEngineStore(audited.engine)
    audited.engine_store = other
    await audited.read_engine(200, 90, is_unmanaged=True)
    assert (await audited.machine()).engine == 90
