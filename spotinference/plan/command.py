"""The command `plan`."""

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
from shared.units import DAY_S
from spotinference.context import Context, exit_with_error, suite_options
from spotinference.option_types import DayParam
from spotinference.plan.policies import WakeFrom, plan_tier
from spotinference.plan.replay import Span
from spotinference.plan.traffic import (
    Requests,
    day_span,
    group_by_tier,
    read_ledger,
    read_trace,
    requests_within,
    traffic,
)
from spotinference.plan.view import plan_json, print_plans
from spotinference.terminal import echo_json, print_line

LEDGER_DAYS = 28
"""Days read from the ledger without --from."""
ASSUMED_WAKE_SECONDS = 180.0
"""Assumed if no wake was measured."""
TOKENS_PER_SECOND = 50.0

WakeTimes = dict[str, tuple[float, ...]]
"""Durations of the last wakes in seconds, by tier."""


def _start_of_day(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float | None:
    """Return the start of the UTC day in Unix seconds."""
    if text is None:
        return None
    day = date.fromisoformat(text)
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="CSV file with the columns time, model and tokens, instead of the ledger.",
)
@click.option(
    "--from",
    "first",
    type=DayParam(),
    callback=_start_of_day,
    help=f"First UTC day.  [default: {LEDGER_DAYS} days ago, or the trace's first day]",
)
@click.option("--to", "last", type=DayParam(), callback=_start_of_day, help="Last UTC day, inclusive.")
@click.option("--tier", "only_tier", help="Show one tier only.")
@click.option(
    "--wake-seconds", type=click.FloatRange(0, DAY_S), help="Duration of a wake, instead of the measured one."
)
@click.option(
    "--tokens-per-second",
    type=click.FloatRange(0.001),
    default=TOKENS_PER_SECOND,
    show_default=True,
    help="Speed at which the requests of a trace are served.",
)
@suite_options
def plan(
    context: Context,
    *,
    trace: Path | None,
    first: float | None,
    last: float | None,
    only_tier: str | None,
    wake_seconds: float | None,
    tokens_per_second: float,
    as_json: bool,
) -> None:
    """Compare idle policies: what each would have cost, and how long requests would have waited.

    Replays the requests in the ledger, or in a trace, with the prices and the wake times of each tier.
    """
    config = context.config()
    if only_tier is not None and only_tier not in config.tiers:
        known = ", ".join(config.tiers) or "none"
        raise click.BadParameter(
            f"no [[tier]] is named {only_tier!r}; the configured tiers are {known}", param_hint="--tier"
        )
    if first is not None and last is not None and last < first:
        raise click.BadParameter("is before --from", param_hint="--to")
    until = inf if last is None else last + DAY_S
    if trace is not None:
        requests = requests_within(read_trace(trace, tokens_per_second), (first or 0.0, until))
        wakes = {} if wake_seconds is not None else _read_wake_times_if_any(context, config)
    else:
        now = time.time()
        since, until = (now - LEDGER_DAYS * DAY_S) // DAY_S * DAY_S if first is None else first, min(until, now)
        requests, wakes = context.run_with_bus(lambda bus: _read_recorded(bus, config, (since, until)))
    if not requests:
        exit_with_error(f"no requests in {trace or 'the ledger'} in these days: nothing to replay")
    days = day_span(requests)
    span = (days[0] if first is None else first, min(until, days[1]) if last is None else until)
    served, unknown = group_by_tier(requests, config)
    plans = [
        plan_tier(config, config.tiers[name], traffic(those, span), *_wake(wakes.get(name, ()), wake_seconds))
        for name, those in served.items()
        if only_tier in (None, name)
    ]
    if not plans:
        whose = (
            "any tier"
            if only_tier is None
            else f"tier {only_tier!r}: it is not first in the lineup of any requested model"
        )
        exit_with_error(f"none of the {sum(map(len, requests.values())):,} requests is for {whose}")
    source = "ledger" if trace is None else str(trace)
    if as_json:
        echo_json(plan_json(plans, source, span, unknown))
    else:
        print_plans(plans, source, span, unknown)


async def _read_recorded(bus: Bus, config: Config, span: Span) -> tuple[Requests, WakeTimes]:
    return await read_ledger(bus, span), await _read_wake_times(bus, config)


async def _read_wake_times(bus: Bus, config: Config) -> WakeTimes:
    """Return the wake times that the waker has stored."""
    wake_times: WakeTimes = {}
    for tier in config.tiers:
        entry = await bus.get(WAKER, tier_memory_key(tier))
        if entry is not None:
            try:
                wake_times[tier] = decode(entry.value, TierMemory).wakes
            except Unreadable as error:
                print_line(f"spotinference: skipped the wake times of tier {tier}: {error}", err=True)
    return wake_times


def _read_wake_times_if_any(context: Context, config: Config) -> WakeTimes:
    """Return the stored wake times, or none if no services run: a trace can be replayed without them."""
    try:
        return context.run_with_bus(lambda bus: _read_wake_times(bus, config))
    except (BusUnavailable, Misconfigured):
        return {}


def _wake(measured: tuple[float, ...], option_s: float | None) -> tuple[float, WakeFrom]:
    """Return the duration of a wake in seconds, and where it is from."""
    if option_s is not None:
        return option_s, "given"
    return (median(measured), "measured") if measured else (ASSUMED_WAKE_SECONDS, "assumed")
