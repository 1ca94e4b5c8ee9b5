"""What pages, JSON and CSV show equals an oracle's figures from the raw invoice files and the ledger."""

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from services.billing import wiring as billing_wiring
from services.meter.wiring import service as meter_service
from shared.bus import subjects, topology
from shared.bus.memory import MemoryBus
from shared.bus.ports import Bus, Entry
from shared.config.load import parse
from shared.messages.billing import DayReport, ReportQuery
from shared.messages.codec import decode, encode
from shared.messages.gateway import Activity, UsageEvent
from shared.messages.invoices import DeliveredFile, ImportAnswer, ImportRequest
from shared.messages.meter import Tokens, TokensQuery
from shared.messages.public import Headline
from shared.messages.waker import Transition
from shared.runtime.process import Runtime
from tests.integration.billing.billing_service import leading, replica
from tests.integration.site.books_oracle import (
    Day,
    Machine,
    Oracle,
    Where,
    band,
    moment,
    read_bill,
    read_ledger,
    rounded,
)
from tests.kit.site import running_site
from tests.kit.usage import send
from tests.kit.waiting import until
from tests.unit.billing.cost_row_builders import focus_csv

SOURCE = "gateway-1.boot-1"
NOW = float(moment("2026-05-12T12:00:00Z"))
LAST = "2026-05-11"
NO_INVOICE, NO_TOKENS, REVISED, CREDITED, REFUNDED = (
    "2026-05-03",
    "2026-05-06",
    "2026-05-07",
    "2026-05-08",
    "2026-05-09",
)
STEPS = ("0.05", "0.10", "0.50", "1", "1.50", "2", "3", "5")
TOLERANCE = Fraction(1, 10**10)
"""Of an amount that was split or converted: each step rounds to 10⁻¹² USD."""
CONFIG = (
    f"""
[site]
port = 0
[meter]
source_silence = "60s"
[billing]
band_steps = {list(STEPS)}
[[billing.rate]]
currency = "EUR"
per_usd = "0.92"
from = "2026-01-01"
source = "test"
""".replace("'", '"')
    + "".join(
        f"""
[[tier]]
name = "{name}"
provider = "static"
[[machine]]
id = "{name.lower()}-1"
tier = "{name}"
instance = "i-{name.lower()}"
resources = ["vol-{name.lower()}"]
endpoint = "http://127.0.0.1:9"
[[model]]
name = "{model}"
lineup = ["{name}"]
"""
        for name, model in (("A", "m"), ("B", "n"))
    )
)
MACHINES = {
    "a-1": Machine(
        "A",
        "i-a",
        "vol-a",
        [
            ("2026-05-01T00:00:00Z", "asleep"),
            ("2026-05-03T00:00:00Z", "ready"),
            ("2026-05-04T00:00:00Z", "asleep"),
            ("2026-05-05T08:00:00Z", "waking"),
            ("2026-05-05T08:06:00Z", "ready"),
            ("2026-05-05T12:00:00Z", "falling_asleep"),
            ("2026-05-05T12:05:00Z", "asleep"),
            ("2026-05-05T14:00:00Z", "waking"),
            ("2026-05-05T14:10:00Z", "asleep"),
            ("2026-05-11T00:00:00Z", "ready"),
            ("2026-05-12T00:00:00Z", "asleep"),
        ],
    ),
    "b-1": Machine(
        "B",
        "i-b",
        "vol-b",
        [
            ("2026-05-01T00:00:00Z", "asleep"),
            ("2026-05-07T00:00:00Z", "ready"),
            ("2026-05-12T00:00:00Z", "asleep"),
        ],
    ),
}
REQUESTS = [
    # end, seconds, machine, model, prompt, cached, completion, outcome
    ("2026-05-03T10:00:00Z", 60, "a-1", "m", 900_000, 0, 100_000, "completed"),
    ("2026-05-05T10:30:00Z", 5400, "a-1", "m", 3_000_000, 1_000_000, 500_000, "completed"),
    ("2026-05-05T11:00:00Z", 7, "a-1", "m", 7_000, 0, 777, "failed"),
    ("2026-05-07T06:00:00Z", 3600, "b-1", "n", 2_000_000, 1, 300_000, "completed"),
    ("2026-05-08T06:00:00Z", 1800, "b-1", "n", 1_400_000, 300_000, 100_001, "client_closed"),
    ("2026-05-09T06:00:00Z", 1800, "b-1", "n", 800_000, 0, 100_000, "completed"),
    ("2026-05-10T06:00:00Z", 3000, "b-1", "n", 1_000_000, 0, 100_000, "completed"),
    ("2026-05-11T06:00:00Z", 3600, "a-1", "m", 10**12, 0, 7, "completed"),
    ("2026-05-11T07:00:00Z", 60, "b-1", "n", 900_000, 0, 100_000, "completed"),
]


