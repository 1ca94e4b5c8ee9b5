"""The real meter and the real books, told of a world and asked for its figures."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
from prometheus_client import CollectorRegistry

from services.billing.adapters.band_store import SqlBandStore
from services.billing.adapters.day_fingerprints import SqlDayFingerprints
from services.billing.adapters.day_store import SqlDayStore
from services.billing.adapters.revision_store import SqlRevisionStore
from services.billing.adapters.schema import BOOKS_FILE, MIGRATIONS, VERSION_TABLE
from services.billing.app.band_maker import BandMaker
from services.billing.app.day_reports import DayReports
from services.billing.app.meter_client import MeterClient
from services.billing.app.report_cache import ReportCache
from services.billing.app.report_publisher import published_revision
from services.billing.metrics import Metrics
from services.billing.settings import settings
from services.billing.wiring import service as billing_service
from services.meter.wiring import service as meter_service
from shared import database
from shared.bus import subjects, topology
from shared.bus.memory import MemoryBus
from shared.bus.ports import Bus
from shared.config.load import parse
from shared.config.sections import Config, DatabaseSection
from shared.messages.billing import (
    Bands,
    BandsQuery,
    DayReport,
    PeriodReport,
    ReportQuery,
    ReportsQuery,
    Statement,
    StatementQuery,
)
from shared.messages.codec import encode
from shared.messages.gateway import Activity, UsageEvent
from shared.messages.invoices import DeliveredFile, ImportAnswer, ImportRequest, Invoices, InvoicesQuery, PayableNote
from shared.messages.meter import ErrorReply, Tokens, TokensQuery
from shared.messages.waker import Transition
from shared.runtime.process import Runtime
from tests.books_proof.facts import DAY, Delivery, Move, Payable, Use, World
from tests.books_proof.vendors import text, written
from tests.kit.usage import send
from tests.kit.waiting import until

Answer = TypeVar("Answer")
SOURCE = "gateway-1.boot-1"


def configured(world: World, database_url: str | None = None) -> Config:
    """The configuration that says of tiers, machines, models and rates what the world does."""
    lines = ["[gateway]", "port = 0", "[meter]", 'source_silence = "60s"', "[billing]"]
    lines.append(f"append_sources = {list(world.append_sources)!r}")
    for rate in world.rates:
        lines += ["[[billing.rate]]", f'currency = "{rate.currency}"', f'per_usd = "{text(rate.per_usd)}"']
        lines += [f'from = "{day_of(rate.start)}"', 'source = "test"']
    for tier in world.tiers:
        lines += ["[[tier]]", f'name = "{tier.name}"', 'provider = "static"']
        lines += [] if tier.price is None else [f'price_per_hour = "{text(tier.price)}"']
    for machine in world.machines:
        lines += ["[[machine]]", f'id = "{machine.id}"', f'tier = "{machine.tier}"', f'instance = "{machine.instance}"']
        lines += [f"resources = {list(machine.resources)!r}", 'endpoint = "http://127.0.0.1:9"']
    tiers = [tier.name for tier in world.tiers]
    for model in world.models:
        lines += ["[[model]]", f'name = "{model}"', f"lineup = {tiers!r}"]
    config = parse("\n".join(lines).replace("'", '"'), "proof.toml")
    if database_url is None:
        return config
    return msgspec.structs.replace(config, database=DatabaseSection(url=database_url))


def day_of(seconds: int) -> str:
    """The UTC day of it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


