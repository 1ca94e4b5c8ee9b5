"""The words and the writing of figures that reports and site share."""

from decimal import ROUND_HALF_EVEN, Decimal

from shared.messages.billing import Cause, FigureState
from shared.printable import printable

CAUSE_WORDS: dict[Cause, tuple[str, str]] = {
    "serving": ("Serving", "machines with requests in flight"),
    "warm_idle": ("Warm idle", "ready, nobody asking"),
    "waking": ("Waking", "on the way to ready"),
    "failed_wake": ("Failed wakes", "woken, never ready"),
    "asleep": ("Asleep", "disks and what else bills in sleep"),
    "shared": ("Shared", "serves the whole fleet, spread over the tiers"),
    "unattributed": ("Unattributed", "charges that belong to no tier"),
    "unexplained": ("Unexplained", "billed for time that the journal does not know"),
}
STATE_WORDS: dict[FigureState, str] = {
    "estimated": "the bill is not whole yet; machine time that it lacks counts at its tier's price, if that has one",
    "provisional": "from the bill, which may still change",
    "final": "the invoices tie and the usage is complete",
    "restated": "changed after it was final",
}
BASIS = (
    "BilledCost by the UTC day of the charge, credits, refunds and adjustments in, recoverable tax beside it; "
    "all tokens of requests that were delivered, prompt and completion."
)
NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def format_decimal(number: Decimal | None) -> str:
    """Format every digit, never as `1E-12`; empty for None."""
    return "" if number is None else f"{number:f}"


def format_usd(amount: Decimal | None, places: int = 2) -> str:
    """`$1,234.50`; small amounts keep enough digits to be seen; a dash where there is none."""
    if amount is None:
        return NOTHING
    if amount and abs(amount) < Decimal("0.01"):
        places = max(places, 6, -amount.adjusted())
    rounded = abs(amount).quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN)
    return f"{MINUS if amount < 0 else ''}${rounded:,f}"


def format_count(number: int | None) -> str:
    """`1,234,567`; a dash where there is none."""
    return NOTHING if number is None else f"{number:,}"


def format_share(part: Decimal, whole: Decimal | None) -> str:
    """The part in per cent of the whole; a dash where there is no whole."""
    return f"{part / whole:.1%}" if whole else NOTHING


def shown(value: object) -> object:
    """Text from outside in one line, null as a dash; our own markup as it is. What templates do with every value."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return printable(value)
    return NOTHING if value is None else value