def of_day(day: str, cost: str, resource: str, to: str = "", **more: str) -> dict[str, str]:
    end = to or f"2026-05-{int(day[-2:]) + 1:02}"
    period = {"ChargePeriodStart": f"{day}T00:00:00Z", "ChargePeriodEnd": f"{end}T00:00:00Z"}
    return {"BilledCost": cost, "EffectiveCost": cost, "ResourceId": resource, **period, **more}


def of_hour(hour: int, cost: str) -> dict[str, str]:
    period = {
        "ChargePeriodStart": f"2026-05-05T{hour:02}:00:00Z",
        "ChargePeriodEnd": f"2026-05-05T{hour + 1:02}:00:00Z",
    }
    return of_day("2026-05-05", cost, "i-a") | period


def cloud_bill(revised: str) -> bytes:
    return focus_csv(
        *(of_hour(hour, "2.401") for hour in (8, 9, 10, 11, 12)),
        of_hour(14, "1.70"),
        of_hour(20, "0.31"),
        of_day("2026-05-05", "1.00", "vol-a", ServiceCategory="Storage"),
        of_day("2026-05-05", "3.00", "nat-1", ServiceCategory="Networking"),
        of_day("2026-05-05", "10.00", "nat-1", to="2026-05-08", ServiceCategory="Networking"),
        of_day("2026-05-05", "0.55", "nat-1", ServiceCategory="Networking", ChargeCategory="Tax"),
        of_day("2026-05-05", "0.70", "i-other"),
        of_day(NO_TOKENS, "1.00", "vol-a", ServiceCategory="Storage"),
        of_day(REVISED, revised, "i-b"),
        of_day(CREDITED, "5.00", "i-b"),
        of_day(CREDITED, "-2.00", "i-b", ChargeCategory="Credit"),
        of_day(REFUNDED, "5.00", "i-b"),
        of_day(REFUNDED, "-9.13", "i-b"),
        of_day(LAST, "57.60", "i-a"),
        of_day(LAST, "3.00", "i-b"),
    )


EURO = {"BillingCurrency": "EUR", "InvoiceIssuerName": "Euro Cloud"}
EURO_BILL = focus_csv(
    *(of_day("2026-05-10", cost, "i-b", **EURO) for cost in ("4.60", "0.011", "0.017")),
    of_day("2026-05-10", "0.33", "vol-b", ServiceCategory="Storage", **EURO),
)


@dataclass(frozen=True)
class Shown:
    """The running site, and the oracle of what it is to show."""

    http: aiohttp.ClientSession
    oracle: Oracle

    async def text(self, path: str) -> str:
        async with self.http.get(path) as response:
            assert response.status == 200, path
            return await response.text()

    async def json(self, path: str) -> dict[str, Any]:
        async with self.http.get(f"{path}.json") as response:
            fields: dict[str, Any] = await response.json()
            return fields

    async def table(self, path: str) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(await self.text(f"{path}.csv"))))


@pytest.fixture
async def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shown]:
    """Meter, billing and site; the bill is delivered twice, and the books are published by a second process."""
    config, bus = parse(CONFIG, "test.toml"), MemoryBus()
    for service in ("meter", "billing", "site"):
        (tmp_path / service).mkdir()
    cloud, euro = tmp_path / "cloud.csv", tmp_path / "euro.csv"
    euro.write_bytes(EURO_BILL)
    meter = Runtime(service="meter", config=config, data_dir=tmp_path / "meter", bus=bus, port=None, now=lambda: NOW)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(meter_service(meter))
        stack.push_async_callback(meter.cancel_tasks)
        async with replica(tmp_path / "billing", config, bus, NOW) as billing:
            await until(lambda: leading(billing), bool)
            await publish_facts(bus, billing)
            await deliver(bus, "euro", EURO_BILL)
            for revised in ("4.00", "4.50"):
                cloud.write_bytes(cloud_bill(revised))
                await deliver(bus, "cloud", cloud_bill(revised))
                query = encode(ReportQuery(day=REVISED))
                decode(await bus.request(subjects.BILLING_REPORT, query, timeout=30), DayReport)
        monkeypatch.setattr(billing_wiring, "DAILY_SECONDS", 0.1)
        billing = await stack.enter_async_context(replica(tmp_path / "billing", config, bus, NOW))
        await until(lambda: bus.get(topology.REPORTS, subjects.HEADLINE_KEY), has_bands)
        url = await stack.enter_async_context(running_site(tmp_path / "site", CONFIG, bus, lambda: NOW))
        http = await stack.enter_async_context(aiohttp.ClientSession(url))
        ledger = read_ledger(tmp_path / "meter" / "ledger.sqlite")
        assert len(ledger) == len(REQUESTS)
        rates = {"USD": Fraction(1), "EUR": Fraction("0.92")}
        yield Shown(http, Oracle([*read_bill(cloud), *read_bill(euro)], ledger, [*MACHINES.values()], rates))


