"""A journal entry as JSON and as one line of text."""

from shared.journal_words import KeyNames, describe_entry, subject_of
from shared.messages.budget import GateTurned, Journalled
from shared.messages.codec import rfc3339
from shared.messages.waker import CommandIssued, PhaseEnded, ProviderCall, Transition
from spotinference.terminal import echo_json, print_line


def print_json(entry: Journalled, names: KeyNames) -> None:
    """Print an entry as one line of JSON."""
    subject = {} if isinstance(entry, GateTurned) else {"machine": entry.machine}
    echo_json({"at": rfc3339(entry.at)} | subject | _fields(entry, names))


def print_text(entry: Journalled, names: KeyNames) -> None:
    """Print an entry as one line of text."""
    print_line(f"{rfc3339(entry.at)}  {subject_of(entry):<16}  {describe_entry(entry, names)}")


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
