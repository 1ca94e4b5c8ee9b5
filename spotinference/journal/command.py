"""`spotinference journal`: all that was done with the machines, the oldest first."""

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Protocol

import click

from shared.bus.jetstream import JetStreamBus
from shared.bus.ports import Bus, Received, Restarted, WatchEvent
from shared.bus.subjects import journal as journal_of
from shared.bus.topology import FLEET, FLEET_JOURNAL
from shared.config.values import Duration
from shared.errors import BusUnavailable
from shared.key_names import labelled
from shared.messages.budget import GateTurned, Journalled
from shared.messages.codec import Decoder, Unreadable, rfc3339
from shared.messages.waker import Ordered, PhaseEnded, ProviderCall, Transition
from spotinference.context import Context, suite_options
from spotinference.keys.command import key_names
from spotinference.terminal import echo_json, say

ALL = FLEET_JOURNAL.subjects[0]
QUEUED = 1000
"""Entries heard and not told yet; at the bound they are let go, and the journal itself is read again."""
REMEMBERED = 2 * QUEUED
"""Entries told last: what the bus says twice is told once."""
RETRY_SECONDS = 1.0

Names = Mapping[str, str]
"""Of keys, by id."""
_decoder: Decoder[Journalled] = Decoder(Journalled)


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
    subject = journal_of(machine) if machine else ALL
    tell = _tell_json if as_json else _tell
    names: dict[str, str] = {}

    async def read(bus: Bus) -> Sequence[Received]:
        names.update(await key_names(bus))
        return await bus.read(FLEET_JOURNAL, subject)

    async def go_on(bus: Bus) -> None:
        names.update(await key_names(bus))  # a key made later stands there by its id
        await follow_journal(bus, subject, told, limit)

    def told(found: Iterable[Received], limit: int | None = None) -> None:
        entries = (entry for entry in decoded(found) if since is None or entry.at >= since)
        for entry in entries if limit is None else deque(entries, limit):
            tell(entry, names)

    if follow:
        with suppress(KeyboardInterrupt):
            context.on_bus(go_on)
    else:
        told(context.on_bus(read), limit)


async def journal_entries(bus: JetStreamBus) -> list[Journalled]:
    """The whole journal, the oldest first."""
    return list(decoded(await bus.read(FLEET_JOURNAL)))


def decoded(found: Iterable[Received]) -> Iterator[Journalled]:
    """What can be read of it; a word on standard error for what cannot, which a newer waker may have written."""
    for received in found:
        try:
            entry = _decoder.decode(received.data)
        except Unreadable as error:
            say(f"spotinference: unreadable entry under {received.subject}: {error}", err=True)
        else:
            yield entry


class Tell(Protocol):
    def __call__(self, found: Iterable[Received], limit: int | None = None) -> None: ...


async def follow_journal(bus: Bus, subject: str, tell: Tell, limit: int | None) -> None:
    """For ever; `limit` is for what there is already."""
    tail = Tail()
    listening = await bus.subscribe(subject, tail.on_entry)
    watching = await bus.watch(FLEET, tail.on_event)
    try:
        while True:
            await tail.news.wait()
            tail.news.clear()
            if tail.behind:
                tail.behind = False
                try:
                    whole = await bus.read(FLEET_JOURNAL, subject)
                except BusUnavailable:
                    tail.fall_behind()
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                tell(tail.unseen(whole), limit)
                limit = None
            tell(tail.taken())
    finally:
        await watching.stop()
        await listening.stop()


class Tail:
    """The end of a journal that goes on. `behind`: it has to be read, since entries may have passed unheard.

    A connection that was lost has missed some: a watch, of whatever bucket, begins again with each connection.
    """

    def __init__(self) -> None:
        self.news = asyncio.Event()
        self.behind = False
        self._queue: deque[Received] = deque()
        self._told: deque[bytes] = deque(maxlen=REMEMBERED)

    async def on_entry(self, received: Received) -> None:
        if len(self._queue) == QUEUED:
            self._queue.clear()
            self.behind = True
        self._queue.append(received)
        self.news.set()

    def on_event(self, event: WatchEvent) -> None:
        if isinstance(event, Restarted):
            self.fall_behind()

    def fall_behind(self) -> None:
        self.behind = True
        self.news.set()

    def unseen(self, whole: Sequence[Received]) -> Sequence[Received]:
        """What the journal has behind all that was told; the whole of it where that is not in it."""
        told = set(self._told)
        place = next((n for n in range(len(whole), 0, -1) if whole[n - 1].data in told), 0)
        self._told.extend(received.data for received in whole[place:])
        return whole[place:]

    def taken(self) -> list[Received]:
        """What was heard and not told yet."""
        found = []
        while self._queue:
            received = self._queue.popleft()
            if received.data not in self._told:
                self._told.append(received.data)
                found.append(received)
        return found


def _tell_json(entry: Journalled, names: Names) -> None:
    whose = {} if isinstance(entry, GateTurned) else {"machine": entry.machine}
    echo_json({"at": rfc3339(entry.at)} | whose | _facts(entry, names))


def _tell(entry: Journalled, names: Names) -> None:
    whose = f"budget {entry.scope}" if isinstance(entry, GateTurned) else entry.machine
    say(f"{rfc3339(entry.at)}  {whose:<16}  {_words(entry, names)}")


def _facts(entry: Journalled, names: Names) -> dict[str, object]:
    match entry:
        case GateTurned():
            told = {name: getattr(entry, name) for name in ("scope", "open", "reason", "spend", "limit")}
            return {"kind": "gate", **told, "warning": entry.warning, "by": entry.by, "why": entry.why}
        case Transition():
            told = {"from": entry.from_state, "to": entry.to_state, "reason": entry.reason, "wake_id": entry.wake_id}
            whose = {"key_id": entry.key_id, "key_name": names.get(entry.key_id or "")}
            return {"kind": "transition", **told, **whose}
        case ProviderCall():
            told = {"call": entry.call, "outcome": entry.outcome, "code": entry.code}
            return {"kind": "provider_call", **told, "seconds": entry.seconds}
        case PhaseEnded():
            told = {"phase": entry.phase, "wake_id": entry.wake_id}
            return {"kind": "phase", **told, "seconds": entry.seconds, "done": entry.done}
        case Ordered():
            return {"kind": "order", "order": entry.order, "by": entry.by}


def _words(entry: Journalled, names: Names) -> str:
    match entry:
        case GateTurned():
            state = f"closed, {entry.reason}" if not entry.open else "open, warning" if entry.warning else "open"
            spent = "an unknown spend" if entry.spend is None else f"{entry.spend} USD"
            said = f"; said {entry.by}: {entry.why}" if entry.by else ""
            return f"{state}: {spent} of {entry.limit}{said}"
        case Transition():
            return f"{entry.from_state or '·'} → {entry.to_state}: {entry.reason}{_for_key(entry, names)}"
        case ProviderCall():
            code = f" {entry.code}" if entry.code else ""
            return f"{entry.call} {entry.outcome}{code} ({entry.seconds:.3f} s)"
        case PhaseEnded():
            return f"{entry.phase} {'done' if entry.done else 'given up'} after {entry.seconds:.3f} s"
        case Ordered():
            return f"{entry.order}, said {entry.by}"


def _for_key(entry: Transition, names: Names) -> str:
    """Of a wake, whose request caused it."""
    if entry.to_state != "waking" or entry.key_id is None:
        return ""
    return f", for key {labelled(entry.key_id, names.get(entry.key_id))}"
