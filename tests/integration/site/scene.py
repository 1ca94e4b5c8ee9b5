"""A site on which every page has something to show, by fixed figures and a fixed clock: it always looks the same."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from services.billing.core.reports.period_report import build_period_report
from services.billing.core.reports.public_figures import public_band, public_day, public_period
from shared.bus import subjects
from shared.bus.memory import MemoryBus
from shared.bus.topology import BUDGET, FLEET, KEYS, LEASES, REPORTS, WAKE_HISTORY
from shared.messages.bench import BenchRun
from shared.messages.billing import Band, Bands, DayReport, FigureState, Statement, StatementQuery
from shared.messages.budget import BudgetGate, Journalled
from shared.messages.codec import Message, decode, encode
from shared.messages.gateway import Activity, MachineActivity
from shared.messages.invoices import Invoices, InvoiceStanding
from shared.messages.keys import KeyRecord, digest
from shared.messages.meter import Tokens, TokensQuery, TokensRow, TokenSums
from shared.messages.meter_audit import Audit
from shared.messages.meter_figures import Figures, FiguresQuery, FiguresRow, Pace, Spread
from shared.messages.public import Headline, PublishedDay
from shared.messages.responses import Responses, ResponsesQuery, ResponsesRow, ResponseSums
from shared.messages.trail import Trail, TrailQuery
from shared.messages.waker import MachineRecord, WakerReply
from tests.kit.site import running_site
from tests.kit.waiting import until
from tests.unit.billing.export.full_reports import WEIGHTS, day_report
from tests.unit.site.journal import NOON, messages, phase, transition, whole_wake

NOW = NOON
T = TypeVar("T", bound=Message)
MODELS = ("qwen3-coder", "llama-3.1-8b")
EXAMPLES = Path(__file__).parents[2] / "contract" / "messages"
CONFIG = """
[billing]
daily_budget = "1500.00"
[[tier]]
name = "h100x2"
provider = "process"
[[tier]]
name = "l4x2"
provider = "process"
[[machine]]
id = "h100x2-1"
tier = "h100x2"
instance = "i-1"
command = ["engine", "{port}"]
[[machine]]
id = "h100x2-2"
tier = "h100x2"
instance = "i-2"
command = ["engine", "{port}"]
[[machine]]
id = "l4x2-1"
tier = "l4x2"
instance = "i-3"
command = ["engine", "{port}"]
[[model]]
name = "qwen3-coder"
lineup = ["h100x2", "l4x2"]
[[model]]
name = "llama-3.1-8b"
lineup = ["l4x2"]
"""


def day_before(days: int) -> str:
    return (datetime.fromtimestamp(NOW, UTC).date() - timedelta(days=days)).isoformat()


@asynccontextmanager
async def running_scene(folder: Path, site: str) -> AsyncIterator[str]:
    """Yield the origin. `site`: more lines of the section `[site]`, and the sections after it."""
    bus = MemoryBus()
    bus.now = lambda: NOW
    await _publish_figures(bus)
    await _run_fleet(bus)
    await _answer_requests(bus)
    await bus.create(KEYS, digest("k1"), encode(KEY))
    config = f"[site]\nport = 0\n{site}\n{CONFIG}"
    async with running_site(folder, config, bus, now=lambda: NOW, monotonic=lambda: 0.0) as url:
        report = Activity(gateway="gw", sent_at=NOW, machines={"h100x2-1": MachineActivity(in_flight=7)})
        await bus.publish_volatile(subjects.activity("gw"), encode(report))
        await until(lambda: bus.backlog(WAKE_HISTORY), lambda backlog: backlog == 0)
        yield url


KEY = KeyRecord(
    id="k1",
    name="ci",
    created_at=NOW - 40 * 86_400,
    owner="github:1",
    hint="x4Qe",
    requests_per_minute=60,
    monthly_tokens=50_000_000,
    expires_at=NOW + 50 * 86_400,
)
BANDS = (
    Band(
        model="qwen3-coder",
        day="2026-11-09",
        low=Decimal("2.00"),
        high=Decimal("2.50"),
        trailing_7=Decimal("2.1871"),
        trailing_28=Decimal("2.2104"),
    ),
    Band(
        model="llama-3.1-8b",
        day="2026-11-02",
        low=Decimal("0.90"),
        high=Decimal("1.00"),
        trailing_7=Decimal("0.9412"),
        trailing_28=Decimal("0.9633"),
    ),
)


async def _publish_figures(bus: MemoryBus) -> None:
    states: tuple[FigureState, ...] = ("final", "final", "final", "restated", "provisional", "provisional", "estimated")
    spends = ("764.12", "802.51", "731.90", "918.44", "771.06", "640.33", "705.27")
    tokens = (412_300_000, 431_800_000, 377_000_000, 402_100_000, 398_700_000, 301_200_000, 366_400_000)
    days: list[DayReport] = [
        replace(
            day_report(day_before(7 - i), spends[i], state=states[i], models=(*MODELS, None), tokens=tokens[i]),
            change=None,
        )
        for i in range(7)
    ]
    headline = Headline(
        period=public_period(build_period_report(days, WEIGHTS)),
        bands=tuple(map(public_band, BANDS)),
        band_tokens=1_000_000,
        at=NOW - 600,
    )
    await bus.put(REPORTS, subjects.HEADLINE_KEY, encode(headline))
    for day in days:
        await bus.put(REPORTS, subjects.public_day_key(day.day), encode(PublishedDay(figures=public_day(day), at=NOW)))
        audit = replace(_example("audit.v1", Audit), day=day.day, at=NOW)
        await bus.put(REPORTS, subjects.audit_key(day.day), encode(audit))
    for number in range(3):
        run = replace(_example("bench_run.v1", BenchRun), id=f"run-{number}", at=NOW - number * 86_400)
        direct = replace(run.gateway, rate=648.1)
        await bus.put(REPORTS, subjects.bench_key(run.id), encode(replace(run, direct=direct, published_at=run.at)))


async def _run_fleet(bus: MemoryBus) -> None:
    machines = (
        MachineRecord(
            machine="h100x2-1",
            tier="h100x2",
            state="ready",
            provider_state="running",
            endpoint="http://127.0.0.1:8001",
            generation=41,
            since=NOW - 5_420,
            reason="woken for a request for qwen3-coder",
        ),
        MachineRecord(
            machine="h100x2-2",
            tier="h100x2",
            state="asleep",
            provider_state="hibernated",
            endpoint=None,
            generation=12,
            since=NOW - 86_400,
            reason="idle for 20 minutes",
            cordoned=True,
        ),
        MachineRecord(
            machine="l4x2-1",
            tier="l4x2",
            state="waking",
            provider_state="starting",
            endpoint=None,
            generation=8,
            since=NOW - 95,
            reason="woken for a request for llama-3.1-8b",
            wake_id="w9",
            phase="loading",
            ready_at=NOW + 142,
        ),
    )
    for machine in machines:
        await bus.put(FLEET, subjects.machine_key(machine.machine), encode(machine))
    await bus.put(LEASES, subjects.WAKER_LEASE, b"waker-1")
    gate = BudgetGate(
        open=True,
        reason="",
        spend=Decimal("341.87"),
        limit=Decimal(1500),
        observed_at=NOW - 20,
        observed_age_s=1.0,
    )
    await bus.put(BUDGET, "fleet", encode(gate))
    wakes = [
        entry
        for number, seconds in enumerate((187.0, 214.0, 198.0, 342.0, 176.0, 405.0, 233.0, 209.0, 531.0, 251.0))
        for entry in whole_wake(
            NOW - (number + 1) * 40_000,
            seconds,
            wake=f"w{number}",
            machine="l4x2-1" if number % 3 == 2 else "h100x2-1",
            tier="l4x2" if number % 3 == 2 else "h100x2",
            key="k1" if number < 3 else "k2",
        )
    ]
    failed: list[Journalled] = [
        transition(NOW - 172_800, "asleep", "waking", wake="f1", machine="h100x2-2"),
        phase(NOW - 172_400, "booting", 400.0, done=False, wake="f1", machine="h100x2-2"),
        transition(NOW - 172_400, "waking", "falling_asleep", wake="f1", machine="h100x2-2"),
    ]
    for subject, data in messages([*wakes, *failed]):
        await bus.publish(subject, data)


async def _answer_requests(bus: MemoryBus) -> None:
    await bus.respond("meter", subjects.METER_TOKENS, _tokens)
    await bus.respond("meter", subjects.METER_FIGURES, _figures)
    await bus.respond("meter", subjects.METER_RESPONSES, _responses)
    await bus.respond("billing", subjects.BILLING_STATEMENT, _statement)
    await bus.respond("billing", subjects.BILLING_BANDS, _bands)
    await bus.respond("billing", subjects.BILLING_TRAIL, _trail)
    await bus.respond("billing", subjects.BILLING_INVOICES, _invoices)
    await bus.respond("waker", subjects.WAKER_COMMAND, _refuse)


async def _tokens(data: bytes) -> bytes:
    query = decode(data, TokensQuery)
    rows = []
    for number in range(5):
        sums = TokenSums(
            requests=120 + 31 * number,
            prompt_tokens=810_200 + 40_000 * number,
            cached_tokens=402_100,
            completion_tokens=96_400 + 9_000 * number,
        )
        of = {"day": day_before(number), "model": MODELS[number % 2], "key": "k1"}
        rows.append(TokensRow(dimensions={name: of[name] for name in query.by if name in of}, sums=sums))
    total = TokenSums(requests=910, prompt_tokens=4_451_000, cached_tokens=2_010_500, completion_tokens=572_000)
    return encode(Tokens(day=query.day, to=query.to, complete=True, totals=total, served=total, rows=tuple(rows)))


async def _figures(data: bytes) -> bytes:
    query = decode(data, FiguresQuery)

    def spread(p50: float, p95: float, count: int = 18_204) -> Spread:
        return Spread(count=count, mean=p50 * 1.1, p50=p50, p95=p95, p99=p95 * 1.2)

    def row(tier: str, model: str, day: str, rate: float) -> FiguresRow:
        of = {"tier": tier, "model": model, "day": day}
        pace = Pace(minutes=412, tokens=9_201_000, p50=rate * 2, p95=rate * 6, peak=rate * 8)
        return FiguresRow(
            dimensions={name: of[name] for name in query.by},
            measures={
                "ttft": spread(rate % 10 / 30 + 0.2, rate % 10 / 12 + 0.6),
                "ttft_warm": spread(0.22, 0.66),
                "ttft_cold": spread(214.0, 405.0, count=12),
                "stream_rate": spread(rate, rate * 1.08),
                "overhead": spread(0.0009, 0.0031),
            },
            output=pace,
            total=pace,
        )

    of_days = [day_before(days) for days in range(6, -1, -1)] if "day" in query.by else [""]
    rows = tuple(
        row(tier, model, day, rate + number)
        for number, day in enumerate(of_days)
        for tier, model, rate in (("h100x2", "qwen3-coder", 81.0), ("l4x2", "llama-3.1-8b", 44.0))
    )
    return encode(Figures(start=query.start, end=query.end, relative_error=0.01, rows=rows))


async def _responses(data: bytes) -> bytes:
    query = decode(data, ResponsesQuery)
    days = [day_before(days) for days in range(60, -1, -1)]
    rows = tuple(
        ResponsesRow(
            dimensions={"day": day},
            sums=ResponseSums(
                responses=4_210,
                succeeded=4_192,
                unavailable=11 - number % 7,
                timed_out=number % 3,
                failed=11 - number % 7 + number % 3,
            ),
        )
        for number, day in enumerate(days)
        if query.day <= day <= (query.to or query.day)
    )
    return encode(Responses(day=query.day, to=query.to, totals=ResponseSums(responses=1), rows=rows))


async def _statement(data: bytes) -> bytes:
    query = decode(data, StatementQuery)
    return encode(
        Statement(
            key_id=query.key_id, month=query.month, complete=False, tokens=5_023_000, amount=Decimal("11.87"), lines=()
        )
    )


async def _bands(_data: bytes) -> bytes:
    return encode(Bands(day=day_before(0), bands=BANDS))


async def _trail(data: bytes) -> bytes:
    query = decode(data, TrailQuery)
    example = _example("trail.v1.charges", Trail)
    charge = example.charges[0]
    others = (
        replace(
            charge, category="Tax", service=None, rows=1, billed=Decimal("0.4131"), amount=Decimal("0.45"), parts=()
        ),
        replace(
            charge,
            category="Credit",
            rows=1,
            billed=Decimal(-1),
            currency="USD",
            per_usd="1",
            amount=Decimal(-1),
            parts=(replace(charge.parts[0], amount=Decimal(-1)),),
        ),
    )
    charges = tuple(
        replace(one, start=f"{query.day}T00:00:00Z", end=f"{query.day}T01:00:00Z") for one in (charge, *others)
    )
    return encode(
        replace(
            example,
            day=query.day,
            revision=3,
            revisions=tuple(replace(one, revision=3, state="restated") for one in example.revisions),
            charges=charges[query.charges_from :][: query.most_charges],
            all_charges=len(charges),
        )
    )


async def _invoices(_data: bytes) -> bytes:
    example = _example("invoices.v1.sources", Invoices)
    differs = InvoiceStanding(
        source="aws",
        issuer="Amazon Web Services, Inc.",
        invoice_id="INV-2026-10",
        currency="USD",
        period_start="2026-10-01",
        period_end="2026-11-01",
        billed=Decimal("21340.11"),
        payable=Decimal("21540.00"),
        rounding=Decimal("199.89"),
        state="differs",
    )
    return encode(replace(example, standings=(differs, *example.standings), left_out=0))


async def _refuse(_data: bytes) -> bytes:
    return encode(WakerReply(accepted=False, error="its engine runs 7 requests"))


def _example(name: str, kind: type[T]) -> T:
    return decode((EXAMPLES / f"{name}.json").read_bytes(), kind)
