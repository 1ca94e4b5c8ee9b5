"""Decodes the fleet's journal. An entry counts only under its own subject, where nobody but its writer may publish."""

from shared.bus.subjects import SHOWN, budget_journal, journal
from shared.messages.budget import GateTurned, Journalled
from shared.messages.codec import Decoder, Unreadable

_decoder: Decoder[Journalled] = Decoder(Journalled)


def decode_entry(subject: str, data: bytes) -> Journalled:
    """Return the entry of a message. Raises `Unreadable` if it is none, or one of another subject."""
    entry = _decoder.decode(data)
    name = entry.scope if isinstance(entry, GateTurned) else entry.machine
    if not name or subject != (budget_journal(name) if isinstance(entry, GateTurned) else journal(name)):
        raise Unreadable(f"{subject[:SHOWN]} is not the subject of an entry about {name[:SHOWN]!r}")
    return entry
