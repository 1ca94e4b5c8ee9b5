"""Logs and counts each request once its response is decided."""

from collections.abc import Callable
from dataclasses import dataclass

from services.gateway.adapters.access_log import AccessLog, RequestLine
from services.gateway.adapters.http.client_response import ClientResponse
from services.gateway.core.response_counts import ResponseCounts, effective_status
from services.gateway.core.usage_record import UsageRecord
from services.gateway.metrics import Metrics

CLIENT_CLOSED = 499
"""Status for the log and the metrics: the client left before its response ended. It is never sent."""
MAX_PATH = 200
"""Characters of a request's path in the log."""


@dataclass(eq=False)
class RequestLog:
    """Writes the access log and the response metrics. `now` is Unix seconds."""

    access_log: AccessLog
    metrics: Metrics
    responses: ResponseCounts
    now: Callable[[], float]

    def write(
        self,
        response: ClientResponse,
        status: int,
        code: str = "",
        usage: UsageRecord | None = None,
        *,
        error_status: int | None = None,
    ) -> None:
        """Count the response and write its line.

        Args:
            response: its key is None if the client sent no valid one.
            status: the status that the client gets.
            code: the code of a gateway error.
            usage: the usage of a request to an engine.
            error_status: the status of an error that came after another status had been sent.
        """
        key, request = response.key, response.request
        self.metrics.answers[status, code] += 1
        if key is None:
            self.metrics.without_key += 1
        elif usage is not None:
            counted = effective_status(error_status or status, code, usage)
            self.responses.current[usage.model or "", *counted] += 1
        log, now = self.access_log, self.now()
        if not log.enabled or (key is None and not log.admits_anonymous(now)):
            return
        line = RequestLine(
            request_id=response.id,
            peer=response.connection.address,
            method=request.method,
            path=_printable(request.raw_path.partition("?")[0][:MAX_PATH]),  # some clients send their key in the query
            status=status,
            code=code,
            seconds=now - response.arrived,
            key_id=key.id if key else None,
            model=usage.model if usage else None,
            machine=usage.machine.machine if usage and usage.machine else None,
            outcome=usage.outcome if usage and usage.written else None,
            prompt_tokens=usage.count.prompt if usage else 0,
            completion_tokens=usage.count.completion if usage else 0,
            wake_wait=usage.wake_wait if usage else 0.0,
            first_byte=usage.first_byte if usage else None,
        )
        log.write(line, now)


def _printable(path: str) -> str:
    """Return the path, read as Latin-1 if it is not ASCII."""
    return path if path.isascii() else path.encode("utf-8", "surrogateescape").decode("latin-1")