async def publish_facts(bus: Bus, billing: Runtime) -> None:
    """Publish the journal and the usage, and return when both services have all of it."""
    moves = [(at, machine, state) for machine, its in MACHINES.items() for at, state in its.moves]
    for number, (at, machine, state) in enumerate(sorted(moves)):
        entry = Transition(
            at=float(moment(at)),
            machine=machine,
            tier=MACHINES[machine].tier,
            from_state=None,
            to_state=state,  # type: ignore[arg-type]  # one of the states
            reason="test",
            generation=number,
        )
        await bus.publish(subjects.journal(machine), encode(entry))
    events = [usage_event(number, request) for number, request in enumerate(REQUESTS, 1)]
    await send(bus, *events)
    leaving = Activity(gateway=SOURCE, sent_at=NOW, machines={}, leaving=True, written=len(events))
    await bus.publish_volatile(subjects.activity(SOURCE), encode(leaving))

    async def transitions() -> float:
        return billing.registry.get_sample_value("spot_billing_transitions_total") or 0.0

    async def is_counted() -> bool:
        days = encode(TokensQuery(day="2026-05-01", to=LAST))
        tokens = decode(await bus.request(subjects.METER_TOKENS, days, timeout=30), Tokens)
        return tokens.complete and tokens.totals.requests == len(events)

    await until(transitions, lambda read: read >= len(moves))
    await until(is_counted, bool)


def usage_event(number: int, request: tuple[str, int, str, str, int, int, int, Any]) -> UsageEvent:
    end, seconds, machine, model, prompt, cached, completion, outcome = request
    return UsageEvent(
        id=f"{SOURCE}/{number}",
        source=SOURCE,
        source_seq=number,
        completed_at=float(moment(end)),
        key_id="k",
        model=model,
        tier=MACHINES[machine].tier,
        machine=machine,
        generation=1,
        prompt_tokens=prompt,
        cached_tokens=cached,
        completion_tokens=completion,
        reasoning_tokens=0,
        basis="engine",
        outcome=outcome,
        status=200,
        streamed=True,
        wake_wait=0.0,
        wake_id=None,
        first_token=0.125,
        duration=float(seconds),
        overhead=0.0,
    )


async def deliver(bus: Bus, source: str, data: bytes) -> None:
    sha256 = hashlib.sha256(data).hexdigest()
    await bus.put_object(topology.INVOICES, sha256, data)
    request = ImportRequest(source=source, files=(DeliveredFile(name=f"{source}.csv", sha256=sha256),))
    answer = decode(await bus.request(subjects.BILLING_IMPORT, encode(request), timeout=30), ImportAnswer)
    assert not answer.refusals, answer.refusals


def has_bands(entry: Entry | None) -> bool:
    return entry is not None and all(band.high is not None for band in decode(entry.value, Headline).bands)


def is_near(shown: str | None, expected: Fraction) -> bool:
    return shown is not None and abs(Fraction(shown) - expected) <= TOLERANCE * max(Fraction(1), abs(expected))


def are_near(parts: Mapping[Where, Fraction], expected: Mapping[Where, Fraction]) -> bool:
    nothing = Fraction(0)
    return all(
        abs(parts.get(where, nothing) - expected.get(where, nothing)) <= TOLERANCE for where in {*parts, *expected}
    )


def check_figures(figures: dict[str, Any], days: list[Day]) -> None:
    """Compare all figures of a day, or of several as one."""
    spend, tokens = sum((day.spend for day in days), Fraction(0)), sum(day.tokens for day in days)
    assert is_near(figures["spend"], spend)
    assert figures["tokens"] == tokens
    if tokens:
        exact = rounded(Fraction(figures["spend"]) * 10**6 / tokens)
        assert Decimal(figures["usd_per_mtok"]) == exact
        assert is_near(figures["usd_per_mtok"], spend * 10**6 / tokens)
    else:
        assert (figures["usd_per_mtok"], figures["reason"]) == (None, "no_tokens")
    assert is_near(figures["tax"], sum((day.tax for day in days), Fraction(0)))
    causes, tiers = defaultdict[str, Fraction](Fraction), defaultdict[str, Fraction](Fraction)
    for day in days:
        for cause, amount in day.causes().items():
            causes[cause] += amount
        for tier, amount in day.tiers().items():
            tiers[tier] += amount
    assert not [cause for cause, shown in figures["causes"].items() if not is_near(shown, causes[cause])]
    assert sum(map(Decimal, figures["causes"].values())) == Decimal(figures["spend"])
    assert not [tier["tier"] for tier in figures["tiers"] if not is_near(tier["spend"], tiers[tier["tier"]])]


