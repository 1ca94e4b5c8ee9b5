"""What the gateway publishes: demand for a model, activity on machines, one usage event per request, use of limits."""

from decimal import Decimal
from typing import Literal

import msgspec

from shared.messages.codec import Message
from shared.messages.values import Count, Seconds, UnixSeconds, Whole, check_amounts

Outcome = Literal["completed", "client_closed", "engine_lost", "failed"]
Basis = Literal["engine", "counted", "none"]


class WakeCause(msgspec.Struct, frozen=True, kw_only=True):
    """A key that wants a wake, and what it may cause at most."""

    key_id: str
    wakes_per_hour: Count
    cost_per_day: Decimal
    """USD per UTC day."""

    def __post_init__(self) -> None:
        check_amounts(self.cost_per_day)


class WakeRequest(Message, frozen=True, kw_only=True, tag="wake_request.v1"):
    """`wake.request.<model>`: how many requests wait for a model at one gateway. A level, not an edge.

    Repeated while requests wait; `waiting` 0 withdraws it. Times are Unix seconds.
    """

    model: str
    gateway: str
    waiting: Count
    deadline: UnixSeconds
    """When the last of the waiting requests gives up, by the gateway's clock: `seconds_left` needs none."""
    sent_at: UnixSeconds
    request_ids: tuple[str, ...] = ()
    """The requests that caused the demand, the oldest first; bounded by the publisher."""
    key_id: str = ""
    """The key whose request came first; it caused the wake."""
    seconds_left: Seconds | None = None
    """When the last of the waiting requests gives up, from now on."""
    causes: tuple[WakeCause, ...] = ()
    """The keys whose requests wait, in the order of their turns; bounded by the publisher."""


class MachineActivity(msgspec.Struct, frozen=True, kw_only=True):
    """One gateway's view of one machine."""

    in_flight: Count
    last_used_at: UnixSeconds | None = None
    """By the gateway's clock. `idle_s` says it without a clock."""
    idle_s: Seconds | None = None
    """Seconds since its last use when this was sent; None: not used by this gateway."""
    acknowledged: Count | None = None
    """Revision of the machine's `draining` record that this gateway has seen with nothing in flight there.

    From then on it sends the machine nothing until a later record says `ready`.
    """


class Activity(Message, frozen=True, kw_only=True, tag="activity.v1"):
    """`activity.<gateway>`: every 2 s and at each change, what one gateway does with each machine."""

    gateway: str
    sent_at: UnixSeconds
    machines: dict[str, MachineActivity]
    leaving: bool = False
    """The gateway's last word: it has nothing in flight and takes no more."""
    written: Count | None = None
    """`source_seq` of its newest usage event, 0 for none; the events' source is `gateway`."""


class UsageEvent(Message, frozen=True, kw_only=True, omit_defaults=True, tag="usage.v1"):
    """`usage.<partition>`: one per request whose first byte was written to an engine.

    `prompt_tokens` includes cached ones, `completion_tokens` includes reasoning. Times are Unix seconds,
    durations seconds. Fields that came later are left out where they say nothing: an event is encoded as it was when
    it was sealed.
    """

    id: str
    """UUIDv7 of the request; also the message id on the bus."""
    source: str
    """Gateway replica and boot."""
    source_seq: int
    """Gapless per source, from 1."""
    completed_at: float
    key_id: str
    model: str
    tier: str
    machine: str
    generation: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    basis: Basis
    """`engine`: reported by it; `counted`: one completion token per relayed delta; `none`: unknown, all 0."""
    outcome: Outcome
    status: int
    """The engine's HTTP status, 0 where it sent none."""
    streamed: bool
    wake_wait: float
    wake_id: str | None
    first_token: float | None
    """From arrival to the first byte of the answer, without the wait for a wake."""
    duration: float
    """From arrival to the end of the answer."""
    overhead: float
    """The gateway's own part of the way to the engine: arrival to forwarded, without the wait for a wake."""
    moved_from: str | None = None
    """The machine that had the request first and failed before it answered anything."""
    choices: int = 1
    """Answers asked for in one (`n`)."""
    max_tokens: int = 0
    """The most completion tokens that each of them may have, as the request said; 0: not known."""
    body_bytes: int = 0
    """Length of the request's body; 0: not known."""
    operation: str = ""
    """What was asked for, in OpenTelemetry's words: `chat`, `text_completion` or `embeddings`. Empty: not known."""


class UsageSource(Message, frozen=True, kw_only=True, tag="usage_source.v1"):
    """Bucket `sources`, by source: written before the first usage event of this source is sent."""

    source: str
    """As in its events: a gateway's replica and boot."""
    at: float
    """Unix seconds."""


class KeyQuota(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One key at one gateway. Each four numbers: requests and tokens of the last minute, requests at once, tokens of
    the month that the ledger has not confirmed."""

    used: tuple[Whole, Whole, Whole, Whole]
    """Reserved tokens included."""
    limits: tuple[Whole | None, Whole | None, Whole | None, Whole | None]
    """None is unlimited; the limit of the month is what the ledger has left of it."""
    wanted: tuple[Whole, Whole, Whole, Whole] = (0, 0, 0, 0)
    """What a waiting request asks beyond what this gateway may use."""


class QuotaLease(msgspec.Struct, frozen=True, kw_only=True):
    """What one gateway lets another use of the keys' limits."""

    version: Count
    """The lender's counter; it only rises."""
    parts: Count
    """A key that is not named has its limits divided by this; 0: nothing of them."""
    keys: dict[str, tuple[Whole, Whole, Whole, Whole]]


class QuotaReport(Message, frozen=True, kw_only=True, tag="limits.v1"):
    """`limits.<gateway>`: every 2 s and on change, what one gateway uses of its keys' limits and what it lends.

    Each report has the whole state, so the next one makes up for a lost one.
    Times are Unix seconds by the sender's clock.
    """

    gateway: str
    started: UnixSeconds
    """The eldest gateway lends to the others."""
    number: Count
    """Rises with each report; one with a lower number than the last heard is late."""
    sent_at: UnixSeconds
    follows: str
    """The gateway whose lease it uses: the eldest that it hears, or itself. Empty: it serves nobody yet."""
    version: Count
    """The version of the lease that it uses; 0 if none."""
    keys: dict[str, KeyQuota]
    """The keys with a limit that are in use here. `machine/<id>` stands for the places on a machine."""
    heard: dict[str, UnixSeconds]
    """`sent_at` of the newest message of each other gateway."""
    loans: dict[str, QuotaLease]
    """The leases that it grants, by follower."""
    leaving: bool = False
    """Its last report: it has nothing in flight and takes no more requests."""
