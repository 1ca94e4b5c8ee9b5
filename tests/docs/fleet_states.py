"""`python -m tests.docs.fleet_states` prints `docs/reference/fleet-states.md`, generated from the code it describes."""

from collections.abc import Iterator, Mapping

from services.waker.core.fleet_spec import fleet_spec_of
from services.waker.core.history import PHASES
from services.waker.core.transitions import TRANSITIONS
from shared.config.load import parse
from shared.messages.waker import MachineState, Phase
from tests.unit.waker.invariants import sentences

STATES: Mapping[MachineState, str] = {
    "asleep": "off; costs no more than its disks and addresses",
    "waking": "on its way to ready, in one of the phases below",
    "ready": "its engine answered one token (one embedding if it generates no text); gateways send it requests",
    "draining": "gateways send it no new requests and finish those in flight",
    "falling_asleep": "its provider has been asked to put it to sleep",
    "broken": "it misbehaves and may bill; the waker keeps trying",
    "gone": "its provider does not know it, or the configuration does not any more",
}
PHASE_MEANINGS: Mapping[Phase, tuple[str, str]] = {
    "calling": ("its provider has been asked to start it", "twice `call_timeout`"),
    "booting": ("its provider is starting it", "`booting_limit`"),
    "reaching": ("it runs, but its network or system is not up", "`reaching_limit`"),
    "loading": ("it answers, but its engine does not", "`loading_limit`"),
    "first_token": ("its engine answers and has been asked for one token or embedding", "`first_token_limit`"),
}
ANYWHERE: tuple[MachineState, ...] = ("broken", "gone")


def fleet_states() -> str:
    return "\n".join([*_states(), *_transitions(), *_phases(), *_invariants()])


def _states() -> Iterator[str]:
    yield "# Machine states\n"
    yield "The waker keeps each machine in one of these states. [The fleet](../explanation/fleet.md) explains how it"
    yield "uses them. This page is generated from the code by `python -m tests.docs.fleet_states`.\n"
    yield "| state | meaning |\n|---|---|"
    yield from (f"| `{state}` | {meaning} |" for state, meaning in STATES.items())
    yield ""


def _transitions() -> Iterator[str]:
    yield "## Transitions\n"
    yield "```mermaid\nstateDiagram-v2"
    for start, ends in TRANSITIONS.items():
        yield from (f"  {start or '[*]'} --> {end}" for end in ends if end not in ANYWHERE)
    yield "```\n"
    yield "The diagram leaves out `broken` and `gone`: any state may become either, except that `gone` does not become"
    yield "`broken`. A machine that is gone may return ([ADR 0012](../adr/0012-gone-may-return.md)). The table is"
    yield "`services/waker/core/transitions.py`; any other transition is an error.\n"
    yield "| from | to | why |\n|---|---|---|"
    for start, ends in TRANSITIONS.items():
        named = f"`{start}`" if start else "not observed yet"
        yield from (f"| {named} | `{end}` | {why} |" for end, why in ends.items() if end not in ANYWHERE)
    yield from (f"| any | `{end}` | {TRANSITIONS[None][end]} |" for end in ANYWHERE)
    yield ""


def _phases() -> Iterator[str]:
    limits = fleet_spec_of(parse("", "defaults"), str).phase_limits
    yield "## Phases of a wake\n"
    yield "A wake passes these phases in order. A local process has no boot and no network to wait for. If a phase"
    yield "exceeds its limit, or the wake its deadline, the machine is put to sleep and another is tried.\n"
    yield "| phase | meaning | limit in `[waker]` | default |\n|---|---|---|--:|"
    yield from (f"| `{p}` | {PHASE_MEANINGS[p][0]} | {PHASE_MEANINGS[p][1]} | {limits[p]:g} s |" for p in PHASES)
    yield ""


def _invariants() -> Iterator[str]:
    yield "## Invariants\n"
    yield "Tests check these after every step, in scripted scenarios and in random orders of events, across outages,"
    yield "clock jumps and deaths of the waker (`tests/unit/waker/invariants.py`):\n"
    yield from (f"- {sentence}" for sentence in sentences().values())


if __name__ == "__main__":
    print(fleet_states())
