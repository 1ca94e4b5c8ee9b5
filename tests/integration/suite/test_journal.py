"""`spotinference journal` on a real bus: every kind of entry, the filters, and `--follow`."""

import json
import signal
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from shared.bus import subjects, topology
from shared.bus.jetstream import JetStreamBus
from shared.bus.ports import Received, Restarted, Synced
from shared.errors import BusUnavailable
from shared.messages.budget import GateTurned
from shared.messages.codec import encode, rfc3339
from shared.messages.keys import KeyRecord, digest
from shared.messages.waker import CommandIssued, JournalEntry, PhaseEnded, ProviderCall, Transition
from spotinference.journal.follower import QUEUE_LIMIT, JournalTail
from tests.integration.suite.conftest import Goes, Shell
from tests.kit.nats_server import NatsServer
from tests.kit.waiting import until

AT = 1_800_000_000.0


def moved(machine: str, at: float = AT, reason: str = "idle") -> Transition:
    return Transition(
        at=at,
        machine=machine,
        tier="t",
        from_state="ready",
        to_state="draining",
        reason=reason,
        generation=1,
        wake_id="w1",
    )


EVERY_KIND: Sequence[tuple[JournalEntry, dict[str, Any], str]] = (
    (
        moved("m1"),
        {
            "kind": "transition",
            "from": "ready",
            "to": "draining",
            "reason": "idle",
            "wake_id": "w1",
            "key_id": None,
            "key_name": None,
        },
        "ready → draining: idle",
    ),
    (
        ProviderCall(at=AT, machine="m1", call="start", outcome="refused", code="NoCapacity", seconds=0.25),
        {"kind": "provider_call", "call": "start", "outcome": "refused", "code": "NoCapacity", "seconds": 0.25},
        "start refused NoCapacity (0.250 s)",
    ),
    (
        PhaseEnded(at=AT, machine="m1", tier="t", wake_id="w1", phase="loading", seconds=81.5, done=False),
        {"kind": "phase", "phase": "loading", "seconds": 81.5, "done": False, "wake_id": "w1"},
        "loading given up after 81.500 s",
    ),
    (
        CommandIssued(at=AT, machine="m1", order="cordon", by="me@here", reason="its driver is replaced"),
        {"kind": "order", "order": "cordon", "by": "me@here", "reason": "its driver is replaced"},
        "cordon, by me@here: its driver is replaced",
    ),
)


async def publish(bus: JetStreamBus, *entries: JournalEntry) -> None:
    for entry in entries:
        await bus.publish(subjects.journal(entry.machine), encode(entry))


async def machines(shell: Shell, *words: str) -> list[str]:
    result = await shell("journal", "--json", *words)
    assert result.exit_code == 0, result.output
    return [json.loads(line)["machine"] for line in result.stdout.splitlines()]


async def test_every_kind_of_entry_is_printed(bus: JetStreamBus, shell: Shell) -> None:
    await publish(bus, *(entry for entry, _, _ in EVERY_KIND))
    entries = [json.loads(line) for line in (await shell("journal", "--json")).stdout.splitlines()]
    common = {"at": "2027-01-15T08:00:00.000Z", "machine": "m1"}
    assert entries == [common | fields for _, fields, _ in EVERY_KIND]
    lines = (await shell("journal")).stdout.splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines] == [words for _, _, words in EVERY_KIND]


async def test_wake_names_the_key_that_caused_it(bus: JetStreamBus, shell: Shell) -> None:
    record = KeyRecord(id="k1", name="Acme\x1b[1m", created_at=1.0, revoked_at=2.0)
    await bus.create(topology.KEYS, digest("sk-1"), encode(record))
    for key in ("k1", "gone"):
        await publish(bus, replace(moved("m1"), from_state="asleep", to_state="waking", key_id=key))
    lines = (await shell("journal")).stdout.splitlines()
    causes = [line.partition("asleep → waking: idle")[2] for line in lines]
    assert causes == [", for key Acme\\x1b[1m (k1)", ", for key gone"]
    entries = [json.loads(line) for line in (await shell("journal", "--json")).stdout.splitlines()]
    assert [(each["key_id"], each["key_name"]) for each in entries] == [("k1", record.name), ("gone", None)]


async def test_budget_gate_changes_are_printed(bus: JetStreamBus, shell: Shell) -> None:
    closed = GateTurned(
        at=AT, scope="tier.t", open=False, reason="budget_closed", spend=Decimal("9.5"), limit=Decimal(9)
    )
    opened = GateTurned(
        at=AT,
        scope="fleet",
        open=True,
        reason="",
        spend=None,
        limit=Decimal(99),
        by="me@here",
        warning=True,
        why="a demo",
    )
    for entry in (closed, opened):
        await bus.publish(subjects.budget_journal(entry.scope), encode(entry))
    await publish(bus, moved("budget"))  # a valid name for a machine
    entries = [json.loads(line) for line in (await shell("journal", "--json")).stdout.splitlines()]
    assert entries[:2] == [
        {
            "at": "2027-01-15T08:00:00.000Z",
            "kind": "gate",
            "scope": "tier.t",
            "open": False,
            "reason": "budget_closed",
            "spend": "9.5",
            "limit": "9",
            "warning": False,
            "by": "",
            "why": "",
        },
        {
            "at": "2027-01-15T08:00:00.000Z",
            "kind": "gate",
            "scope": "fleet",
            "open": True,
            "reason": "",
            "spend": None,
            "limit": "99",
            "warning": True,
            "by": "me@here",
            "why": "a demo",
        },
    ]
    lines = (await shell("journal")).stdout.splitlines()
    assert lines[0].endswith("  budget tier.t     closed, budget_closed: 9.5 USD of 9")
    assert lines[1].endswith("  budget fleet      open, warning: unknown spend of 99; by me@here: a demo")
    assert await machines(shell, "--machine", "budget") == ["budget"]


