"""Shows API keys by name. Figures are stored by key id; the name is added when they are shown."""

from collections.abc import Iterable

from shared.messages.keys import KeyRecord

MAX_SHOWN = 100
"""Characters of a name that are shown: a table or a message has to hold thousands of names."""


def names_by_key_id(records: Iterable[KeyRecord]) -> dict[str, str]:
    """Return each key's name by its id, including revoked keys. A key without a name is left out."""
    return {record.id: _shorten(record.name) for record in records if record.name.strip()}


def key_label(key_id: str, name: str | None) -> str:
    """Return `name (id)`, or the id alone. The id comes last, so that no name can hide or imitate it."""
    return key_id if name is None else f"{name} ({key_id})"


def _shorten(name: str) -> str:
    return name if len(name) <= MAX_SHOWN else f"{name[: MAX_SHOWN - 1]}…"