@pytest.mark.long  # 4 s
async def test_every_public_figure_is_the_oracles(shown: Shown) -> None:
    days = shown.oracle.days(LAST, 28)
    await check_economics(shown, days[-7:])
    for day in days[-7:]:
        await check_day(shown, day)
    await check_pricing(shown, days)
    figures = (await shown.json(f"/economics/{NO_INVOICE}"))["figures"]
    assert (figures["spend"], figures["usd_per_mtok"], figures["tokens"]) == (None, None, 1_000_000)
    html = await shown.text(f"/economics/{NO_INVOICE}")
    assert "not known" in html
    assert "$0" not in html


async def check_economics(shown: Shown, days: list[Day]) -> None:
    period = (await shown.json("/economics"))["period"]
    assert (period["from"], period["to"]) == (days[0].name, LAST)
    check_figures(period, days)
    for figures, day in zip(period["days"], days, strict=True):
        check_figures(figures, [day])
    rows = await shown.table("/economics")
    for row, figures in zip(rows, [*period["days"], period], strict=True):
        values = [figures[name] for name in ("spend", "tokens", "usd_per_mtok", "tax", "reason")]
        names = ("spend_usd", "tokens", "usd_per_mtok", "tax_usd", "reason")
        assert [row[name] for name in names] == ["" if value is None else str(value) for value in values]
        assert {cause: row[f"{cause}_usd"] for cause in figures["causes"]} == figures["causes"]
    ratio = sum((day.spend for day in days), Fraction(0)) * 10**6 / sum(day.tokens for day in days)
    for path in ("/", "/economics"):
        assert f"${rounded(ratio, 4) if ratio >= Fraction(1, 100) else rounded(ratio, 6)}" in await shown.text(path), (
            path
        )


async def check_day(shown: Shown, day: Day) -> None:
    path = f"/economics/{day.name}"
    page = await shown.json(path)
    figures, trail = page["figures"], page["trail"]
    check_figures(figures, [day])
    for name in ("input", "cached", "output"):
        expected, ratio = day.direction(name), figures["directions"][name]["usd_per_mtok"]
        assert ratio is None if expected is None else is_near(ratio, expected)
    assert [one["revision"] for one in trail["revisions"]] == ([2, 1] if day.name == REVISED else [1])
    assert trail["revision"] == figures["revision"]
    html = await shown.text(path)
    for exact in (figures["spend"], figures["usd_per_mtok"] or "none without tokens"):
        assert f"<td>{exact}</td>" in html
    if day.spend < 0:
        assert f"\N{MINUS SIGN}${-rounded(day.spend, 2)}" in html
    await check_charges(shown, day, figures)


async def check_charges(shown: Shown, day: Day, figures: dict[str, Any]) -> None:
    """Take a calculator: single charges sum to causes, tiers and spend, and each is the oracle's."""
    page = await shown.json(f"/economics/{day.name}/charges/1")
    rows = await shown.table(f"/economics/{day.name}/charges/1")
    expected: list[tuple[Fraction, dict[Where, Fraction]]] = [(day.amount(row), parts) for row, parts in day.parts()]
    expected += [(day.amount(row), {}) for row in day.rows if row["ChargeCategory"] == "Tax"]
    assert page["all_charges"] == len(expected)
    for charge in page["charges"]:
        parts = {(part["tier"], part["cause"]): Fraction(part["amount"]) for part in charge["parts"]}
        alike = [one for one in expected if is_near(charge["amount"], one[0]) and are_near(parts, one[1])]
        assert alike, charge
        expected.remove(alike[0])
    of_causes = {cause: sum(Decimal(row[f"{cause}_usd"] or 0) for row in rows) for cause in figures["causes"]}
    assert of_causes == {cause: Decimal(amount) for cause, amount in figures["causes"].items()}
    untaxed = [Decimal(row["amount_usd"]) for row in rows if row["category"] != "Tax"]
    assert sum(untaxed) == Decimal(figures["spend"])
    if day.tokens:
        assert rounded(Fraction(sum(untaxed)) * 10**6 / day.tokens) == Decimal(figures["usd_per_mtok"])


async def check_pricing(shown: Shown, days: list[Day]) -> None:
    steps = [*map(Fraction, STEPS)]
    for one, row in zip((await shown.json("/pricing"))["bands"], await shown.table("/pricing"), strict=True):
        tier = {"m": "A", "n": "B"}[one["model"]]
        expected = band(days, tier, one["model"], steps)
        assert (Fraction(one["low"]), Fraction(one["high"])) == expected
        assert (row["above_usd_per_mtok"], row["to_usd_per_mtok"]) == (one["low"], one["high"])
        assert f"${rounded(expected[0], 2)} to ${rounded(expected[1], 2)}" in await shown.text("/pricing")
