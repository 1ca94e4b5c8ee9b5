"""The command `journal`."""

from collections.abc import Iterable, Sequence
from contextlib import suppress

import click

from shared.bus.ports import Bus, Received
from shared.bus.subjects import journal as journal_subject
from shared.bus.topology import FLEET_JOURNAL
from spotinference.context import Context, suite_options
from spotinference.journal.follower import ALL_SUBJECTS, decode_entries, follow_journal
from spotinference.journal.view import print_json, print_text
from spotinference.keys.store import read_key_names
from spotinference.option_types import TimeParam
from spotinference.terminal import print_line


@click.command()
@click.option("--machine", help="Show one machine only. A command to wake a model is listed under the model's name.")
@click.option("--since", type=TimeParam(), help="Show entries from then on: 2h for the last two hours, or RFC 3339.")
@click.option("--limit", type=click.IntRange(min=1), help="Show the newest entries only, at most this many.")
@click.option("--follow", is_flag=True, help="Keep printing new entries until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@suite_options
def journal(
    context: Context, *, machine: str | None, since: float | None, limit: int | None, follow: bool, as_json: bool
) -> None:
    """Show the transitions, phases, provider calls, commands and budget gate changes, oldest first."""
    subject = journal_subject(machine) if machine else ALL_SUBJECTS
    print_entry = print_json if as_json else print_text
    names: dict[str, str] = {}

    async def read(bus: Bus) -> Sequence[Received]:
        names.update(await read_key_names(bus))
        return await bus.read(FLEET_JOURNAL, subject)

    async def keep_reading(bus: Bus) -> None:
        names.update(await read_key_names(bus))  # a key created later is shown by its id
        await follow_journal(bus, subject, print_entries, limit)

    def print_entries(messages: Iterable[Received], limit: int | None = None) -> int:
        entries = [entry for entry in decode_entries(messages) if since is None or entry.at >= since]
        newest = entries if limit is None else entries[-limit:]
        for entry in newest:
            print_entry(entry, names)
        return len(newest)

    if follow:
        with suppress(KeyboardInterrupt):
            context.run_with_bus(keep_reading)
    elif print_entries(context.run_with_bus(read), limit) == 0:
        print_line("no entries: `spotinference fleet` lists the machines", err=True)
