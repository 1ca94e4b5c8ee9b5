"""`spotinference journal`: all that was done with the machines, the oldest first."""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime

import click

from shared.bus.ports import Bus, Received
from shared.bus.subjects import journal as journal_of
from shared.bus.topology import FLEET_JOURNAL
from shared.config.values import Duration
from spotinference.context import Context, suite_options
from spotinference.journal.follower import ALL_SUBJECTS, decode_entries, follow_journal
from spotinference.journal.view import print_json, print_text
from spotinference.keys.store import read_key_names


class Moment(click.ParamType[float]):
    """Unix seconds: an RFC 3339 time, or a duration before now."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value)
        with suppress(ValueError):
            return time.time() - Duration.parse(text)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail(
                f"expected a time such as 2027-01-31T12:00:00Z or a duration such as 2h, got {text!r}", param, ctx
            )
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


@click.command()
@click.option("--machine", help="Only of this one; the orders to wake a model go by the model's name.")
@click.option("--since", type=Moment(), help="Only from then on: 2h for the last two hours, or an RFC 3339 time.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the newest so many.")
@click.option("--follow", is_flag=True, help="Go on with what happens next. Ctrl-C ends it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, the oldest first.")
@suite_options
def journal(
    context: Context, *, machine: str | None, since: float | None, limit: int | None, follow: bool, as_json: bool
) -> None:
    """Every transition, phase, provider call and order, and each turn of a budget gate, the oldest first."""
    subject = journal_of(machine) if machine else ALL_SUBJECTS
    tell = print_json if as_json else print_text
    names: dict[str, str] = {}

    async def read(bus: Bus) -> Sequence[Received]:
        names.update(await read_key_names(bus))
        return await bus.read(FLEET_JOURNAL, subject)

    async def go_on(bus: Bus) -> None:
        names.update(await read_key_names(bus))  # a key made later stands there by its id
        await follow_journal(bus, subject, told, limit)

    def told(found: Iterable[Received], limit: int | None = None) -> None:
        entries = (entry for entry in decode_entries(found) if since is None or entry.at >= since)
        for entry in entries if limit is None else deque(entries, limit):
            tell(entry, names)

    if follow:
        with suppress(KeyboardInterrupt):
            context.run_with_bus(go_on)
    else:
        told(context.run_with_bus(read), limit)
