"""Collects what the doctor compares, from the bus and the metrics endpoints."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

import aiohttp

from shared.bus import topology
from shared.bus.jetstream import JetStreamBus
from shared.bus.ports import Received
from shared.bus.request import request_reply
from shared.bus.subjects import (
    ACTIVITIES,
    BILLING_INVOICES,
    BILLING_REPORT,
    BILLING_REPORTS,
    METER_AUDIT,
    METER_GAPS,
    METER_KEYS,
    METER_TOKENS,
)
from shared.errors import SpotinferenceError
from shared.messages.billing import DayReport, PeriodReport, ReportQuery, ReportsQuery
from shared.messages.codec import Unreadable, decode, decode_text
from shared.messages.gateway import Activity
from shared.messages.invoices import Invoices, InvoicesQuery
from shared.messages.meter import Confirmed, Gaps, GapsQuery, KeyComparison, KeysQuery, Tokens, TokensQuery
from shared.messages.meter_audit import Audit, AuditQuery
from shared.runtime import suite_file
from spotinference.bucket_reader import read_bucket
from spotinference.context import Context
from spotinference.diagnostics import wrong
from spotinference.doctor import links
from spotinference.doctor.links import Link, Outbox
from spotinference.doctor.machine_hours import DAYS, hours
from spotinference.report.command import REPORTS_SECONDS
from spotinference.times import today

GATEWAY_REPORT_SECONDS = 2.5
"""Gateways report every 2 s."""
METRICS_TIMEOUT_SECONDS = 3.0
METER_TIMEOUT_SECONDS = 10.0
"""A day's sums are read at once: a meter that has not answered by then has stopped."""
AUDIT_TIMEOUT_SECONDS = 120.0
"""The meter counts the day again, which may have a million events."""


async def collect_links(bus: JetStreamBus, context: Context, day: str) -> list[Link]:
    """Check every link, whatever the results of the previous ones."""
    return [link async for link in _links(bus, context, day)]


async def _links(bus: JetStreamBus, context: Context, day: str) -> AsyncIterator[Link]:
    skews: dict[str, float] = {}
    backlog = await bus.backlog(topology.LEDGER)
    marks = await _read_marks(bus)  # before the audit: they only rise
    await _measure_gateway_skew(bus, skews)
    tokens: Tokens | None = None
    try:
        tokens = await request_reply(bus, METER_TOKENS, TokensQuery(day=day), Tokens, timeout=METER_TIMEOUT_SECONDS)
        requested_at = time.time()
        audit = await request_reply(bus, METER_AUDIT, AuditQuery(day=day), Audit, timeout=AUDIT_TIMEOUT_SECONDS)
        if audit.at >= requested_at - AUDIT_TIMEOUT_SECONDS:  # else it was made when the events were still there
            skews["the meter"] = min(0.0, audit.at - requested_at) + max(0.0, audit.at - time.time())
        for link in _audit_links(audit, tokens, marks):
            yield link
        yield links.gaps(await request_reply(bus, METER_GAPS, GapsQuery(), Gaps))
    except SpotinferenceError as error:
        yield Link("meter", wrong(str(error)))
    for link in links.outboxes(await _read_outboxes(context)):
        yield link
    yield await _link_or_error("keys", lambda: _keys_link(bus, context))
    yield links.stream(backlog, await bus.backlog(topology.LEDGER))
    if tokens is not None:
        yield await _link_or_error("books", lambda: _report_link(bus, day, tokens))
    for group in await asyncio.gather(_invoice_links(bus), _hour_links(bus, day)):
        for link in group:
            yield link
    for link in links.clocks(skews | await _read_clock_skews(context)):
        yield link


def _audit_links(audit: Audit, tokens: Tokens, marks: dict[str, int]) -> Iterable[Link]:
    yield from links.engines(audit)
    yield from links.sources(audit)
    yield from links.ledger(audit, tokens)
    yield links.marks(audit, marks)


async def _link_or_error(name: str, work: Callable[[], Awaitable[Link]]) -> Link:
    try:
        return await work()
    except SpotinferenceError as error:
        return Link(name, wrong(str(error)))


