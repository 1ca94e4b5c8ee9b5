"""Usage at an OpenTelemetry collector: the meter's process against a real receiver, compared with the ledger."""

import asyncio
import signal
import time
from pathlib import Path

import pytest

from services.meter.adapters.otlp_client import OtlpClient
from services.meter.ports import ExportFailed
from shared.bus import topology
from shared.bus.jetstream import JetStreamBus
from shared.messages.meter import TokensQuery
from tests.integration.meter.test_process import DAY, MarkWatcher, ask, meter_on, quick, read_page, read_text
from tests.kit.otlp_collector import OtlpCollector, otlp_collector
from tests.kit.usage import send
from tests.kit.waiting import PATIENCE_SECONDS
from tests.unit.meter.events import event, sums_of

USAGE = "gen_ai.client.token.usage"


def ids(collector: OtlpCollector) -> list[str]:
    return sorted(span.attributes["spotinference.request.id"] for span in collector.spans)


def otel(url: str) -> str:
    return f'[otel]\nendpoint = "{url}"\n'


def sqlite_in(folder: Path) -> str:
    """A ledger where the kind of database cannot matter: what is sent is what `record` returned as new."""
    return f"sqlite:///{folder / 'ledger.sqlite'}"


async def test_the_collector_has_what_the_ledger_has(bus: JetStreamBus, nats_url: str, tmp_path: Path) -> None:
    watcher = MarkWatcher()
    watch = await bus.watch(topology.METER, watcher.on_event)
    sent = [event("gw-1", n, completed_at=DAY.start + n, prompt_tokens=n) for n in range(1, 121)]
    async with (
        otlp_collector() as collector,
        meter_on(tmp_path / "meter", nats_url, sqlite_in(tmp_path), otel(collector.url)) as meter,
    ):
        await send(bus, *sent, *sent[:40])
        await send(bus, event("gw-1", 121, completed_at=time.time() + 86_400))  # the future goes to quarantine
        await watcher.reach("gw-1", 121)
        assert await meter.end(signal.SIGTERM) == 0
        assert ids(collector) == sorted(e.id for e in sent)
        totals = sums_of(sent)
        assert sum(s.attributes["gen_ai.usage.input_tokens"] for s in collector.spans) == totals.prompt_tokens
        (prompt,) = collector.histogram(USAGE, gen_ai__token__type="input")
        (completion,) = collector.histogram(USAGE, gen_ai__token__type="output")
        assert (prompt.count, prompt.sum) == (len(sent), totals.prompt_tokens)
        assert (completion.count, completion.sum) == (len(sent), totals.completion_tokens)
        assert not [body for body in collector.bodies if b"sk-" in body], "no key's secret leaves"
    await watch.stop()


async def test_no_event_becomes_two_spans_when_the_meter_is_killed(
    bus: JetStreamBus, nats_url: str, database_url: str, tmp_path: Path
) -> None:
    await quick(bus)
    watcher = MarkWatcher()
    watch = await bus.watch(topology.METER, watcher.on_event)
    sent = [event("gw-1", n, completed_at=DAY.start + n) for n in range(1, 601)]
    async with (
        otlp_collector() as collector,
        meter_on(tmp_path / "meter", nats_url, database_url, otel(collector.url)) as meter,
    ):
        await send(bus, *sent[:300])
        await watcher.reach("gw-1", 100)
        await collector.until(lambda: bool(collector.spans))
        await meter.end(signal.SIGKILL)
        await meter.start()
        await send(bus, *sent[300:], *sent[:300])  # a gateway that has not seen the confirmation
        await watcher.reach("gw-1", 600)
        answer = await ask(bus, TokensQuery(day=DAY.name))
        assert await meter.end(signal.SIGTERM) == 0
        assert answer.totals == sums_of(sent)
        spans = ids(collector)
        assert len(spans) == len(set(spans)), "what the ledger had was not sent again"
        assert set(spans) <= {e.id for e in sent}
        assert len({s.resource["service.instance.id"] for s in collector.spans}) <= 2
        (usage,) = collector.histogram(USAGE, gen_ai__token__type="output")  # of the second process, from its start
        assert usage.count <= len(sent)
    await watch.stop()


async def test_the_ledger_does_not_notice_a_collector_that_hangs(
    bus: JetStreamBus, nats_url: str, tmp_path: Path
) -> None:
    watcher = MarkWatcher()
    watch = await bus.watch(topology.METER, watcher.on_event)
    sent = [event("gw-1", n, completed_at=DAY.start + n) for n in range(1, 1001)]
    async with (
        otlp_collector() as collector,
        meter_on(tmp_path / "meter", nats_url, sqlite_in(tmp_path), otel(collector.url)) as meter,
    ):
        collector.hangs = True
        await send(bus, sent[0])
        await collector.until(lambda: collector.requests["/v1/traces"] == 1)
        await send(bus, *sent[1:])
        await watcher.reach("gw-1", 1000)
        page = await read_text(f"{meter.metrics_url}/metrics")
        assert 'spot_meter_otel_spans_total{outcome="sent"} 0.0' in page, "it has answered nothing yet"
        assert (await read_page(f"{meter.metrics_url}/readyz"))[0] == 200
        assert (await ask(bus, TokensQuery(day=DAY.name))).totals == sums_of(sent)
        assert await meter.end(signal.SIGTERM) == 0
    await watch.stop()


@pytest.mark.parametrize(("status", "can_retry"), [(429, True), (503, True), (400, False), (401, False), (301, False)])
async def test_a_status_decides_whether_to_try_again(status: int, can_retry: bool) -> None:
    async with otlp_collector() as collector:
        collector.statuses = [status]
        client = OtlpClient(collector.url)
        with pytest.raises(ExportFailed, match=f"/v1/traces answered {status}") as failed:
            await client.send("/v1/traces", b"{}")
        assert failed.value.can_retry == can_retry
        await client.close()


async def test_refused_spans_are_reported() -> None:
    async with otlp_collector() as collector:
        collector.refused_spans = 3
        client = OtlpClient(collector.url)
        assert await client.send("/v1/traces", b"{}") == 3
        await client.close()


async def test_a_collector_that_hangs_or_is_away_fails_in_time() -> None:
    async with otlp_collector() as collector:
        collector.hangs = True
        client = OtlpClient(collector.url, timeout_s=0.1)
        with pytest.raises(ExportFailed, match="did not answer within") as failed:
            await client.send("/v1/traces", b"{}")
        assert failed.value.can_retry
    with pytest.raises(ExportFailed) as failed:
        await client.send("/v1/traces", b"{}")
    assert failed.value.can_retry
    await client.close()


@pytest.mark.parametrize("answer", [b"", b"<html>", b'{"partialSuccess":{"rejectedSpans":"x"}}', b"x" * 1_000_000])
async def test_an_answer_of_200_may_be_anything(answer: bytes) -> None:
    async with otlp_collector() as collector:
        collector.answer = answer
        client = OtlpClient(collector.url)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await client.send("/v1/traces", b"{}") == 0
        await client.close()
