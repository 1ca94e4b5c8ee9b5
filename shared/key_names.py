"""Names of API keys beside their ids. An id is what figures are kept by; a name is looked up when they are shown."""

from collections.abc import Iterable

from shared.messages.keys import KeyRecord

LONGEST = 100
"""Characters of a name that are shown: a table and a message have to hold thousands of them."""


def names_by_key_id(records: Iterable[KeyRecord]) -> dict[str, str]:
    """Return each key's name by its id, revoked ones included; a key without a name is left out."""
    return {record.id: _short(record.name) for record in records if record.name.strip()}


def key_label(key_id: str, name: str | None) -> str:
    """Return `name (id)`, or the id alone. The id comes last: no name can hide or replace it."""
    return key_id if name is None else f"{name} ({key_id})"


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
