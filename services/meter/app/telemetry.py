"""Reports counted events to an OpenTelemetry collector, beside the ledger and never in its way.

Events are taken after their transaction, into a queue of bounded size. If the collector is slow or away, the newest
spans are dropped and counted. Metrics are sums since the start, so that a later report makes up for one that failed.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection

import structlog

from services.meter.core.genai import UsageHistograms, span_of
from services.meter.core.otlp import Sender
from services.meter.metrics import TelemetryMetrics
from services.meter.ports import ExportFailed, TelemetrySink
from shared.messages.gateway import UsageEvent

log = structlog.get_logger()

MAX_QUEUED = 20_000
"""Events; some 20 MB."""
BATCH = 500
"""Spans in one request, about 700 KB: built in 10 ms, during which nothing else runs in this process."""
GATHER_S = 1.0
METRICS_S = 30.0
ATTEMPTS = 5
FIRST_PAUSE_S = 1.0
FLUSH_S = 3.0
"""At the end of the process, for whatever is still queued."""


class TelemetryExporter:
    """Call `offer` with newly counted events, and `flush` before `run` is cancelled."""

    def __init__(
        self,
        sink: TelemetrySink,
        sender: Sender,
        metrics: TelemetryMetrics,
        *,
        now: Callable[[], float],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._sink = sink
        self._sender = sender
        self._metrics = metrics
        self._now = now
        self._pause = pause
        self._histograms = UsageHistograms(now())
        self._queue: deque[UsageEvent] = deque()
        self._available = asyncio.Event()
        self._sending = asyncio.Lock()
        self._failing: set[str] = set()
        """The paths whose last request failed."""

    def offer(self, events: Collection[UsageEvent]) -> None:
        """Take events that the ledger has just counted. Returns at once and never raises."""
        try:
            self._histograms.add(events)
            room = MAX_QUEUED - len(self._queue)
            self._queue.extend(list(events)[:room])
            self._metrics.spans.labels("dropped").inc(max(0, len(events) - room))
            self._available.set()
        except Exception:
            log.exception("telemetry_failed")

    async def run(self) -> None:
        await asyncio.gather(self._send_spans(), self._send_metrics())

    async def flush(self) -> None:
        """Finish the request under way and send what is left, for a few seconds at most."""
        try:
            async with asyncio.timeout(FLUSH_S):
                while self._queue or self._sending.locked():
                    await self._send_batch(attempts=1)
                await self._report_metrics()
        except TimeoutError:
            self._metrics.spans.labels("dropped").inc(len(self._queue))

    async def _send_spans(self) -> None:
        while True:
            await self._available.wait()
            await self._pause(GATHER_S)
            while self._queue:
                await self._send_batch(attempts=ATTEMPTS)
            self._available.clear()

    async def _send_metrics(self) -> None:
        while True:
            await self._pause(METRICS_S)
            await self._report_metrics()

    async def _send_batch(self, *, attempts: int) -> None:
        async with self._sending:
            events = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            if not events:
                return
            refused: int | None = None
            try:
                refused = await self._send("/v1/traces", lambda: self._encode_spans(events), attempts)
            finally:  # cancelled: the collector may have them, so they are not sent again
                if refused is None:
                    self._metrics.spans.labels("failed").inc(len(events))
        if refused is not None:
            self._metrics.spans.labels("refused").inc(min(refused, len(events)))
            self._metrics.spans.labels("sent").inc(max(0, len(events) - refused))

    async def _report_metrics(self) -> None:
        if not self._histograms.is_empty:
            await self._send("/v1/metrics", self._encode_metrics, 1)

    def _encode_metrics(self) -> bytes:
        return self._sender.encode_metrics(self._histograms.collect(self._now()))

    def _encode_spans(self, events: Collection[UsageEvent]) -> bytes:
        return self._sender.encode_spans([span_of(event) for event in events])

    async def _send(self, path: str, encode: Callable[[], bytes], attempts: int) -> int | None:
        """Return how many spans were refused; None if the request failed for good."""
        try:
            body = encode()
            for attempt in range(attempts):
                if attempt:
                    await self._pause(FIRST_PAUSE_S * 2 ** (attempt - 1))
                try:
                    refused = await self._sink.send(path, body)
                except ExportFailed as error:
                    self._on_failure(path, str(error))
                    if not error.can_retry:
                        break
                else:
                    self._on_success(path)
                    return refused
        except Exception:
            log.exception("telemetry_failed", path=path)
        return None

    def _on_failure(self, path: str, reason: str) -> None:
        self._metrics.failures.inc()
        if path not in self._failing:
            self._failing.add(path)
            log.warning("telemetry_delayed", reason=reason, consequence="spans beyond the queue are dropped")

    def _on_success(self, path: str) -> None:
        if path in self._failing:
            self._failing.remove(path)
            log.info("telemetry_resumed", path=path)
