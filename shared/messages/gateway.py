"""What the gateway publishes: demand for a model, activity on machines, one usage event per request."""

from typing import Literal

import msgspec

from shared.messages.codec import Message

Outcome = Literal["completed", "client_closed", "engine_lost", "failed"]
Basis = Literal["engine", "counted", "none"]


class WakeRequest(Message, frozen=True, kw_only=True, tag="wake_request.v1"):
    """`wake.request.<model>`: how many requests wait for a model at one gateway. A level, not an edge.

    Repeated while requests wait; `waiting` 0 withdraws it. Times are Unix seconds.
    """

    model: str
    gateway: str
    waiting: int
    deadline: float
    """When the last of the waiting requests gives up."""
    sent_at: float
    request_ids: tuple[str, ...] = ()
    """The requests that caused the demand, the oldest first; bounded by the publisher."""
    key_id: str = ""
    """Whose request came first: the key that caused the wake."""


class MachineActivity(msgspec.Struct, frozen=True, kw_only=True):
    """One gateway's view of one machine."""

    in_flight: int
    last_used_at: float | None = None
    acknowledged: int | None = None
    """Revision of the machine's `draining` record that this gateway has seen with nothing in flight there.

    From then on it sends the machine nothing until a later record says `ready`.
    """


class Activity(Message, frozen=True, kw_only=True, tag="activity.v1"):
    """`activity.<gateway>`: every 2 s and at each change, what one gateway does with each machine."""

    gateway: str
    sent_at: float
    machines: dict[str, MachineActivity]
    leaving: bool = False
    """The gateway's last word: it has nothing in flight and takes no more."""


class UsageEvent(Message, frozen=True, kw_only=True, tag="usage.v1"):
    """`usage.<partition>`: one per request whose first byte was written to an engine.

    `prompt_tokens` includes cached ones, `completion_tokens` includes reasoning. Times are Unix seconds,
    durations seconds.
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
