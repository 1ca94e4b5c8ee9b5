"""What the meter publishes: how far each source is in the ledger, the keys' months, and answers about tokens."""

import math
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from shared.messages.codec import Message
from shared.messages.values import Count, Seconds, UnixSeconds


class Confirmed(Message, frozen=True, kw_only=True, tag="confirmed.v1"):
    """Bucket `meter`, key `confirmed.<source>`: every event up to here is committed to the ledger."""

    source: str
    source_seq: Count
    at: UnixSeconds


class KeyMonth(Message, frozen=True, kw_only=True, tag="key_month.v1"):
    """Bucket `months`, by key: the tokens of a key's latest month that are committed to the ledger.

    A meter tells it before the `Confirmed` of the same events. Within a month `tokens` only rises, and a month is only
    followed by a later one.
    """

    key_id: str
    month: str
    """When the requests completed, as `month_of` names it."""
    tokens: Count
    """Prompt and completion of every outcome but `failed`."""
    at: UnixSeconds


def month_of(at: float) -> str:
    """The calendar month in UTC of a Unix time: `YYYY-MM`."""
    return _month_of_day(math.floor(at) // 86_400)


@lru_cache(maxsize=64)  # asked for with each request of a key that has a limit of the month
def _month_of_day(day: int) -> str:
    moment = datetime.fromtimestamp(day * 86_400, UTC)
    return f"{moment.year:04}-{moment.month:02}"


class TokensQuery(Message, frozen=True, kw_only=True, tag="tokens_query.v1"):
    """Request on `meter.tokens`: the ledger's sums of one UTC day, or of several in a row."""

    day: str
    """`YYYY-MM-DD`."""
    to: str | None = None
    """The last of several days; None: the day alone."""
    by: tuple[str, ...] = ()
    """Any of `day`, `hour`, `minute`, `model`, `tier`, `key`, `machine`, `outcome`, `direction`."""
    busy: bool = False
    """Whether the intervals in which each machine had requests in flight are wanted too."""
    key: str | None = None
    """Only what this key used; None: all."""
    after: str | None = None
    """`next` of the page before; "" asks for the first page; None: all at once, refused where no message holds it."""


class TokenSums(msgspec.Struct, frozen=True, kw_only=True):
    """Whole numbers; prompt includes cached, completion includes reasoning."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0


def plausible(sums: TokenSums) -> TokenSums:
    """The sums with no more cached than prompt and no more reasoning than completion tokens.

    Old ledgers have events whose engine said otherwise; every reader subtracts the one from the other.
    """
    cached, reasoning = min(sums.cached_tokens, sums.prompt_tokens), min(sums.reasoning_tokens, sums.completion_tokens)
    if (cached, reasoning) == (sums.cached_tokens, sums.reasoning_tokens):
        return sums
    return msgspec.structs.replace(sums, cached_tokens=cached, reasoning_tokens=reasoning)


class TokensRow(msgspec.Struct, frozen=True, kw_only=True):
    """Sums under one combination of the dimensions asked for."""

    dimensions: dict[str, str]
    sums: TokenSums


class Tokens(Message, frozen=True, kw_only=True, tag="tokens.v1"):
    """Answer on `meter.tokens`."""

    day: str
    complete: bool
    """The day is over, all of its events have been read, and none is missing or may still come."""
    totals: TokenSums
    served: TokenSums
    """`totals` without the outcome `failed`: the denominator of the cost per token."""
    rows: tuple[TokensRow, ...] = ()
    busy: dict[str, tuple[tuple[float, float], ...]] = msgspec.field(default_factory=dict)
    """Machine to merged, sorted intervals (Unix seconds, end exclusive) within the day; empty if not asked for."""
    open_gaps: int = 0
    """Source sequence numbers that are known to be missing."""
    to: str | None = None
    """As it was asked."""
    reasons: tuple[str, ...] = ()
    """Why it is not complete, a sentence each; empty: it is."""
    next: str | None = None
    """Where the next page of rows and busy times begins; None: there is no other."""


class GapsQuery(Message, frozen=True, kw_only=True, tag="gaps_query.v1"):
    """Request on `meter.gaps`: what is missing, of any day."""


class OpenGap(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of a source that have not come, or came in a message that could not be counted."""

    source: str
    first: int
    last: int
    earliest: UnixSeconds
    """Unix seconds: their requests completed between the two."""
    latest: UnixSeconds
    quarantined: str | None = None
    """Why it could not be counted; None: nothing came."""
    note: str | None = None
    """What else is known of why they are missing."""


class DeclaredLost(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers that somebody gave up."""

    source: str
    first: int
    last: int
    by: str
    reason: str
    at: UnixSeconds


class Gaps(Message, frozen=True, kw_only=True, tag="gaps.v1"):
    """Answer on `meter.gaps` and `meter.lost`."""

    open: tuple[OpenGap, ...]
    lost: tuple[DeclaredLost, ...] = ()
    more: bool = False
    """There are more than a message holds."""


class DeclareLost(Message, frozen=True, kw_only=True, tag="declare_lost.v1"):
    """Request on `meter.lost`: give up numbers that are missing, so that their days can be final.

    An event that comes after all is counted all the same.
    """

    source: str
    first: int
    last: int
    by: str
    """A person's name."""
    reason: str


class RereadQuery(Message, frozen=True, kw_only=True, tag="reread_query.v1"):
    """Request on `meter.reread`: read a page of the usage stream again; what the ledger lacks of it is counted."""

    since: UnixSeconds | None = None
    """Unix seconds: leave out what the stream had stored before; None: from its beginning."""
    after: int = 0
    """`last` of the page before; 0 asks for the first."""


class Reread(Message, frozen=True, kw_only=True, tag="reread.v1"):
    """Answer on `meter.reread`: what one page came to, in messages."""

    last: int
    """Sequence in the stream up to which it was read."""
    end: int
    """Sequence of the stream's newest message: the last page has reached it."""
    read: int = 0
    counted: int = 0
    repeated: int = 0
    """In the ledger already."""
    quarantined: int = 0
    """New ones that cannot be counted."""


class RecountQuery(Message, frozen=True, kw_only=True, tag="recount_query.v1"):
    """Request on `meter.recount`: count a page of what is in quarantine and can be counted now."""

    reason: str | None = None
    """Only what is there for this reason, as `spot_meter_quarantined_total` names it; None: for any."""
    after: str = ""
    """`next` of the page before; "" asks for the first."""


class Recounted(Message, frozen=True, kw_only=True, tag="recounted.v1"):
    """Answer on `meter.recount`, in messages."""

    counted: int = 0
    repeated: int = 0
    """Were in the ledger already, as other messages."""
    left: int = 0
    """Cannot be counted: unreadable, invalid, unknown, or of days that are sealed."""
    next: str | None = None
    """Where the next page begins; None: there is no other."""


class HistoryQuery(Message, frozen=True, kw_only=True, tag="history_query.v1"):
    """Request on `meter.history`: the requests that completed from `start` up to, without it, `end`; a page of them."""

    start: UnixSeconds
    end: UnixSeconds
    after: tuple[float, str] | None = None
    """`next` of the page before; None asks for the first."""


class Use(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One request at an engine."""

    completed_at: float
    waited: float
    """Seconds for a wake."""
    seconds: Seconds
    """With its machine."""
    model: int
    """Its place in the page's `models`."""
    tokens: int
    """Prompt and completion."""


class History(Message, frozen=True, kw_only=True, tag="history.v1"):
    """Answer on `meter.history`: a page, in the order in which the requests completed."""

    models: tuple[str, ...]
    uses: tuple[Use, ...]
    next: tuple[float, str] | None
    """Where the next page begins; None: this is the last one."""


class ErrorReply(Message, frozen=True, kw_only=True, tag="refused.v1"):
    """Any request's answer when it cannot be done: why, and what to do."""

    reason: str
