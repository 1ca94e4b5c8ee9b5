"""Sign-ins under way. The browser keeps them in a cookie, so that no stranger fills a table with them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

PENDING_S = 600
"""How long a browser may take at the provider: as long as GitHub's codes live."""
MOST_PENDING = 4
"""Tabs of a browser that may sign in at the same time; a further one replaces the oldest."""
_FIELDS = 5


@dataclass(frozen=True, kw_only=True)
class PendingSignIn:
    """One of them. No value has a `:` or a `|`."""

    state: str
    """What the provider sends the browser back with: of no use without the cookie."""
    provider: str
    verifier: str
    next: str
    """The name of the route to return to."""
    ends_at: int


def write_pending(pending: Sequence[PendingSignIn]) -> str:
    """Return the cookie's value."""
    return "|".join(
        ":".join((p.state, p.provider, p.verifier, p.next, str(p.ends_at))) for p in pending[-MOST_PENDING:]
    )


def read_pending(cookie: str, now: float) -> list[PendingSignIn]:
    """Return those that have not ended. What is none of ours is left out."""
    return [each for each in _entries(cookie) if now < each.ends_at <= now + 2 * PENDING_S][-MOST_PENDING:]


def _entries(cookie: str) -> Iterable[PendingSignIn]:
    for entry in cookie.split("|"):
        fields = entry.split(":")
        if len(fields) == _FIELDS and fields[-1].isascii() and fields[-1].isdigit():
            state, provider, verifier, next_name, ends_at = fields
            yield PendingSignIn(state=state, provider=provider, verifier=verifier, next=next_name, ends_at=int(ends_at))