async def test_options_narrow_the_entries(bus: JetStreamBus, shell: Shell) -> None:
    now = time.time()
    ages = {"a b": 7200.0, "m1": 3000.0, "m2": 60.0, "m3": 1.0}
    await publish(bus, *(moved(machine, now - age) for machine, age in ages.items()))
    await publish(bus, CommandIssued(at=now, machine="org/a", order="wake", by="me"))
    assert await machines(shell) == ["a b", "m1", "m2", "m3", "org/a"]
    assert await machines(shell, "--machine", "a b") == ["a b"]
    assert await machines(shell, "--machine", "org/a") == ["org/a"]
    assert await machines(shell, "--machine", "m9") == []
    assert await machines(shell, "--since", "1h") == ["m1", "m2", "m3", "org/a"]
    since = datetime.fromtimestamp(now - 100, UTC).isoformat()
    assert await machines(shell, "--since", since) == ["m2", "m3", "org/a"]
    assert await machines(shell, "--since", "1h", "--limit", "2") == ["m3", "org/a"]
    assert await machines(shell, "--limit", "9") == ["a b", "m1", "m2", "m3", "org/a"]


@pytest.mark.parametrize(("option", "value"), [("--since", "yesterday"), ("--since", "2"), ("--limit", "0")])
async def test_invalid_option_is_named(shell: Shell, option: str, value: str) -> None:
    result = await shell("journal", option, value)
    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in result.stderr


async def test_undecodable_entry_hides_no_other(bus: JetStreamBus, shell: Shell) -> None:
    await publish(bus, moved("m1"))
    await bus.publish(subjects.journal("m2"), b'{"type":"from.the.future"}')
    await publish(bus, moved("m3"))
    result = await shell("journal", "--json")
    assert result.exit_code == 0
    assert [json.loads(line)["machine"] for line in result.stdout.splitlines()] == ["m1", "m3"]
    assert "skipped an entry under fleet.journal.m2" in result.stderr


async def test_follow_continues_across_a_restart_of_the_bus_until_ctrl_c(
    bus: JetStreamBus, goes: Goes, nats_server: NatsServer
) -> None:
    await publish(bus, moved("m1", reason="0"), moved("m2", reason="0"))
    going = await goes("journal", "--follow", "--json", "--limit", "1")
    assert json.loads(await going.line())["machine"] == "m2"
    await publish(bus, moved("m3"), moved("m4"))
    assert [json.loads(await going.line())["machine"] for _ in range(2)] == ["m3", "m4"]
    going.send(signal.SIGSTOP)  # so that all of these pass while it is not connected
    nats_server.restart()
    for number in range(100):
        await publish_when_it_can(bus, moved("m5", reason=str(number)))
    going.send(signal.SIGCONT)
    entries = [json.loads(await going.line())["reason"] for _ in range(100)]
    assert entries == [str(number) for number in range(100)]
    assert (await going.ctrl_c())[:2] == (0, "")


async def publish_when_it_can(bus: JetStreamBus, entry: JournalEntry) -> None:
    async def published() -> bool:
        try:
            await bus.publish(
                subjects.journal(entry.machine), encode(entry), message_id=rfc3339(entry.at) + repr(entry)
            )
        except BusUnavailable:
            return False
        return True

    await until(published, bool)


def messages(*names: str) -> list[Received]:
    return [Received("fleet.journal.m", name.encode()) for name in names]


async def test_tail_passes_on_each_entry_once() -> None:
    tail = JournalTail()
    assert tail.new_in(messages("a", "b")) == messages("a", "b")
    for received in messages("b", "c", "c", "a"):
        await tail.on_entry(received)
    assert tail.take_queued() == messages("c")
    assert tail.new_in(messages("a", "b", "c", "d", "e")) == messages("d", "e")
    assert tail.new_in(messages("a", "b", "c", "d", "e")) == []
    assert tail.new_in(messages("x", "y")) == messages("x", "y"), "the bus lost its data"


async def test_tail_must_reread_after_a_reconnect_or_a_full_queue() -> None:
    tail = JournalTail()
    tail.on_event(Synced())
    assert not tail.must_reread
    tail.on_event(Restarted())
    assert tail.must_reread
    tail.must_reread = False
    for number in range(QUEUE_LIMIT + 1):
        assert not tail.must_reread
        await tail.on_entry(Received("fleet.journal.m", str(number).encode()))
    assert tail.must_reread
    assert tail.take_queued() == messages(str(QUEUE_LIMIT))
