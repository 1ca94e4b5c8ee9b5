"""`spotinference plan`: what each idle policy would have cost and who would have waited, as a replay tells."""

import time
from datetime import UTC, date, datetime
from math import inf
from pathlib import Path
from statistics import median

import click

from shared.bus.ports import Bus
from shared.bus.subjects import tier_memory_key
from shared.bus.topology import WAKER
from shared.config.sections import Config
from shared.errors import BusUnavailable, Misconfigured
from shared.messages.codec import Unreadable, decode
from shared.messages.waker import TierMemory
from spotinference.context import Context, exit_with_error, suite_options
from spotinference.plan.policies import WakeFrom, plan_of
from spotinference.plan.replay import Span
from spotinference.plan.traffic import DAY, Requests, by_tier, days_of, from_ledger, from_trace, traffic, within
from spotinference.plan.view import fields, show_plans
from spotinference.terminal import echo_json, print_line

LEDGER_DAYS = 28
"""That are asked of the ledger when no first day is named."""
WAKE_SECONDS = 180.0
"""Assumed where no wake was measured."""
TOKENS_PER_SECOND = 50.0

Wakes = dict[str, tuple[float, ...]]
"""Seconds of the last wakes, by tier."""


def _day(context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    """Its first moment."""
    if text is None:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"expected YYYY-MM-DD, got {text!r}", context, parameter) from None
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object with a list of tiers.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A CSV file with the columns time, model and tokens, instead of the ledger.",
)
@click.option("--from", "first", callback=_day, help=f"The first UTC day. [of the ledger: {LEDGER_DAYS} days ago]")
@click.option("--to", "last", callback=_day, help="The last UTC day, included.")
@click.option("--tier", "only", help="This tier alone.")
@click.option("--wake-seconds", type=click.FloatRange(0, 86400), help="A wake's time, instead of the measured one.")
@click.option(
    "--tokens-per-second",
    type=click.FloatRange(0.001),
    default=TOKENS_PER_SECOND,
    show_default=True,
    help="How fast a trace's requests are served.",
)
@suite_options
def plan(
    context: Context,
    *,
    trace: Path | None,
    first: float | None,
    last: float | None,
    only: str | None,
    wake_seconds: float | None,
    tokens_per_second: float,
    as_json: bool,
) -> None:
    """What each idle policy would have cost, and how long requests would have waited.

    Replays the ledger's requests, or a trace's, with the prices and the wake times of each tier.
    """
    config = context.config()
    if only is not None and only not in config.tiers:
        known = ", ".join(config.tiers) or "none"
        raise click.BadParameter(f"no [[tier]] is named {only!r}: there are {known}", param_hint="--tier")
    if first is not None and last is not None and last < first:
        raise click.BadParameter("it is before --from", param_hint="--to")
    until = inf if last is None else last + DAY
    if trace is not None:
        requests = within(from_trace(trace, tokens_per_second), (first or 0.0, until))
        wakes = {} if wake_seconds is not None else _measured_if_any(context, config)
    else:
        now = time.time()
        since, until = (now - LEDGER_DAYS * DAY) // DAY * DAY if first is None else first, min(until, now)
        requests, wakes = context.run_with_bus(lambda bus: _recorded(bus, config, (since, until)))
    if not requests:
        exit_with_error(f"no request is in {trace or 'the ledger'} in these days: there is nothing to replay")
    days = days_of(requests)
    span = (days[0] if first is None else first, min(until, days[1]) if last is None else until)
    served, unknown = by_tier(requests, config)
    plans = [
        plan_of(config, config.tiers[name], traffic(those, span), *_wake(wakes.get(name, ()), wake_seconds))
        for name, those in served.items()
        if only in (None, name)
    ]
    if not plans:
        whose = "any tier" if only is None else f"tier {only!r}: it is the first of no lineup that was asked for"
        exit_with_error(f"none of the {sum(map(len, requests.values())):,} requests is for {whose}")
    source = "ledger" if trace is None else str(trace)
    if as_json:
        echo_json(fields(plans, source, span, unknown))
    else:
        show_plans(plans, source, span, unknown)


async def _recorded(bus: Bus, config: Config, span: Span) -> tuple[Requests, Wakes]:
    return await from_ledger(bus, span), await _measured(bus, config)


async def _measured(bus: Bus, config: Config) -> Wakes:
    """As the waker remembers."""
    found: Wakes = {}
    for tier in config.tiers:
        entry = await bus.get(WAKER, tier_memory_key(tier))
        if entry is not None:
            try:
                found[tier] = decode(entry.value, TierMemory).wakes
            except Unreadable as error:
                print_line(f"spotinference: what is remembered of tier {tier} cannot be read: {error}", err=True)
    return found


def _measured_if_any(context: Context, config: Config) -> Wakes:
    """A trace can be replayed where no suite runs."""
    try:
        return context.run_with_bus(lambda bus: _measured(bus, config))
    except (BusUnavailable, Misconfigured):
        return {}


def _wake(measured: tuple[float, ...], given: float | None) -> tuple[float, WakeFrom]:
    """How long a wake takes, and how that is known."""
    if given is not None:
        return given, "given"
    return (median(measured), "measured") if measured else (WAKE_SECONDS, "assumed")
