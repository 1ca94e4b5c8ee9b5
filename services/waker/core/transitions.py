"""The legal moves of a machine, each with why it is made. `docs/reference/fleet-states.md` is made of this."""

from collections.abc import Mapping

from shared.messages.waker import MachineState

Ends = Mapping[MachineState, str]

_ANY: Ends = {
    "broken": "it does what it should not, or its engine answers no more: an operator may have to see to it",
    "gone": "its provider does not know it, time and again",
}

TRANSITIONS: Mapping[MachineState | None, Ends] = {
    None: {
        "asleep": "seen for the first time, and off",
        "waking": "seen for the first time, and running: one token will show what it is worth",
        "ready": "it never sleeps, and answered one token",
        **_ANY,
    },
    "asleep": {
        "waking": "somebody waits for it, the operator or a schedule wants it, or it runs without our doing",
        **_ANY,
    },
    "waking": {
        "ready": "the engine answered one token",
        "falling_asleep": "not ready in time, not the engine that it should be, not the first, or the operator's word",
        "asleep": "its start was refused, or it ended too often",
        **_ANY,
    },
    "ready": {
        "draining": "idle for long enough, its pair is wanted, the operator's word, or its provider takes it away",
        "asleep": "it ended without our doing",
        **_ANY,
    },
    "draining": {
        "ready": "used or wanted meanwhile, its provider is in doubt, or a gateway does not let go of it",
        "falling_asleep": "every gateway acknowledged, with nothing in flight",
        "asleep": "it ended without our doing",
        **_ANY,
    },
    "falling_asleep": {
        "asleep": "its provider says that it is off",
        **_ANY,
    },
    "broken": {
        "asleep": "its provider says that it is off",
        "waking": "it runs, and is tried again",
        "falling_asleep": "tried again to put it to sleep, since it may bill",
        "ready": "the engine answered one token again",
        "gone": _ANY["gone"],
    },
    "gone": {
        "asleep": "its provider knows it again, and it is off",
        "waking": "its provider knows it again, and it runs",
    },
}
"""From each state to those that may follow. None: not seen yet."""


class IllegalTransition(RuntimeError):
    """A defect of ours: the table of moves does not have it."""


def is_legal(start: MachineState | None, end: MachineState) -> bool:
    return end in TRANSITIONS[start]
