"""A journal entry as JSON and as one line of text."""

from collections.abc import Mapping

from shared.key_names import key_label
from shared.messages.budget import GateTurned, Journalled
from shared.messages.codec import rfc3339
from shared.messages.waker import CommandIssued, PhaseEnded, ProviderCall, Transition
from spotinference.terminal import echo_json, print_line

KeyNames = Mapping[str, str]
"""Names of keys, by id."""


def print_json(entry: Journalled, names: KeyNames) -> None:
    """Print an entry as one line of JSON."""
    subject = {} if isinstance(entry, GateTurned) else {"machine": entry.machine}
    echo_json({"at": rfc3339(entry.at)} | subject | _fields(entry, names))


def print_text(entry: Journalled, names: KeyNames) -> None:
    """Print an entry as one line of text."""
    subject = f"budget {entry.scope}" if isinstance(entry, GateTurned) else entry.machine
    print_line(f"{rfc3339(entry.at)}  {subject:<16}  {_describe(entry, names)}")


def _fields(entry: Journalled, names: KeyNames) -> dict[str, object]:
    match entry:
        case GateTurned():
            gate = {name: getattr(entry, name) for name in ("scope", "open", "reason", "spend", "limit")}
            return {"kind": "gate", **gate, "warning": entry.warning, "by": entry.by, "why": entry.why}
        case Transition():
            change = {"from": entry.from_state, "to": entry.to_state, "reason": entry.reason, "wake_id": entry.wake_id}
            key = {"key_id": entry.key_id, "key_name": names.get(entry.key_id or "")}
            return {"kind": "transition", **change, **key}
        case ProviderCall():
            call = {"call": entry.call, "outcome": entry.outcome, "code": entry.code}
            return {"kind": "provider_call", **call, "seconds": entry.seconds}
        case PhaseEnded():
            phase = {"phase": entry.phase, "wake_id": entry.wake_id}
            return {"kind": "phase", **phase, "seconds": entry.seconds, "done": entry.done}
        case CommandIssued():
            return {"kind": "order", "order": entry.order, "by": entry.by, "reason": entry.reason}


def _describe(entry: Journalled, names: KeyNames) -> str:
    match entry:
        case GateTurned():
            state = f"closed, {entry.reason}" if not entry.open else "open, warning" if entry.warning else "open"
            spent = "unknown spend" if entry.spend is None else f"{entry.spend} USD"
            override = f"; by {entry.by}: {entry.why}" if entry.by else ""
            return f"{state}: {spent} of {entry.limit}{override}"
        case Transition():
            return f"{entry.from_state or '·'} → {entry.to_state}: {entry.reason}{_caused_by(entry, names)}"
        case ProviderCall():
            code = f" {entry.code}" if entry.code else ""
            return f"{entry.call} {entry.outcome}{code} ({entry.seconds:.3f} s)"
        case PhaseEnded():
            return f"{entry.phase} {'done' if entry.done else 'given up'} after {entry.seconds:.3f} s"
        case CommandIssued():
            return f"{entry.order}, by {entry.by}" + (f": {entry.reason}" if entry.reason else "")


def _caused_by(entry: Transition, names: KeyNames) -> str:
    """Name the key whose request caused a wake."""
    if entry.to_state != "waking" or entry.key_id is None:
        return ""
    return f", for key {key_label(entry.key_id, names.get(entry.key_id))}"
