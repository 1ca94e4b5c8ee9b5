"""What is told of each request once its answer is decided: a number in the metrics, a line in the log."""

from services.gateway.access_log import RequestLine
from services.gateway.core.usage_record import UsageRecord
from services.gateway.door import Door
from services.gateway.http.request import Request

CLIENT_CLOSED = 499
"""For the log and the metrics: the client left before an answer ended. Nobody is sent it."""
MAX_PATH = 200
"""Of a request's target in the log."""


def told(
    door: Door, request: Request, status: int, code: str, *, key_id: str | None, tally: UsageRecord | None = None
) -> None:
    """`code`: of an error of ours, else empty. `tally`: of a request that was for an engine."""
    door.metrics.answers[status, code] += 1
    if key_id is None:
        door.metrics.without_key += 1
    log, now = door.access_log, door.now()
    if not log.enabled or (key_id is None and not log.admits_anonymous(now)):
        return
    line = RequestLine(
        request_id=request.id,
        peer=request.peer,
        method=request.method,
        path=request.target.partition(b"?")[0][:MAX_PATH].decode("latin-1"),  # some send their key in a query
        status=status,
        code=code,
        seconds=now - request.arrived,
        key_id=key_id,
        model=tally.model if tally else None,
        machine=tally.machine.machine if tally and tally.machine else None,
        outcome=tally.outcome if tally and tally.written else None,
        prompt_tokens=tally.count.prompt if tally else 0,
        completion_tokens=tally.count.completion if tally else 0,
        wake_wait=tally.wake_wait if tally else 0.0,
        first_byte=tally.first_byte if tally else None,
    )
    log.write(line, now)
