"""`spotinference fleet` and `journal`: the machines as they are, and all that was done with them."""

import asyncio
import time

import click
import msgspec
from rich.table import Table

from shared.bus.jetstream import JetStreamBus
from shared.bus.ports import Received
from shared.bus.subjects import ACTIVITIES
from shared.bus.topology import FLEET, FLEET_JOURNAL
from shared.messages.codec import decode, rfc3339
from shared.messages.gateway import Activity
from shared.messages.waker import JournalEntry, MachineRecord, ProviderCall, Transition
from spotinference.context import Context, echo_json, show, suite_options

LISTEN_SECONDS = 2.2
"""Gateways tell their activity every 2 s: within this each has spoken once."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object with a list of machines.")
@suite_options
def fleet(context: Context, *, as_json: bool) -> None:
    """The machines: state, phase, ETA, requests in flight."""
    records, in_flight = context.on_bus(_read)
    now = time.time()
    rows = [
        {
            "id": r.machine,
            "tier": r.tier,
            "state": r.state,
            "provider_state": r.provider_state,
            "endpoint": r.endpoint,
            "phase": r.phase,
            "eta_seconds": None if r.ready_at is None else max(0, round(r.ready_at - now)),
            "in_flight": in_flight.get(r.machine, 0),
            "since": rfc3339(r.since),
        }
        for r in sorted(records, key=lambda record: record.machine)
    ]
    if as_json:
        echo_json({"machines": rows})
        return
    table = Table("machine", "tier", "state", "phase", "eta", "in flight", "since", "endpoint")
    for row in rows:
        names = ("id", "tier", "state", "phase", "eta_seconds", "in_flight", "since", "endpoint")
        table.add_row(*("" if row[name] is None else str(row[name]) for name in names))
    show(table)


async def _read(bus: JetStreamBus) -> tuple[list[MachineRecord], dict[str, int]]:
    heard: dict[str, Activity] = {}

    async def on_activity(received: Received) -> None:
        activity = decode(received.data, Activity)
        heard[activity.gateway] = activity

    listening = await bus.subscribe(ACTIVITIES, on_activity)
    await asyncio.sleep(LISTEN_SECONDS)
    await listening.stop()
    in_flight: dict[str, int] = {}
    for activity in heard.values():
        for machine, use in activity.machines.items():
            in_flight[machine] = in_flight.get(machine, 0) + use.in_flight
    return [decode(entry.value, MachineRecord) for entry in (await bus.entries(FLEET)).values()], in_flight


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, the oldest first.")
@suite_options
def journal(context: Context, *, as_json: bool) -> None:
    """Every transition of a machine and every call to a provider, the oldest first."""
    entries = context.on_bus(journal_entries)
    for entry in entries:
        if as_json:
            echo_json(_row(entry))
        else:
            click.echo(_line(entry))


async def journal_entries(bus: JetStreamBus) -> list[JournalEntry]:
    """The whole journal, the oldest first."""
    decoder = msgspec.json.Decoder(JournalEntry)
    return [decoder.decode(received.data) for received in await bus.read(FLEET_JOURNAL)]


def _row(entry: JournalEntry) -> dict[str, object]:
    common: dict[str, object] = {"at": rfc3339(entry.at), "machine": entry.machine}
    if isinstance(entry, Transition):
        return common | {
            "kind": "transition",
            "from": entry.from_state,
            "to": entry.to_state,
            "reason": entry.reason,
            "wake_id": entry.wake_id,
        }
    return common | {
        "kind": "provider_call",
        "call": entry.call,
        "outcome": entry.outcome,
        "code": entry.code,
        "seconds": entry.seconds,
    }


def _line(entry: JournalEntry) -> str:
    start = f"{rfc3339(entry.at)}  {entry.machine:<16}  "
    if isinstance(entry, ProviderCall):
        return f"{start}{entry.call} {entry.outcome} {entry.code} ({entry.seconds:.3f} s)"
    return f"{start}{entry.from_state or '·'} → {entry.to_state}: {entry.reason}"