async def _invoice_links(bus: JetStreamBus) -> list[Link]:
    try:
        return list(links.invoices((await request_reply(bus, BILLING_INVOICES, InvoicesQuery(), Invoices)).sources))
    except SpotinferenceError as error:
        return [Link("invoices", wrong(str(error)))]


async def _report_link(bus: JetStreamBus, day: str, tokens: Tokens) -> Link:
    return links.books(await request_reply(bus, BILLING_REPORT, ReportQuery(day=day), DayReport), tokens)


async def _hour_links(bus: JetStreamBus, day: str) -> list[Link]:
    """Compare the billed hours of the last closed days up to `day`."""
    query = ReportsQuery(to=day, days=DAYS + 1)
    try:
        period = await request_reply(bus, BILLING_REPORTS, query, PeriodReport, timeout=REPORTS_SECONDS)
    except SpotinferenceError as error:
        return [Link("hours", wrong(str(error)))]
    return list(hours([report for report in period.days if report.day < today()][-DAYS:]))


async def _read_marks(bus: JetStreamBus) -> dict[str, int]:
    marks: dict[str, int] = {}
    for mark, _ in (await read_bucket(bus, topology.METER, Confirmed)).values():
        marks[mark.source] = mark.source_seq
    return marks


async def _measure_gateway_skew(bus: JetStreamBus, skews: dict[str, float]) -> None:
    """Set the clock skew of each gateway that reports within its period."""

    async def on_activity(received: Received) -> None:
        try:
            activity = decode(received.data, Activity)
        except Unreadable:
            return
        skews[f"gateway {activity.gateway}"] = activity.sent_at - time.time()

    subscription = await bus.subscribe(ACTIVITIES, on_activity)
    await asyncio.sleep(GATEWAY_REPORT_SECONDS)
    await subscription.stop()


async def _read_outboxes(context: Context) -> list[Outbox] | None:
    running = suite_file.read(context.data_dir)
    gateway = running.services.get("gateway") if running else None
    if gateway is None or gateway.metrics_url is None:
        return None
    text = await _read_metrics(gateway.metrics_url)
    if text is None:
        return None
    pending = metric_values(text, "spot_gateway_outbox_pending")
    ages = metric_values(text, "spot_gateway_outbox_age_seconds")
    return [Outbox(gateway_url=gateway.url, pending=int(sum(pending)), age_s=max(ages, default=0.0))]


async def _keys_link(bus: JetStreamBus, context: Context) -> Link:
    comparison = await request_reply(bus, METER_KEYS, KeysQuery(), KeyComparison, timeout=METER_TIMEOUT_SECONDS)
    running = suite_file.read(context.data_dir)
    gateway = running.services.get("gateway") if running else None
    text = await _read_metrics(gateway.metrics_url) if gateway and gateway.metrics_url else None
    remembered = metric_values(text or "", "spot_gateway_revocations_missing")
    return links.keys(comparison, int(max(remembered, default=0)))


async def _read_clock_skews(context: Context) -> dict[str, float]:
    """Return by how many seconds the clock of each local service is ahead of the bus's clock."""
    running = suite_file.read(context.data_dir)
    skews: dict[str, float] = {}
    for name, service in (running.services if running else {}).items():
        text = await _read_metrics(service.metrics_url) if service.metrics_url else None
        if text and (values := metric_values(text, "spot_clock_skew_seconds")):
            skews[f"{name}, by the bus's clock,"] = max(values, key=abs)
    return skews


async def _read_metrics(url: str) -> str | None:
    try:
        timeout = aiohttp.ClientTimeout(total=METRICS_TIMEOUT_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
            session.get(f"{url}/metrics") as response,
        ):
            return decode_text(await response.read())
    except (aiohttp.ClientError, TimeoutError, OSError, Unreadable):
        return None


def metric_values(text: str, name: str) -> list[float]:
    """Return the samples of a metric: one for each of the service's workers."""
    return [float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? ([\d.e+-]+)$", text, re.MULTILINE)]
