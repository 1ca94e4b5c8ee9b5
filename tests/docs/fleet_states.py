"""`python -m tests.docs.fleet_states` prints `docs/reference/fleet-states.md`, made from the code that it describes."""

from collections.abc import Iterator, Mapping

from services.waker.core.fleet_spec import fleet_spec_of
from services.waker.core.history import PHASES
from services.waker.core.transitions import TRANSITIONS
from shared.config.load import parse
from shared.messages.waker import MachineState, Phase
from tests.unit.waker.invariants import sentences

STATES: Mapping[MachineState, str] = {
    "asleep": "off, and it costs no more than its disks",
    "waking": "on its way; in one of the phases below",
    "ready": "its engine answered one token, or one embedding where it makes no text; gateways send it requests",
    "draining": "gateways send it nothing new and finish what they have there",
    "falling_asleep": "its provider is asked to put it to sleep",
    "broken": "it does not what it should, and may bill: it is tried again",
    "gone": "its provider does not know it",
}
MEANT: Mapping[Phase, tuple[str, str]] = {
    "calling": ("its provider is asked to start it", "twice `call_timeout`"),
    "booting": ("its provider is at it", "`booting_limit`"),
    "reaching": ("it runs; its network or its system is not up", "`reaching_limit`"),
    "loading": ("it answers; its engine does not yet", "`loading_limit`"),
    "first_token": ("its engine answers; one token is asked of it, or one embedding", "`first_token_limit`"),
}
ANYWHERE: tuple[MachineState, ...] = ("broken", "gone")


def fleet_states() -> str:
    return "\n".join([*_head(), *_moves(), *_phases(), *_invariants()])


def _head() -> Iterator[str]:
    yield "# The states of a machine\n"
    yield "Made from the code by `python -m tests.docs.fleet_states`; a test compares."
    yield "`services/waker/core/transitions.py` has the table of moves, and a move that it lacks is an error. How"
    yield "the waker uses them: [the fleet](../explanation/fleet.md).\n"
    yield "| state | meaning |\n|---|---|"
    yield from (f"| `{state}` | {meaning} |" for state, meaning in STATES.items())
    yield ""


def _moves() -> Iterator[str]:
    yield "## Moves\n"
    yield "```mermaid\nstateDiagram-v2"
    for start, ends in TRANSITIONS.items():
        yield from (f"  {start or '[*]'} --> {end}" for end in ends if end not in ANYWHERE)
    yield "```\n"
    yield "Any state may become `broken` or `gone`, but `gone` does not become `broken`; the diagram leaves these"
    yield "out. What is gone may return ([ADR 0012](../adr/0012-gone-may-return.md)).\n"
    yield "| from | to | why |\n|---|---|---|"
    for start, ends in TRANSITIONS.items():
        named = f"`{start}`" if start else "not seen yet"
        yield from (f"| {named} | `{end}` | {why} |" for end, why in ends.items() if end not in ANYWHERE)
    yield from (f"| any | `{end}` | {TRANSITIONS[None][end]} |" for end in ANYWHERE)
    yield ""


def _phases() -> Iterator[str]:
    limits = fleet_spec_of(parse("", "defaults"), str).phase_limits
    yield "## Phases of a wake\n"
    yield "In this order; a local process has no boot and no network to wait for. Past its limit, or the wake's"
    yield "deadline, the machine is put to sleep and another is tried.\n"
    yield "| phase | meaning | limit in `[waker]` | by default |\n|---|---|---|--:|"
    yield from (f"| `{p}` | {MEANT[p][0]} | {MEANT[p][1]} | {limits[p]:g} s |" for p in PHASES)
    yield ""


def _invariants() -> Iterator[str]:
    yield "## What always holds\n"
    yield "Tests check this after every step, in stories and in any order of events, over outages, jumps of the"
    yield "clock and deaths of the waker (`tests/unit/waker/invariants.py`):\n"
    yield from (f"- {sentence}" for sentence in sentences().values())


if __name__ == "__main__":
    print(fleet_states())
