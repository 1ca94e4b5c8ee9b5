"""Billing on a bus in memory with a meter that answers what it is told: real books, real answers."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from services.billing.wiring import service
from shared.bus import subjects, topology
from shared.bus.memory import MemoryBus
from shared.bus.ports import Bus
from shared.config.load import parse
from shared.config.sections import Config, DatabaseSection
from shared.messages.billing import DayReport, ReportQuery
from shared.messages.codec import decode, encode
from shared.messages.invoices import DeliveredFile, ImportAnswer, ImportRequest
from shared.messages.meter import ErrorReply, Tokens, TokensQuery, TokensRow, TokenSums
from shared.messages.waker import MachineState, Transition
from shared.runtime.process import Runtime
from tests.kit.waiting import PATIENCE_SECONDS, until
from tests.unit.billing.cost_row_builders import DAY, DAY_WINDOW, LATER

NOW = LATER / 1000
CONFIG = """
[[tier]]
name = "A"
provider = "static"
price_per_hour = "2.40"
[[tier]]
name = "B"
provider = "static"
[[machine]]
id = "a-1"
tier = "A"
instance = "i-a"
resources = ["vol-a"]
endpoint = "http://127.0.0.1:1"
[[machine]]
id = "b-1"
tier = "B"
instance = "i-b"
endpoint = "http://127.0.0.1:2"
"""


@dataclass
class FakeMeter:
    """Answers `meter.tokens` for every day alike."""

    bus: Bus
    served: dict[str, int] = field(default_factory=lambda: {"A": 50_000_000})
    busy: dict[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    more: tuple[TokensRow, ...] = ()
    reasons: tuple[str, ...] = ()
    """Why the days are not complete."""
    refuses: bool = False

    async def answer(self, data: bytes) -> bytes:
        query = decode(data, TokensQuery)
        assert query.busy == (query.by == ("tier", "model", "key", "outcome"))
        if self.refuses:
            return encode(ErrorReply(reason="the ledger's database does not answer"))
        rows = [_row(query, tier, "completed", tokens) for tier, tokens in self.served.items()]
        rows.append(_row(query, "A", "failed", 1_000_000))
        served = TokenSums(prompt_tokens=sum(self.served.values()))
        return encode(
            Tokens(
                day=query.day,
                complete=not self.reasons,
                reasons=self.reasons,
                totals=served,
                served=served,
                rows=(*rows, *self.more),
                busy=self.busy,
            )
        )


def _row(query: TokensQuery, tier: str, outcome: str, tokens: int) -> TokensRow:
    dimensions = {"day": query.day, "tier": tier, "model": "m", "key": "k", "outcome": outcome}
    return TokensRow(dimensions={name: dimensions[name] for name in query.by}, sums=TokenSums(prompt_tokens=tokens))


@dataclass
class Billing:
    bus: Bus
    meter: FakeMeter

    async def deliver(self, data: bytes, source: str = "cloud", file: str = "bill.csv") -> ImportAnswer:
        return msgspec.json.decode(await self.ask_import(data, source, file), type=ImportAnswer)

    async def ask_import(self, data: bytes, source: str = "cloud", file: str = "bill.csv", name: str = "") -> bytes:
        name = name or hashlib.sha256(data).hexdigest()
        await self.bus.put_object(topology.INVOICES, name, data)
        request = ImportRequest(source=source, files=(DeliveredFile(name=file, sha256=name),))
        return await self.bus.request(subjects.BILLING_IMPORT, encode(request), timeout=PATIENCE_SECONDS)

    async def report(self, day: str = DAY) -> DayReport:
        return msgspec.json.decode(await self.ask_report(day), type=DayReport)

    async def ask_report(self, day: str = DAY) -> bytes:
        return await self.bus.request(subjects.BILLING_REPORT, encode(ReportQuery(day=day)), timeout=PATIENCE_SECONDS)


async def publish_transition(
    bus: Bus, machine: str, at: float, state: MachineState, before: MachineState | None = None
) -> None:
    """A transition from the state `before`, `at` hours after the test day's midnight."""
    entry = Transition(
        at=DAY_WINDOW.start / 1000 + at * 3600,
        machine=machine,
        tier=machine[0].upper(),
        from_state=before,
        to_state=state,
        reason="test",
        generation=1,
    )
    await bus.publish(subjects.journal(machine), encode(entry))


def configured(text: str = CONFIG, *, database_url: str | None = None) -> Config:
    config = parse(text, "test.toml")
    if database_url is not None:
        config = msgspec.structs.replace(config, database=DatabaseSection(url=database_url))
    return config


@asynccontextmanager
async def replica(data_dir: Path, config: Config, bus: Bus, now: float = NOW) -> AsyncIterator[Runtime]:
    """One process's service, leading or standing by."""
    runtime = Runtime(service="billing", config=config, data_dir=data_dir, bus=bus, port=None, now=lambda: now)
    async with service(runtime):
        yield runtime
    await runtime.cancel_tasks()
    assert not runtime.crashed


@asynccontextmanager
async def billing(
    data_dir: Path, config: Config, bus: Bus | None = None, now: float = NOW
) -> AsyncIterator[tuple[Billing, Runtime]]:
    """The service on a bus in memory, leading, with a meter."""
    bus = bus or MemoryBus()
    meter = FakeMeter(bus)
    answering = await bus.respond("meter", subjects.METER_TOKENS, meter.answer)
    async with replica(data_dir, config, bus, now) as runtime:
        await until(lambda: leading(runtime), bool)
        yield Billing(bus, meter), runtime
    await answering.stop()


async def leading(runtime: Runtime) -> bool:
    return runtime.registry.get_sample_value("spot_billing_leading") == 1
