"""A day's report as one HTML file that needs nothing else: no script, no font, no address."""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal

from jinja2 import Environment, PackageLoader, StrictUndefined

from shared.messages.billing import CAUSES, Cause, DayReport

WORDS: dict[Cause, tuple[str, str]] = {
    "serving": ("Serving", "machines with requests in flight"),
    "warm_idle": ("Warm idle", "ready, nobody asking"),
    "waking": ("Waking", "on the way to ready"),
    "failed_wake": ("Failed wakes", "woken, never ready"),
    "asleep": ("Asleep", "disks and what else bills in sleep"),
    "shared": ("Shared", "serves the whole fleet, spread over the tiers"),
    "unattributed": ("Unattributed", "charges that belong to no tier"),
    "unexplained": ("Unexplained", "time that the journal does not cover"),
}
STATES = {
    "estimated": "machine time at the prices of the tiers; the bill has not come for all of it",
    "provisional": "from the bill, which may still change",
    "final": "the invoices tie and the usage is complete",
    "restated": "changed after it was final",
}
NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
BAR = 260
ROW = 34


@dataclass(frozen=True)
class Bar:
    """One cause in the chart; lengths in the SVG's own units. A negative amount grows to the left of `x`."""

    label: str
    meaning: str
    amount: str
    share: str
    x: float
    width: float
    y: int
    credit: bool


def render(report: DayReport, made_at: float) -> str:
    """The file's text. `made_at` is Unix seconds; amounts are rounded to cents here, never in the report."""
    environment = Environment(
        loader=PackageLoader("services.billing", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["usd"] = usd
    environment.filters["count"] = lambda number: f"{number:,}".replace(",", " ")
    made = datetime.fromtimestamp(made_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    bars = _bars(report)
    return environment.get_template("report.html").render(
        report=report,
        bars=bars,
        state_meaning=STATES.get(report.state or "", ""),
        made=made,
        height=ROW * len(bars),
        width=BAR,
    )


def usd(amount: Decimal | None, places: int = 2) -> str:
    """`$1 234.50`; small amounts keep enough digits to be seen; a dash where there is none."""
    if amount is None:
        return NOTHING
    if amount and abs(amount) < Decimal("0.01"):
        places = 6
    rounded = abs(amount).quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN)
    return f"{MINUS if amount < 0 else ''}${f'{rounded:,}'.replace(',', ' ')}"


def _bars(report: DayReport) -> list[Bar]:
    amounts = {cause: report.causes.get(cause, Decimal(0)) for cause in CAUSES} if report.causes else {}
    low, high = min([Decimal(0), *amounts.values()]), max([Decimal(0), *amounts.values()])
    scale = Decimal(BAR) / (high - low) if high > low else Decimal(0)
    return [
        Bar(
            label=WORDS[cause][0],
            meaning=WORDS[cause][1],
            amount=usd(amount),
            share=f"{amount / report.spend:.1%}" if report.spend else NOTHING,
            x=float((min(amount, Decimal(0)) - low) * scale),
            width=float(abs(amount) * scale),
            y=number * ROW,
            credit=amount < 0,
        )
        for number, (cause, amount) in enumerate(amounts.items())
    ]
