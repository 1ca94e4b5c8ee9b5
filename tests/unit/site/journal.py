"""Entries of a fleet's journal, for tests of what is made from them."""

from collections.abc import Sequence
from typing import TypedDict

from shared.bus.subjects import journal
from shared.messages.budget import Journalled
from shared.messages.codec import encode
from shared.messages.waker import MachineState, Phase, PhaseEnded, Transition

NOON = 1_795_435_200.0
"""2026-11-23T12:00:00Z."""
KEY = "key-of-somebody"


def transition(
    at: float,
    before: MachineState | None,
    after: MachineState,
    *,
    wake: str | None = "w1",
    machine: str = "m1",
    tier: str = "h100x2",
    key: str | None = KEY,
) -> Transition:
    return Transition(
        at=at,
        machine=machine,
        tier=tier,
        from_state=before,
        to_state=after,
        reason="words that are not public",
        generation=1,
        wake_id=wake,
        key_id=key,
    )


def phase(
    at: float,
    name: Phase,
    seconds: float,
    *,
    done: bool = True,
    wake: str = "w1",
    machine: str = "m1",
    tier: str = "h100x2",
) -> PhaseEnded:
    return PhaseEnded(at=at, machine=machine, tier=tier, wake_id=wake, phase=name, seconds=seconds, done=done)


class _Place(TypedDict):
    wake: str
    machine: str
    tier: str


def whole_wake(
    at: float, seconds: float, *, wake: str, machine: str = "m1", tier: str = "h100x2", key: str = KEY
) -> list[Journalled]:
    """A machine wakes within `seconds`, half of them loading, and falls asleep an hour later."""
    ready = at + seconds
    place = _Place(wake=wake, machine=machine, tier=tier)
    return [
        transition(at, "asleep", "waking", key=key, **place),
        phase(at + seconds / 2, "calling", seconds / 2, **place),
        phase(ready, "loading", seconds / 2, **place),
        transition(ready, "waking", "ready", **place),
        transition(ready + 3600, "ready", "draining", **place),
        transition(ready + 3601, "draining", "falling_asleep", **place),
        transition(ready + 3602, "falling_asleep", "asleep", **place),
    ]


def messages(entries: Sequence[Journalled]) -> list[tuple[str, bytes]]:
    """Each entry's subject and data. All of them are about machines."""
    return [(journal(getattr(entry, "machine", "")), encode(entry)) for entry in entries]
