"""The result of `plan` as JSON and as tables."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from rich.table import Table

from shared.messages.codec import rfc3339
from spotinference.plan.policies import PolicyResult, TierPlan, WakeFrom
from spotinference.plan.replay import Span
from spotinference.terminal import Screen, print_table

WAKE_SOURCE: Mapping[WakeFrom, str] = {
    "measured": "the median of the last wakes",
    "given": "from --wake-seconds",
    "assumed": "assumed, since none was measured: set it with --wake-seconds",
}
LEGEND = (
    "* is the configured policy. Waits are quantiles over all requests.",
    "One machine serves the tier. It is asleep at the start, and wakes are billed.",
    "clairvoyant knows the future: it sleeps through gaps longer than a wake and is ready at their end.",
)


def plan_json(plans: Sequence[TierPlan], source: str, span: Span, unknown: Mapping[str, int]) -> dict[str, Any]:
    """Times are RFC 3339, durations seconds, money USD as decimals in strings."""
    return {
        "source": source,
        "from": rfc3339(span[0]),
        "to": rfc3339(span[1]),
        "unknown_models": dict(unknown),
        "tiers": [
            {
                "tier": plan.tier.name,
                "requests": plan.requests,
                "tokens": plan.tokens,
                "most_at_once": plan.peak_concurrency,
                "wake_seconds": round(plan.wake, 3),
                "wake_seconds_from": plan.wake_from,
                "price_per_hour": None if plan.tier.price_per_hour is None else str(plan.tier.price_per_hour),
                "asleep_price_per_hour": str(plan.tier.asleep_price_per_hour),
                "policies": [_row_fields(row) for row in plan.rows],
            }
            for plan in plans
        ],
    }


def _row_fields(row: PolicyResult) -> dict[str, Any]:
    outcome = row.outcome
    return {
        "policy": row.policy,
        "timeout_seconds": None if row.timeout is None else round(row.timeout, 3),
        "configured": row.configured,
        "cost": row.cost,
        "waiting_cost": row.waiting_cost,
        "hours_awake": round(outcome.awake / 3600, 4),
        "hours_asleep": round(outcome.asleep / 3600, 4),
        "wakes": outcome.wakes,
        "requests_waited": len(outcome.waits),
        "wait_p50": round(outcome.wait(0.50), 3),
        "wait_p95": round(outcome.wait(0.95), 3),
        "wait_p99": round(outcome.wait(0.99), 3),
    }


def print_plans(plans: Sequence[TierPlan], source: str, span: Span, unknown: Mapping[str, int]) -> None:
    console = Screen()
    console.print(f"{source}, {_minute(span[0])} to {_minute(span[1])} UTC")
    for plan in plans:
        print_table(_table(plan))
        for note in _notes(plan):
            console.print(f"  {note}")
    for rule in LEGEND:
        console.print(rule, style="dim")
    for model, count in unknown.items():
        console.print(f"Not replayed, because no tier serves {model!r}: {count:,} requests")


def _table(plan: TierPlan) -> Table:
    title = f"{plan.tier.name}: {plan.requests:,} requests, {plan.tokens:,} tokens"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("policy", no_wrap=True)
    waiting = any(row.waiting_cost for row in plan.rows)
    money = ["USD", "waiting"] if waiting else ["USD"]
    for name in (*money, "awake h", "wakes", "waited", "P50 s", "P95 s", "P99 s"):
        table.add_column(name, justify="right")
    for row in plan.rows:
        outcome = row.outcome
        costs = [_usd(row.cost), _usd(row.waiting_cost)] if waiting else [_usd(row.cost)]
        table.add_row(
            _name(row),
            *costs,
            f"{outcome.awake / 3600:,.1f}",
            f"{outcome.wakes:,}",
            f"{len(outcome.waits):,}",
            *(f"{outcome.wait(quantile):,.0f}" for quantile in (0.50, 0.95, 0.99)),
            style="bold" if row.configured else None,
        )
    return table


def _notes(plan: TierPlan) -> list[str]:
    notes = [f"a wake takes {plan.wake:g} s, {WAKE_SOURCE[plan.wake_from]}"]
    if plan.tier.price_per_hour is None:
        notes.append("no price_per_hour: costs are unknown, and break_even is the fixed timeout")
    else:
        notes.append(f"${plan.tier.price_per_hour} per hour awake, ${plan.tier.asleep_price_per_hour} asleep")
    if any(row.waiting_cost for row in plan.rows):
        notes.append("waiting: USD for the minutes in which requests wait, at wait_price_per_minute")
    if plan.peak_concurrency > plan.tier.max_concurrency:
        notes.append(
            f"up to {plan.peak_concurrency:,} concurrent requests, more than its max_concurrency of"
            f" {plan.tier.max_concurrency:,}: one machine would not have been enough"
        )
    if not plan.tier.traits.can_sleep:
        notes.append("its machines never sleep; the figures assume that they do")
    return notes


def _name(row: PolicyResult) -> str:
    length = "" if row.timeout is None else f" {_duration(row.timeout)}"
    return f"{row.policy}{length}{' *' if row.configured else ''}"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds % 60 == 0 else f"{seconds:.4g} s"


def _usd(amount: Decimal | None) -> str:
    return "-" if amount is None else f"{amount:,.2f}"


def _minute(moment: float) -> str:
    return rfc3339(moment)[:16].replace("T", " ")
