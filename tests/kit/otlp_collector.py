"""A collector for OTLP over HTTP: decodes what arrives with OpenTelemetry's own protobufs, strictly."""

import asyncio
import base64
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from aiohttp import web

from tests.kit.waiting import PATIENCE_SECONDS


@dataclass(frozen=True)
class ReceivedSpan:
    trace_id: str
    span_id: str
    name: str
    kind: int
    start_s: float
    end_s: float
    is_error: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]


@dataclass(frozen=True)
class ReceivedHistogram:
    """One point; cumulative, so a later one of the same series replaces it."""

    name: str
    unit: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    count: int
    sum: float
    buckets: tuple[int, ...]
    bounds: tuple[float, ...]
    temporality: int


class OtlpCollector:
    """Answers as `statuses` and `hangs` say, and keeps what it took."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[ReceivedSpan] = []
        self.histograms: dict[tuple[Any, ...], ReceivedHistogram] = {}
        self.requests: Counter[str] = Counter()
        self.statuses: list[int] = []
        """The next answers; 200 when there are no more."""
        self.refused_spans = 0
        """As `rejectedSpans` of each answer."""
        self.answer: bytes | None = None
        """Instead of OTLP's own answer."""
        self.hangs = False
        self.bodies: list[bytes] = []
        self._changed = asyncio.Event()

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not done():
                self._changed.clear()
                await self._changed.wait()

    def histogram(self, name: str, **attributes: Any) -> list[ReceivedHistogram]:
        """The newest points of an instrument that have these attributes; `__` stands for a dot."""
        required = {key.replace("__", "."): value for key, value in attributes.items()}
        points = [point for point in self.histograms.values() if point.name == name]
        return [point for point in points if required.items() <= point.attributes.items()]

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.requests[request.path] += 1
        self.bodies.append(body)
        self._changed.set()
        if self.hangs:
            await asyncio.Event().wait()
        status = self.statuses.pop(0) if self.statuses else 200
        if status != 200:
            return web.Response(status=status)
        assert request.content_type == "application/json"
        if request.path == "/v1/traces":
            self.spans += decode_spans(body)
        else:
            for point in decode_histograms(body):
                key = (point.name, *sorted(point.attributes.items()), *sorted(point.resource.items()))
                self.histograms[key] = point
        self._changed.set()
        if self.answer is not None:
            return web.Response(body=self.answer)
        partial = {"partialSuccess": {"rejectedSpans": str(self.refused_spans)}} if self.refused_spans else {}
        return web.json_response(partial)


@asynccontextmanager
async def otlp_collector(port: int = 0) -> AsyncIterator[OtlpCollector]:
    collector = OtlpCollector()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.add_routes([web.post(path, collector.handle) for path in ("/v1/traces", "/v1/metrics")])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        await runner.cleanup()


def decode_spans(body: bytes) -> list[ReceivedSpan]:
    request = _parse(body, "trace", "ExportTraceServiceRequest")
    return [
        ReceivedSpan(
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            name=span.name,
            kind=span.kind,
            start_s=span.start_time_unix_nano / 1e9,
            end_s=span.end_time_unix_nano / 1e9,
            is_error=span.status.code == 2,
            attributes=_values(span.attributes),
            resource=_values(group.resource.attributes),
        )
        for group in request.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def decode_histograms(body: bytes) -> list[ReceivedHistogram]:
    request = _parse(body, "metrics", "ExportMetricsServiceRequest")
    return [
        ReceivedHistogram(
            name=metric.name,
            unit=metric.unit,
            attributes=_values(point.attributes),
            resource=_values(group.resource.attributes),
            count=point.count,
            sum=point.sum,
            buckets=tuple(point.bucket_counts),
            bounds=tuple(point.explicit_bounds),
            temporality=metric.histogram.aggregation_temporality,
        )
        for group in request.resource_metrics
        for scope in group.scope_metrics
        for metric in scope.metrics
        for point in metric.histogram.data_points
    ]


def _parse(body: bytes, signal: str, name: str) -> Any:
    """Parse as protobuf's JSON, which knows no other field. OTLP differs in one point: its ids are hexadecimal."""

    def with_base64_ids(fields: dict[str, Any]) -> dict[str, Any]:
        for key, size in (("traceId", 16), ("spanId", 8)):
            if key in fields:
                raw = bytes.fromhex(fields[key])
                assert len(raw) == size
                assert any(raw), f"{key} must not be zero"
                fields[key] = base64.b64encode(raw).decode()
        return fields

    module = import_module(f"opentelemetry.proto.collector.{signal}.v1.{signal}_service_pb2")
    parse: Any = import_module("google.protobuf.json_format").ParseDict
    return parse(json.loads(body, object_hook=with_base64_ids), getattr(module, name)())


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