class Suite:
    """Meter and billing on a bus in memory."""

    def __init__(self, bus: Bus, billing: Runtime, directory: Path) -> None:
        self._bus, self._billing, self._directory = bus, billing, directory

    async def publish_journal(self, moves: Sequence[Move], tiers: dict[str, str]) -> None:
        """Put the moves into the journal, and return when billing has read them."""
        for number, move in enumerate(moves):
            entry = Transition(
                at=float(move.at),
                machine=move.machine,
                tier=tiers[move.machine],
                from_state=None,
                to_state=move.state,  # type: ignore[arg-type]  # the generator knows the states
                reason="proof",
                generation=number,
                key_id=move.key,
            )
            await self._bus.publish(subjects.journal(move.machine), encode(entry))
        await until(self._transitions, lambda read: read >= len(moves))

    async def publish_usage(self, uses: Sequence[Use]) -> None:
        """Send the requests as a gateway does, and return when all days before now are counted."""
        await send(self._bus, *(_event(number, use) for number, use in enumerate(uses, 1)))
        leaving = Activity(gateway=SOURCE, sent_at=self._billing.now(), machines={}, leaving=True, written=len(uses))
        await self._bus.publish_volatile(subjects.activity(SOURCE), encode(leaving))
        today = int(self._billing.now()) // DAY * DAY
        days = TokensQuery(day=day_of(today - 40 * DAY), to=day_of(today - DAY))
        await until(lambda: self._ask(subjects.METER_TOKENS, days, Tokens), lambda answer: answer.complete)

    async def deliver(self, delivery: Delivery) -> ImportAnswer:
        """Import a delivery's file."""
        name, data = written(delivery, self._directory)
        sha256 = hashlib.sha256(data).hexdigest()
        await self._bus.put_object(topology.INVOICES, sha256, data)
        request = ImportRequest(source=delivery.source, files=(DeliveredFile(name=name, sha256=sha256),))
        answer = await self._ask(subjects.BILLING_IMPORT, request, ImportAnswer)
        assert not answer.refusals, answer.refusals
        return answer

    async def note(self, payable: Payable) -> Invoices:
        """Record what an invoice says is to be paid."""
        note = PayableNote(
            source=payable.source,
            invoice_id=payable.invoice or "",
            amount=Decimal(text(payable.amount) or ""),
            issuer=payable.issuer,
            period=day_of(sum(payable.period) // 2)[:7] if payable.invoice is None else None,
            account=payable.account if payable.invoice is None else None,
        )
        return await self._ask(subjects.BILLING_PAYABLE, note, Invoices)

    async def invoices(self) -> Invoices:
        """How they stand."""
        return await self._ask(subjects.BILLING_INVOICES, InvoicesQuery(), Invoices)

    async def day(self, day: str, *, explain: bool = False) -> DayReport:
        """A day's report."""
        return await self._ask(subjects.BILLING_REPORT, ReportQuery(day=day, explain=explain), DayReport)

    async def period(self, to: str, days: int) -> PeriodReport:
        """Several days' report."""
        return await self._ask(subjects.BILLING_REPORTS, ReportsQuery(to=to, days=days), PeriodReport)

    async def bands(self, day: str) -> Bands:
        """The price list in force on a day."""
        return await self._ask(subjects.BILLING_BANDS, BandsQuery(day=day), Bands)

    async def statement(self, key: str, month: str) -> Statement:
        """What a key used."""
        return await self._ask(subjects.BILLING_STATEMENT, StatementQuery(key_id=key, month=month), Statement)

    async def make_bands(self) -> None:
        """Make today's price list now: the leader would in a minute, whether all is told or not."""
        config, now = self._billing.config, self._billing.now
        url = database.database_url(config, self._billing.data_dir, BOOKS_FILE)
        async with database.migrated_engine(url, MIGRATIONS, version_table=VERSION_TABLE) as engine:
            chosen, meter, revisions = settings(config), MeterClient(self._bus), SqlRevisionStore(engine)
            metrics, published = Metrics(CollectorRegistry()), partial(published_revision, self._bus)
            reports = DayReports(meter, SqlDayStore(engine), revisions, chosen, metrics, published=published, now=now)
            report_cache = ReportCache(reports, revisions.newest_report, meter, SqlDayFingerprints(engine), now=now)
            await BandMaker(SqlBandStore(engine), report_cache, chosen, now=now).make_bands()

    async def _transitions(self) -> float:
        return self._billing.registry.get_sample_value("spot_billing_transitions_total") or 0.0

    async def _ask(self, subject: str, question: msgspec.Struct, kind: type[Answer]) -> Answer:
        answer: Answer | ErrorReply = msgspec.json.decode(
            await self._bus.request(subject, encode(question), timeout=60), type=kind | ErrorReply
        )
        assert not isinstance(answer, ErrorReply), f"{question}: {answer.reason}"
        return answer


@asynccontextmanager
async def suite(
    world: World, directory: Path, database_url: str | None = None, bus: Bus | None = None
) -> AsyncIterator[Suite]:
    """Both services of an empty installation, at the world's time."""
    config = configured(world, database_url)
    bus = bus or MemoryBus()

    def runtime(service: str) -> Runtime:
        home = directory / service
        home.mkdir()
        return Runtime(service=service, config=config, data_dir=home, bus=bus, port=None, now=lambda: float(world.now))

    meter, billing = runtime("meter"), runtime("billing")
    async with AsyncExitStack() as stack:
        for each, opened in ((meter, meter_service), (billing, billing_service)):
            await stack.enter_async_context(opened(each))
            stack.push_async_callback(each.cancel_tasks)
        await until(lambda: _leading(billing), bool)
        yield Suite(bus, billing, directory)
    assert not meter.crashed
    assert not billing.crashed


async def _leading(billing: Runtime) -> bool:
    return billing.registry.get_sample_value("spot_billing_leading") == 1


def _event(number: int, use: Use) -> UsageEvent:
    return UsageEvent(
        id=f"{SOURCE}/{number}",
        source=SOURCE,
        source_seq=number,
        completed_at=float(use.end),
        key_id=use.key,
        model=use.model,
        tier=use.tier,
        machine=use.machine,
        generation=1,
        prompt_tokens=use.prompt,
        cached_tokens=use.cached,
        completion_tokens=use.completion,
        reasoning_tokens=use.completion // 3,
        basis="engine",
        outcome="failed" if use.failed else "completed",
        status=500 if use.failed else 200,
        streamed=True,
        wake_wait=0.0,
        wake_id=None,
        first_token=0.125,
        duration=float(use.end - use.start),
        overhead=0.0,
    )
