"""What the meter publishes: how much of each source is in the ledger, each key's use per month, and its answers."""

import math
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from shared.messages.codec import Message
from shared.messages.values import Count, Seconds, UnixSeconds
from shared.units import DAY_S


class Confirmed(Message, frozen=True, kw_only=True, tag="confirmed.v1"):
    """Bucket `meter`, key `confirmed.<source>`: every event up to here is committed to the ledger."""

    source: str
    source_seq: Count
    at: UnixSeconds


class KeyMonth(Message, frozen=True, kw_only=True, tag="key_month.v1"):
    """Bucket `months`, by key: the tokens of a key's latest month that are committed to the ledger.

    A meter publishes it before the `Confirmed` of the same events. Within a month `tokens` only rises, and a month is
    only followed by a later one.
    """

    key_id: str
    month: str
    """When the requests completed, as `month_of` names it."""
    tokens: Count
    """Prompt and completion of every outcome but `failed`."""
    at: UnixSeconds


def month_of(at: float) -> str:
    """Return the calendar month in UTC of a Unix time: `YYYY-MM`."""
    return _month_of_day(math.floor(at) // int(DAY_S))


@lru_cache(maxsize=64)  # called for each request of a key with a monthly limit
def _month_of_day(day: int) -> str:
    moment = datetime.fromtimestamp(day * DAY_S, UTC)
    return f"{moment.year:04}-{moment.month:02}"


class TokensQuery(Message, frozen=True, kw_only=True, tag="tokens_query.v1"):
    """Request on `meter.tokens`: the ledger's sums of one UTC day, or of several in a row."""

    day: str
    """`YYYY-MM-DD`."""
    to: str | None = None
    """The last of several days; None: `day` alone."""
    by: tuple[str, ...] = ()
    """Any of `day`, `hour`, `minute`, `model`, `tier`, `key`, `machine`, `outcome`, `direction`."""
    busy: bool = False
    """Whether to include the intervals in which each machine had requests in flight."""
    key: str | None = None
    """Only the usage of this key; None: all keys."""
    keys: tuple[str, ...] = ()
    """Only the usage of these, and `key` is one of them: a meter that does not know `keys` answers of that one."""
    after: str | None = None
    """`next` of the previous page; "" asks for the first page; None: everything, an error if no message can hold it."""


class TokenSums(msgspec.Struct, frozen=True, kw_only=True):
    """Whole numbers; prompt includes cached, completion includes reasoning."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0


def plausible(sums: TokenSums) -> TokenSums:
    """Return the sums with no more cached than prompt and no more reasoning than completion tokens.

    Old ledgers have events whose engine reported otherwise; every reader subtracts the one from the other.
    """
    cached, reasoning = min(sums.cached_tokens, sums.prompt_tokens), min(sums.reasoning_tokens, sums.completion_tokens)
    if (cached, reasoning) == (sums.cached_tokens, sums.reasoning_tokens):
        return sums
    return msgspec.structs.replace(sums, cached_tokens=cached, reasoning_tokens=reasoning)


class TokensRow(msgspec.Struct, frozen=True, kw_only=True):
    """Sums under one combination of the requested dimensions."""

    dimensions: dict[str, str]
    sums: TokenSums


class Tokens(Message, frozen=True, kw_only=True, tag="tokens.v1"):
    """Answer on `meter.tokens`."""

    day: str
    complete: bool
    """The day is over, all of its events have been read, and none is missing or may still arrive."""
    totals: TokenSums
    served: TokenSums
    """`totals` without the outcome `failed`: the denominator of the cost per token."""
    rows: tuple[TokensRow, ...] = ()
    busy: dict[str, tuple[tuple[float, float], ...]] = msgspec.field(default_factory=dict)
    """Machine to merged, sorted intervals (Unix seconds, end exclusive) within the day; empty if not requested."""
    open_gaps: int = 0
    """Source sequence numbers that are known to be missing."""
    to: str | None = None
    """As in the query."""
    reasons: tuple[str, ...] = ()
    """Why it is not complete, one sentence each; empty if it is."""
    next: str | None = None
    """Where the next page of rows and busy times begins; None: this is the last one."""
    keys: tuple[str, ...] = ()
    """As in the query. Empty: the answer is about its `key`, or about all."""


class GapsQuery(Message, frozen=True, kw_only=True, tag="gaps_query.v1"):
    """Request on `meter.gaps`: the missing events of any day."""


class KeysQuery(Message, frozen=True, kw_only=True, tag="keys_query.v1"):
    """Request on `meter.keys`: the keys on the bus beside the ledger's copy of them."""


class KeyComparison(Message, frozen=True, kw_only=True, tag="key_comparison.v1"):
    """Answer on `meter.keys`."""

    revocations: Count
    """Revoked keys in the ledger's copy."""
    missing: Count
    """Secrets of keys that the copy has and the bus lacks."""
    revived: Count
    """Secrets of keys that have ended by the copy, and that the bus shows as usable."""


class OpenGap(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of a source that have not arrived, or arrived in a message that could not be counted."""

    source: str
    first: int
    last: int
    earliest: UnixSeconds
    """Unix seconds: their requests completed between the two."""
    latest: UnixSeconds
    quarantined: str | None = None
    """Why it could not be counted; None: nothing arrived."""
    note: str | None = None
    """What else is known about why they are missing."""


class DeclaredLost(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers that were declared lost."""

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
    missing: int = 0
    """Events that gateways said they wrote and the ledger lacks, those under way included."""


class DeclareLost(Message, frozen=True, kw_only=True, tag="declare_lost.v1"):
    """Request on `meter.lost`: declare missing numbers lost, so that their days can be final.

    An event that arrives after all is still counted.
    """

    source: str
    first: int
    last: int
    by: str
    """A person's name."""
    reason: str


class RereadQuery(Message, frozen=True, kw_only=True, tag="reread_query.v1"):
    """Request on `meter.reread`: read a page of the usage stream again and count what the ledger lacks."""

    since: UnixSeconds | None = None
    """Unix seconds: skip what the stream stored before; None: from its beginning."""
    after: int = 0
    """`last` of the previous page; 0 asks for the first."""


class Reread(Message, frozen=True, kw_only=True, tag="reread.v1"):
    """Answer on `meter.reread`: the result of one page, in messages."""

    last: int
    """Sequence in the stream up to which it was read."""
    end: int
    """Sequence of the stream's newest message, which the last page reaches."""
    read: int = 0
    counted: int = 0
    repeated: int = 0
    """Already in the ledger."""
    quarantined: int = 0
    """New messages that cannot be counted."""


class RecountQuery(Message, frozen=True, kw_only=True, tag="recount_query.v1"):
    """Request on `meter.recount`: count those messages on a page of the quarantine that can be counted now."""

    reason: str | None = None
    """Only messages quarantined for this reason, as `spot_meter_quarantined_total` names it; None: any."""
    after: str = ""
    """`next` of the previous page; "" asks for the first."""


class Recounted(Message, frozen=True, kw_only=True, tag="recounted.v1"):
    """Answer on `meter.recount`, in messages."""

    counted: int = 0
    repeated: int = 0
    """Already in the ledger, from other messages."""
    left: int = 0
    """Cannot be counted: unreadable, invalid, unknown, or of days that are sealed."""
    next: str | None = None
    """Where the next page begins; None: this is the last one."""


class HistoryQuery(Message, frozen=True, kw_only=True, tag="history_query.v1"):
    """Request on `meter.history`: a page of the requests that completed from `start` to `end`, end exclusive."""

    start: UnixSeconds
    end: UnixSeconds
    after: tuple[float, str] | None = None
    """`next` of the page before; None asks for the first."""


class PastRequest(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One request that reached an engine."""

    completed_at: float
    waited: float
    """Seconds spent waiting for a wake."""
    seconds: Seconds
    """Seconds with its machine."""
    model: int
    """Index into the page's `models`."""
    tokens: int
    """Prompt and completion."""


class History(Message, frozen=True, kw_only=True, tag="history.v1"):
    """Answer on `meter.history`: a page, in the order in which the requests completed."""

    models: tuple[str, ...]
    uses: tuple[PastRequest, ...]
    next: tuple[float, str] | None
    """Where the next page begins; None: this is the last one."""


class ErrorReply(Message, frozen=True, kw_only=True, tag="refused.v1"):
    """The answer to any request that cannot be served: why, and what to do."""

    reason: str
