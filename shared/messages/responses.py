"""How requests were answered: what gateways count by status and code, and what the meter answers about it."""

from typing import Annotated

import msgspec
from msgspec import Meta

from shared.messages.codec import Message
from shared.messages.values import Count

Status = Annotated[int, Meta(ge=100, lt=600)]
Code = Annotated[str, Meta(pattern=r"^[a-z0-9_]{0,64}$")]


class ResponseCount(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Responses of one kind."""

    model: str
    """The client's name for it; "" if the request ended before its model was known to exist."""
    status: Status
    """An error that came after the 200 of a stream counts under the status that it would have had; 499: the client
    left."""
    code: Code
    """The code of an error; "" if there was none, or it was the engine's."""
    responses: Count


class HourResponses(Message, frozen=True, kw_only=True, tag="hour_responses.v1"):
    """Bucket `responses`, key `<user>.<source>.<hour>`: the responses of one gateway in one hour, so far.

    Its numbers only rise, so that the highest one of each kind is the right one however often it is read.
    """

    source: str
    """The gateway's replica and boot."""
    hour: Count
    """Hours since 1970."""
    counts: tuple[ResponseCount, ...]
    """Responses to requests with a valid key, to paths that engines serve."""


class ResponsesQuery(Message, frozen=True, kw_only=True, tag="responses_query.v1"):
    """Request on `meter.responses`: the responses of one UTC day, or of several in a row."""

    day: str
    """`YYYY-MM-DD`."""
    to: str | None = None
    """The last of several days; None: `day` alone."""
    by: tuple[str, ...] = ()
    """Any of `day`, `hour`, `model`, `status`, `code`. Hours are kept for 60 days, days for good."""


class ResponseSums(msgspec.Struct, frozen=True, kw_only=True):
    """Responses of all kinds, and those among them that reliability is about."""

    responses: int = 0
    succeeded: int = 0
    """Status 2xx, complete and without an error."""
    unavailable: int = 0
    """Status 503."""
    timed_out: int = 0
    """Status 504."""
    failed: int | None = None
    """Status 5xx, or 2xx with an error; not 503 `waking`, since that caller asked not to wait. None: the meter that
    answers is of an older version."""

    @property
    def judged(self) -> int | None:
        """The responses of which success is a share: those that succeeded or failed.

        That a client left, sent what cannot be served or came to a limit of its key says nothing about the service.
        """
        return None if self.failed is None else self.succeeded + self.failed


class ResponsesRow(msgspec.Struct, frozen=True, kw_only=True):
    """Sums under one combination of the requested dimensions."""

    dimensions: dict[str, str]
    sums: ResponseSums


class Responses(Message, frozen=True, kw_only=True, tag="responses.v1"):
    """Answer on `meter.responses`."""

    day: str
    totals: ResponseSums
    rows: tuple[ResponsesRow, ...] = ()
    to: str | None = None
    """As in the query."""
