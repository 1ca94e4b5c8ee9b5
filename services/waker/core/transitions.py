"""The legal transitions of a machine, each with its reason. `docs/reference/fleet-states.md` is generated from this."""

from collections.abc import Mapping

from shared.messages.waker import MachineState

Ends = Mapping[MachineState, str]

_ANY: Ends = {
    "broken": "it misbehaves, or its engine stopped answering; an operator may have to act",
    "gone": "its provider repeatedly does not know it, or it was removed from the configuration",
}

TRANSITIONS: Mapping[MachineState | None, Ends] = {
    None: {
        "asleep": "first observed, and off",
        "waking": "first observed, and running; one token will show whether it is fit",
        "ready": "it never sleeps, and answered one token",
        **_ANY,
    },
    "asleep": {
        "waking": "requests wait for it, the operator or a schedule wants it, or it was started outside the waker",
        **_ANY,
    },
    "waking": {
        "ready": "the engine answered one token",
        "falling_asleep": "not ready in time, the wrong engine, another machine was faster, or the operator's order",
        "asleep": "its start was refused, or it went down too often",
        **_ANY,
    },
    "ready": {
        "draining": "idle for long enough, its pair is wanted, the operator's order, or its provider reclaims it",
        "asleep": "it ended by itself or was stopped outside the waker",
        **_ANY,
    },
    "draining": {
        "ready": "used or wanted meanwhile, its provider is in doubt, or a gateway or its engine did not release it",
        "falling_asleep": "every gateway has let go of it, and its engine runs nothing",
        "asleep": "it ended by itself or was stopped outside the waker",
        **_ANY,
    },
    "falling_asleep": {
        "asleep": "its provider reports that it is off",
        **_ANY,
    },
    "broken": {
        "asleep": "its provider reports that it is off",
        "waking": "it runs, and is tried again",
        "falling_asleep": "another attempt to put it to sleep, because it may bill",
        "ready": "the engine answered one token again",
        "gone": _ANY["gone"],
    },
    "gone": {
        "asleep": "its provider knows it again, and it is off",
        "waking": "its provider knows it again, and it runs",
    },
}
"""From each state to those that may follow. None: not observed yet."""


class IllegalTransition(RuntimeError):
    """A defect of the waker: the table of transitions does not have it."""


def is_legal(start: MachineState | None, end: MachineState) -> bool:
    return end in TRANSITIONS[start]
