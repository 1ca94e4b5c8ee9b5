"""Reads the requests in the ledger page by page, over a bus in memory."""

from shared.bus.memory import MemoryBus
from shared.bus.subjects import METER_HISTORY
from shared.messages.codec import decode, encode
from shared.messages.meter import History, HistoryQuery, PastRequest
from shared.units import DAY_S
from spotinference.plan.traffic import Request, read_ledger


def use(completed_at: float, *, waited: float = 0.0, seconds: float = 1.0, model: int = 0) -> PastRequest:
    return PastRequest(completed_at=completed_at, waited=waited, seconds=seconds, model=model, tokens=10)


class Meter:
    """Answers with its pages, one after the other."""

    def __init__(self, *pages: History) -> None:
        self._pages = list(pages)
        self.queries: list[HistoryQuery] = []

    async def answer(self, data: bytes) -> bytes:
        self.queries.append(decode(data, HistoryQuery))
        return encode(self._pages.pop(0))


async def test_ledger_reads_every_page_with_its_own_models() -> None:
    bus = MemoryBus()
    meter = Meter(
        History(models=("a", "b"), uses=(use(1001.0), use(1002.0, model=1)), next=(1002.0, "x")),
        History(models=("b",), uses=(use(1003.0),), next=None),
    )
    await bus.respond("meter", METER_HISTORY, meter.answer)
    result = await read_ledger(bus, (1000.0, 2000.0))
    assert result == {"a": [Request(1000.0, 1.0, 10)], "b": [Request(1001.0, 1.0, 10), Request(1002.0, 1.0, 10)]}
    first = HistoryQuery(start=1000.0, end=2000.0 + DAY_S)
    assert meter.queries == [first, HistoryQuery(start=1000.0, end=2000.0 + DAY_S, after=(1002.0, "x"))]


async def test_a_request_is_of_the_time_at_which_it_came() -> None:
    bus = MemoryBus()
    uses = (
        use(1000.5),  # came before the span
        use(1200.0, waited=150.0, seconds=20.0),
        use(2001.0, waited=1.0, seconds=0.5),
        use(2002.0, waited=1.0, seconds=1.0),  # came at its end
    )
    meter = Meter(History(models=("a",), uses=uses, next=None))
    await bus.respond("meter", METER_HISTORY, meter.answer)
    result = await read_ledger(bus, (1000.0, 2000.0))
    assert result == {"a": [Request(1030.0, 20.0, 10), Request(1999.5, 0.5, 10)]}
