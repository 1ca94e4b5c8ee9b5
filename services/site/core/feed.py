"""The feed: what happened, in public words, each entry under an id that never changes."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from uuid import NAMESPACE_URL, uuid5

from services.site.core.periods import day_of
from services.site.core.reliability import reason_of
from services.site.core.wakes import Wake
from shared.budget_gates import FLEET_SCOPE
from shared.messages.budget import GateTurned
from shared.messages.codec import rfc3339
from shared.messages.public import PublishedDay
from shared.printable import printable
from shared.report_forms.words import format_usd

MOST_ENTRIES = 100


@dataclass(frozen=True, kw_only=True)
class FeedEntry:
    """One thing that happened."""

    key: str
    """Its id without the site's origin: the same whenever and by whichever replica the feed is made."""
    at: float
    """Unix seconds."""
    title: str
    summary: str
    path: str
    """The page that has more."""


def revision_entry(day: PublishedDay) -> FeedEntry:
    """A day's figures changed."""
    figures = day.figures
    if figures.usd_per_mtok is not None:
        cost = f"{format_usd(figures.usd_per_mtok, 4)} per million tokens"
    else:
        cost = "No tokens were served" if figures.reason == "no_tokens" else "Its cost is not known"
    return FeedEntry(
        key=f"day/{figures.day}/{figures.revision}",
        at=day.at,
        title=f"{figures.day}: revision {figures.revision}, {figures.state or 'unknown'}",
        summary=f"{cost}. The day's page says what it is made of.",
        path=f"/economics/{figures.day}",
    )


def gate_entries(turns: Iterable[GateTurned]) -> list[FeedEntry]:
    """Each opening and closing of a gate. What else is in the journal, such as warnings, is not public."""
    entries: list[FeedEntry] = []
    is_open: dict[str, bool] = {}
    for turn in sorted(turns, key=lambda turn: turn.at):
        if is_open.get(turn.scope, True) == turn.open:
            continue
        is_open[turn.scope] = turn.open
        where = "every tier" if turn.scope == FLEET_SCOPE else f"tier {turn.scope.partition('.')[2]}"
        what = "accepted again" if turn.open else "stopped"
        why = (
            "The budget's gate opened."
            if turn.open
            else "The budget's gate closed: requests get 503, nothing is woken."
        )
        entries.append(
            FeedEntry(
                key=f"gate/{turn.scope}/{round(turn.at * 1000)}",
                at=turn.at,
                title=f"New requests to {where} are {what}",
                summary=why,
                path="/status",
            )
        )
    return entries


def wake_entries(failed: Iterable[Wake]) -> list[FeedEntry]:
    """The failed wakes of each day and tier, with their reasons. A day's entry is updated as more of them fail."""
    groups: defaultdict[tuple[str, str], list[Wake]] = defaultdict(list)
    for wake in failed:
        groups[day_of((wake.began_at or 0) / 1000), wake.tier].append(wake)
    entries = []
    for (day, tier), wakes in groups.items():
        reasons = Counter(map(reason_of, wakes))
        entries.append(
            FeedEntry(
                key=f"failed-wakes/{day}/{tier}",
                at=max((wake.ended_at or wake.began_at or 0) for wake in wakes) / 1000,
                title=f"{day}: {len(wakes)} wake{'' if len(wakes) == 1 else 's'} of tier {tier} failed",
                summary=" ".join(f"{count} of them: {reason}" for reason, count in sorted(reasons.items())),
                path="/reliability",
            )
        )
    return entries


def newest(entries: Iterable[FeedEntry]) -> list[FeedEntry]:
    """Return what fits into the feed, the newest first."""
    return sorted(entries, key=lambda entry: (entry.at, entry.key), reverse=True)[:MOST_ENTRIES]


def atom(title: str, origin: str, entries: Sequence[FeedEntry], *, now: float) -> str:
    """Return the feed as RFC 4287 describes it. Without an entry, it was updated `now`."""
    head = [
        '<?xml version="1.0" encoding="utf-8"?>',
        '<feed xmlns="http://www.w3.org/2005/Atom">',
        f"<id>{_id(origin, 'feed')}</id>",
        f"<title>{_text(title)}: figures and incidents</title>",
        f"<updated>{rfc3339(entries[0].at if entries else now)}</updated>",
        f"<author><name>{_text(title)}</name></author>",
        f'<link rel="self" type="application/atom+xml" href="{_text(origin)}/feed.xml"/>',
        f'<link rel="alternate" type="text/html" href="{_text(origin)}/"/>',
    ]
    return "\n".join([*head, *(_entry(origin, entry) for entry in entries), "</feed>"]) + "\n"


def _entry(origin: str, entry: FeedEntry) -> str:
    return (
        f"<entry><id>{_id(origin, entry.key)}</id><title>{_text(entry.title)}</title>"
        f'<updated>{rfc3339(entry.at)}</updated><link rel="alternate" href="{_text(origin + entry.path)}"/>'
        f"<summary>{_text(entry.summary)}</summary></entry>"
    )


def _id(origin: str, key: str) -> str:
    return f"urn:uuid:{uuid5(NAMESPACE_URL, f'{origin}/{key}')}"


def _text(text: str) -> str:
    return escape(printable(text))
