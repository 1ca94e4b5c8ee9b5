"""All keys as an operator lists them: searched, sorted, with their owner and last use."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from services.site.app.own_keys import OwnKey
from shared.bus.ports import Bus
from shared.bus.request import request_reply
from shared.bus.subjects import METER_TOKENS
from shared.errors import BusUnavailable, Rejected
from shared.messages.meter import Tokens, TokensQuery

SORTS: Mapping[str, str] = {"name": "Name", "created": "Newest", "used": "Used last", "owner": "Owner"}
"""How the list may be sorted, and how the page says it."""
MOST_SHOWN = 500
"""On the page; a search finds the others."""
USED_DAYS = 30
"""How far back a last use is looked for."""
REPLY_S = 5.0
MOST_PAGES = 20
"""Of the meter's answer: it holds thousands of rows in one."""


@dataclass(frozen=True, kw_only=True)
class ListedKey:
    """One key of anybody."""

    key: OwnKey
    owner: str | None
    """Their login, or their identity if it is not known here; None: the operator's."""
    last_day: str | None
    """The UTC day of its last use among the last `USED_DAYS`; None: not used in them, or not known."""


def list_keys(
    keys: Iterable[OwnKey], logins: Mapping[str, str], last_days: Mapping[str, str], *, search: str, sort: str
) -> list[ListedKey]:
    """Return the keys of which name, id or owner has the text, all if it is empty. `logins`: by identity."""
    text = search.casefold()
    listed = []
    for key in keys:
        record = key.record
        owner = None if record.owner is None else logins.get(record.owner, record.owner)
        if any(text in field.casefold() for field in (record.name, record.id, record.owner or "", owner or "")):
            listed.append(ListedKey(key=key, owner=owner, last_day=last_days.get(record.id)))
    listed.sort(key=lambda each: (each.key.record.name.casefold(), each.key.record.id))
    if sort == "created":
        listed.sort(key=lambda each: each.key.record.created_at, reverse=True)
    elif sort == "used":
        listed.sort(key=lambda each: each.last_day or "", reverse=True)
    elif sort == "owner":
        listed.sort(key=lambda each: (each.owner or "").casefold())
    return listed


async def read_last_days(bus: Bus, now: float) -> dict[str, str] | None:
    """Return by key the last UTC day of the last `USED_DAYS` with requests. None: the meter does not answer."""
    today = datetime.fromtimestamp(now, UTC).date()
    first, after, days = today - timedelta(days=USED_DAYS - 1), "", dict[str, str]()
    for _ in range(MOST_PAGES):
        query = TokensQuery(day=first.isoformat(), to=today.isoformat(), by=("key", "day"), after=after)
        try:
            reply = await request_reply(bus, METER_TOKENS, query, Tokens, timeout=REPLY_S, patience_s=0.0)
        except (BusUnavailable, Rejected):
            return None
        for row in reply.rows:
            key, day = row.dimensions["key"], row.dimensions["day"]
            days[key] = max(day, days.get(key, ""))
        if reply.next is None:
            break
        after = reply.next
    return days
