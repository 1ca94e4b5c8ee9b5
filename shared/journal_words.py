"""An entry of the fleet's journal in words, as the command and the site show it."""

from collections.abc import Mapping

from shared.key_names import key_label
from shared.messages.budget import GateTurned, Journalled
from shared.messages.waker import CommandIssued, PhaseEnded, ProviderCall, Transition

KeyNames = Mapping[str, str]
"""Names of keys, by id."""


def subject_of(entry: Journalled) -> str:
    """Return what an entry is about: a machine, a model for an order to wake it, or a gate."""
    return f"budget {entry.scope}" if isinstance(entry, GateTurned) else entry.machine


def describe_entry(entry: Journalled, names: KeyNames) -> str:
    """Return what happened, without when and to what."""
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
