"""How gateways answered, in the ledger: counted once whatever is repeated, kept for good, and answered by dimension."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.exc import OperationalError

from services.meter.adapters.response_store import SqlResponseStore
from services.meter.adapters.schema import MIGRATIONS, VERSION_TABLE
from services.meter.app.response_recorder import ResponseRecorder
from shared import database
from shared.bus import subjects
from shared.bus.memory import MemoryBus
from shared.bus.topology import RESPONSES
from shared.messages.codec import decode, encode
from shared.messages.meter import ErrorReply
from shared.messages.responses import HourResponses, ResponseCount, Responses, ResponsesQuery, ResponseSums
from tests.unit.meter.events import MIDNIGHT

DAY_NAME = "2026-11-23"
HOUR = int(MIDNIGHT // 3600)
DAY_S = 86400.0


def message(source: str, hour: int, *counts: tuple[str, int, str, int]) -> HourResponses:
    kinds = tuple(ResponseCount(model=m, status=s, code=c, responses=n) for m, s, c, n in counts)
    return HourResponses(source=source, hour=hour, counts=kinds)


class Meter:
    def __init__(self, store: SqlResponseStore) -> None:
        self.bus = MemoryBus()
        self.now = MIDNIGHT + 7200.0
        self.store = store
        self.recorder = ResponseRecorder(self.bus, store, lambda: self.now)

    async def take(self, *messages: HourResponses) -> None:
        for one in messages:
            await self.bus.put(RESPONSES, subjects.responses_key(one.source, one.hour), encode(one))
        await self.recorder.read_again()
        await self.recorder.flush()

    async def answer(self, *by: str, day: str = DAY_NAME, to: str | None = None) -> Responses:
        query = ResponsesQuery(day=day, to=to, by=by)
        return decode(await self.recorder.handle_responses(encode(query)), Responses)


@pytest.fixture
async def meter(ledger_url: str) -> AsyncIterator[Meter]:
    async with database.migrated_engine(ledger_url, MIGRATIONS, version_table=VERSION_TABLE) as engine:
        yield Meter(SqlResponseStore(engine))


async def test_totals_count_once_however_often_and_in_whatever_order_they_come(meter: Meter) -> None:
    early = message("gw-1", HOUR, ("m", 200, "", 3), ("m", 503, "waking", 1))
    late = message("gw-1", HOUR, ("m", 200, "", 5), ("m", 503, "waking", 1), ("m", 504, "wake_timeout", 2))
    other = message("gw-2", HOUR + 1, ("m", 200, "", 10), ("n", 499, "", 1))
    for messages in ((early,), (late, other), (early,), (late, early)):
        await meter.take(*messages)
    expected = ResponseSums(responses=19, succeeded=15, unavailable=1, timed_out=2, failed=2)
    assert (await meter.answer()).totals == expected
    rows = (await meter.answer("status", "code")).rows
    assert [(*row.dimensions.values(), row.sums.responses) for row in rows] == [
        ("200", "", 15),
        ("499", "", 1),
        ("503", "waking", 1),
        ("504", "wake_timeout", 2),
    ]
    hours = (await meter.answer("hour", "model")).rows
    assert [(*row.dimensions.values(), row.sums.responses) for row in hours] == [
        ("2026-11-23T00:00:00Z", "m", 8),
        ("2026-11-23T01:00:00Z", "m", 10),
        ("2026-11-23T01:00:00Z", "n", 1),
    ]
    assert (await meter.answer(day="2026-11-24")).totals == ResponseSums(failed=0)


async def test_old_days_are_summed_up_and_stay(meter: Meter) -> None:
    meter.now = MIDNIGHT + 25 * 3600.0
    await meter.take(
        message("gw-1", HOUR, ("m", 200, "", 3)), message("gw-2", HOUR + 23, ("m", 504, "wake_timeout", 2))
    )
    await meter.take(message("gw-1", HOUR + 24, ("m", 200, "", 7)))
    meter.now = MIDNIGHT + 61 * DAY_S
    for _ in range(2):
        await meter.recorder.fold()
        both = await meter.answer("day", to="2026-11-24")
        assert [(row.dimensions["day"], row.sums) for row in both.rows] == [
            ("2026-11-23", ResponseSums(responses=5, succeeded=3, timed_out=2, failed=2)),
            ("2026-11-24", ResponseSums(responses=7, succeeded=7, failed=0)),
        ]
    hours = (await meter.answer("hour")).rows
    assert [(row.dimensions["hour"], row.sums.responses) for row in hours] == [("2026-11-23T00:00:00Z", 5)]
    await meter.take(message("gw-3", HOUR, ("m", 200, "", 1)))
    assert (await meter.answer()).totals.responses == 5, "too old by now: it would count again at each repetition"


async def test_what_is_not_of_its_key_or_of_no_hour_is_rejected_alone(meter: Meter) -> None:
    good = message("gw-1", HOUR, ("m", 200, "", 1))
    for key, value in {
        subjects.responses_key("gw-1", HOUR + 1): encode(good),
        subjects.responses_key("user.gw-1", HOUR): encode(good),
        subjects.responses_key("gw-4", HOUR + 99): encode(message("gw-4", HOUR + 99, ("m", 200, "", 1))),
        subjects.responses_key("gw-5", HOUR): encode(message("gw-5", HOUR, ("m" * 500, 200, "", 1))),
        subjects.responses_key("gw-6", HOUR): encode(message("gw-6", HOUR, ("m", 999, "", 1))),
        subjects.responses_key("gw-7", HOUR): encode(message("gw-7", HOUR, ("m", 200, "So!", 1))),
        subjects.responses_key("gw-8", HOUR): encode(message("gw-8", HOUR, *[("m", 200, "", 1)] * 2001)),
        "nonsense": b"{}",
    }.items():
        await meter.bus.put(RESPONSES, key, value)
    await meter.take(good)
    assert (await meter.answer()).totals.responses == 1
    assert meter.bus.rejections.counts[RESPONSES.name] == 8
    for query in (ResponsesQuery(day="soon"), ResponsesQuery(day=DAY_NAME, by=("key",))):
        assert decode(await meter.recorder.handle_responses(encode(query)), ErrorReply).reason


async def test_a_database_that_is_down_loses_nothing(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_messages: object) -> None:
        raise OperationalError("", {}, Exception("down"))

    with monkeypatch.context() as patched:
        patched.setattr(meter.store, "record", fail)
        with pytest.raises(OperationalError):
            await meter.take(message("gw-1", HOUR, ("m", 200, "", 3)))
    await meter.recorder.flush()
    assert (await meter.answer()).totals.responses == 3
