"""The exporter beside the ledger: a collector that fails, refuses or hangs costs spans, which are counted."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from services.meter.app import telemetry
from services.meter.app.telemetry import ATTEMPTS, BATCH, GATHER_S, MAX_QUEUED, METRICS_S, TelemetryExporter
from services.meter.core.otlp import Sender
from services.meter.metrics import TelemetryMetrics
from services.meter.ports import ExportFailed
from shared.messages.gateway import UsageEvent
from shared.tasks import cancel_and_wait
from tests.kit.otlp_collector import decode_histograms, decode_spans
from tests.kit.waiting import PATIENCE_SECONDS, until
from tests.unit.meter.events import MIDNIGHT, event


class ScriptedSink:
    """Answers each request as `on_request` says, and keeps what it took."""

    def __init__(self) -> None:
        self.on_request: Callable[[], int] = lambda: 0
        self.hangs = False
        self.released = asyncio.Event()
        """Ends what hangs."""
        self.attempts = 0
        self.spans: list[str] = []
        self.tokens = 0.0
        self._changed = asyncio.Event()

    async def send(self, path: str, body: bytes) -> int:
        self.attempts += 1
        self._changed.set()
        if self.hangs:
            await self.released.wait()
        refused = self.on_request()
        if path == "/v1/traces":
            self.spans += [span.attributes["spotinference.request.id"] for span in decode_spans(body)]
        else:
            self.tokens = sum(p.sum for p in decode_histograms(body) if p.name == "gen_ai.client.token.usage")
        self._changed.set()
        return refused

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not done():
                self._changed.clear()
                await self._changed.wait()


class Bench:
    """An exporter whose pauses pass at once, and are recorded; those between reports of metrics never end."""

    def __init__(self) -> None:
        self.sink = ScriptedSink()
        self.registry = CollectorRegistry()
        self.pauses: list[float] = []
        self.exporter = TelemetryExporter(
            self.sink,
            Sender({"service.name": "s"}, "scope", "1"),
            TelemetryMetrics(self.registry),
            now=lambda: MIDNIGHT,
            pause=self._pause,
        )

    async def _pause(self, seconds: float) -> None:
        if seconds == METRICS_S:
            await asyncio.Event().wait()
        self.pauses.append(seconds)
        await asyncio.sleep(0)

    def spans(self, outcome: str) -> float:
        return self.registry.get_sample_value("spot_meter_otel_spans_total", {"outcome": outcome}) or 0

    async def has_counted(self, outcome: str, spans: int) -> None:
        async def read() -> float:
            return self.spans(outcome)

        await until(read, lambda counted: counted == spans)

    @property
    def failures(self) -> float:
        return self.registry.get_sample_value("spot_meter_otel_failures_total") or 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.exporter.run())
        try:
            yield
        finally:
            await cancel_and_wait([task])


@pytest.fixture
async def bench() -> Bench:
    return Bench()


def events(count: int, first: int = 1) -> list[UsageEvent]:
    return [event(source_seq=first + n) for n in range(count)]


def failing(times: int, *, can_retry: bool) -> Callable[[], int]:
    left = iter(range(times))

    def answer() -> int:
        if next(left, None) is not None:
            raise ExportFailed("the collector is away", can_retry=can_retry)
        return 0

    return answer


async def test_every_counted_event_becomes_one_span_in_batches(bench: Bench) -> None:
    async with bench.running():
        bench.exporter.offer(events(2 * BATCH + 1))
        await bench.has_counted("sent", 2 * BATCH + 1)
    assert sorted(bench.sink.spans) == sorted(e.id for e in events(2 * BATCH + 1))
    assert bench.sink.attempts == 3
    assert bench.pauses == [GATHER_S]


async def test_a_failed_request_is_retried_until_it_succeeds(bench: Bench) -> None:
    bench.sink.on_request = failing(ATTEMPTS - 1, can_retry=True)
    async with bench.running():
        bench.exporter.offer(events(3))
        await bench.has_counted("sent", 3)
    assert bench.pauses == [GATHER_S, 1, 2, 4, 8]
    assert bench.failures == ATTEMPTS - 1
    assert len(bench.sink.spans) == 3


async def test_spans_are_abandoned_when_the_collector_stays_away(bench: Bench) -> None:
    bench.sink.on_request = failing(ATTEMPTS, can_retry=True)
    async with bench.running():
        bench.exporter.offer(events(3))
        await bench.has_counted("failed", 3)
        bench.exporter.offer(events(2, first=4))
        await bench.has_counted("sent", 2)
    assert bench.sink.spans == ["gw-1/4", "gw-1/5"]


async def test_a_refusal_is_not_retried(bench: Bench) -> None:
    bench.sink.on_request = failing(1, can_retry=False)
    async with bench.running():
        bench.exporter.offer(events(3))
        await bench.has_counted("failed", 3)
    assert bench.sink.attempts == 1


async def test_refused_spans_of_a_request_are_counted(bench: Bench) -> None:
    bench.sink.on_request = lambda: 2
    async with bench.running():
        bench.exporter.offer(events(3))
        await bench.has_counted("refused", 2)
    assert bench.spans("sent") == 1


async def test_the_queue_is_bounded_while_the_collector_hangs(bench: Bench) -> None:
    bench.sink.hangs = True
    async with bench.running():
        bench.exporter.offer(events(1))
        await bench.sink.until(lambda: bench.sink.attempts == 1)
        many = events(MAX_QUEUED, first=2)
        for _ in range(3):
            bench.exporter.offer(many)  # would never return if it waited for room
        assert bench.spans("dropped") == 2 * MAX_QUEUED
        assert len(bench.exporter._queue) == MAX_QUEUED


async def test_metrics_make_up_for_a_report_that_failed_and_for_dropped_spans(bench: Bench) -> None:
    bench.sink.on_request = failing(1, can_retry=True)
    bench.exporter.offer(events(MAX_QUEUED))
    bench.exporter.offer(events(10))
    await bench.exporter._report_metrics()
    assert bench.sink.tokens == 0
    await bench.exporter._report_metrics()
    assert bench.sink.tokens == (MAX_QUEUED + 10) * 17


async def test_the_end_finishes_the_request_under_way_and_sends_the_rest_once(bench: Bench) -> None:
    bench.sink.hangs = True
    async with bench.running():
        bench.exporter.offer(events(BATCH + 1))
        await bench.sink.until(lambda: bench.sink.attempts == 1)
        ending = asyncio.create_task(bench.exporter.flush())
        await asyncio.sleep(0)
        bench.sink.hangs = False
        bench.sink.released.set()
        await ending
    assert bench.sink.spans == [e.id for e in events(BATCH + 1)]
    assert bench.spans("sent") == BATCH + 1
    assert bench.sink.tokens == (BATCH + 1) * 17


async def test_the_end_does_not_wait_for_a_collector_that_hangs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "FLUSH_S", 0.05)
    bench.sink.hangs = True
    bench.exporter.offer(events(3))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await bench.exporter.flush()
    assert bench.spans("failed") == 3


async def test_spans_are_not_sent_again_when_the_end_interrupts_their_request(bench: Bench) -> None:
    bench.sink.hangs = True
    async with bench.running():
        bench.exporter.offer(events(3))
        await bench.sink.until(lambda: bench.sink.attempts == 1)
    assert bench.spans("failed") == 3, "the collector may have them"
    assert not bench.exporter._queue


async def test_a_fault_of_its_own_stays_with_the_batch(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: UsageEvent) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(telemetry, "span_of", fail)
        async with bench.running():
            bench.exporter.offer(events(3))
            await bench.has_counted("failed", 3)
    async with bench.running():
        bench.exporter.offer(events(1, first=4))
        await bench.has_counted("sent", 1)
    assert bench.sink.spans == ["gw-1/4"]
