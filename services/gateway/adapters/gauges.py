"""The gauges: what each part of the gateway holds when it is scraped."""

from collections.abc import Callable

from services.gateway.adapters.http.connections import Connections
from services.gateway.adapters.outbox import Outbox
from services.gateway.core.buffer_memory import BufferMemory
from services.gateway.core.scheduler import RequestScheduler
from services.gateway.metrics import Metrics


def add_gauges(
    metrics: Metrics,
    connections: Connections,
    memory: BufferMemory,
    scheduler: RequestScheduler,
    outbox: Outbox,
    *,
    now: Callable[[], float],
) -> None:
    """Add a gauge for each; `now` is Unix seconds."""

    def age(since: float | None) -> float:
        return 0.0 if since is None else max(0.0, now() - since)

    add = metrics.add_gauge
    add("connections", "Client connections.", lambda: len(connections))
    add("buffered_bytes", "Request bodies, and responses until they are read, in memory.", lambda: memory.used)
    add("unread_answers", "Complete responses that their clients have not read yet.", lambda: connections.unread)
    add("in_flight", "Requests at engines.", lambda: scheduler.total_in_flight)
    add("waiting", "Requests held for a wake.", lambda: scheduler.total_waiting)
    add(
        "oldest_waiting_seconds",
        "Age of the oldest request that is held for a wake, 0 if there is none.",
        lambda: age(scheduler.oldest_arrival),
    )
    add(
        "machines_left_alone",
        "Machines that are paused after repeated failures.",
        lambda: len(scheduler.breaker.paused_machines),
    )
    add("outbox_pending", "Usage events that the ledger has not confirmed.", lambda: outbox.pending)
    add("outbox_bytes", "Size of the outbox on disk.", lambda: outbox.size_bytes)
    add(
        "outbox_age_seconds",
        "Age of the oldest usage event that the ledger has not confirmed.",
        lambda: age(outbox.oldest_at),
    )
