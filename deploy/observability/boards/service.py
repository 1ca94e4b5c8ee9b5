"""What clients notice, and whether their usage arrives."""

from deploy.observability.boards.expressions import gauge, quantile, rate
from deploy.observability.charts import Board, Chart

SERVICE = Board(
    uid="spotinference-service",
    title="spotinference: service",
    description="What clients notice, and whether their usage arrives in the ledger.",
    rows={
        "Requests": [
            Chart(
                number=1,
                title="Responses by status",
                unit="reqps",
                lines={"{{status}}": rate("spot_gateway_answers_total", "status")},
                stacked=True,
            ),
            Chart(
                number=2,
                title="Errors by code",
                unit="reqps",
                lines={"{{code}}": rate("spot_gateway_answers_total", "code", 'code!=""')},
                description="Errors of the gateway, also those that end a stream after its 200.",
                stacked=True,
            ),
            Chart(
                number=3,
                title="Requests at engines by outcome",
                unit="reqps",
                lines={"{{outcome}}": rate("spot_gateway_requests_total", "outcome")},
                stacked=True,
            ),
            Chart(
                number=4,
                title="Tokens per second",
                unit="short",
                lines={"{{direction}}": rate("spot_gateway_tokens_total", "direction")},
                description="`prompt` includes `cached`, `completion` includes `reasoning`.",
            ),
            Chart(
                number=5,
                title="Rejected by a limit",
                unit="reqps",
                lines={"{{limit}}": rate("spot_gateway_limit_hits_total", "limit")},
            ),
            Chart(
                number=6,
                title="In flight and waiting",
                unit="short",
                lines={
                    "in flight": gauge("spot_gateway_in_flight", aggregate="sum"),
                    "waiting for a wake": gauge("spot_gateway_waiting", aggregate="sum"),
                },
            ),
        ],
        "Latency": [
            Chart(
                number=10,
                title="Added by the gateway",
                unit="s",
                lines={
                    "P50": quantile("0.5", "spot_gateway_overhead_seconds"),
                    "P95": quantile("0.95", "spot_gateway_overhead_seconds"),
                },
                description="The promise is less than 5 ms at P95.",
                limit=0.005,
            ),
            Chart(
                number=11,
                title="Time to the first byte, without wakes",
                unit="s",
                lines={
                    "P50": quantile("0.5", "spot_gateway_first_byte_seconds"),
                    "P95": quantile("0.95", "spot_gateway_first_byte_seconds"),
                },
            ),
            Chart(
                number=12,
                title="Between two reads of a stream",
                unit="s",
                lines={
                    "P50": quantile("0.5", "spot_gateway_chunk_gap_seconds"),
                    "P95": quantile("0.95", "spot_gateway_chunk_gap_seconds"),
                },
            ),
            Chart(
                number=13,
                title="Wait for a wake",
                unit="s",
                lines={
                    "P50": quantile("0.5", "spot_gateway_wake_wait_seconds"),
                    "P95": quantile("0.95", "spot_gateway_wake_wait_seconds"),
                    "oldest now": gauge("spot_gateway_oldest_waiting_seconds"),
                },
                description="The budget is 8 minutes.",
                limit=480,
            ),
        ],
        "Usage": [
            Chart(
                number=20,
                title="Age of the oldest unconfirmed usage",
                unit="s",
                lines={"{{pod}}": gauge("spot_gateway_outbox_age_seconds", "pod")},
                limit=300,
            ),
            Chart(
                number=21,
                title="Usage on its way",
                unit="short",
                lines={
                    "in outboxes": gauge("spot_gateway_outbox_pending", aggregate="sum"),
                    "in the stream": gauge("spot_meter_backlog"),
                },
            ),
            Chart(
                number=22,
                title="Messages recorded",
                unit="short",
                lines={"{{kind}}": rate("spot_meter_messages_total", "kind")},
            ),
            Chart(
                number=23,
                title="What does not agree",
                unit="short",
                lines={
                    "missing events": gauge("spot_meter_open_gaps"),
                    "incomplete days": gauge("spot_meter_incomplete_days"),
                    "counts of the audit": gauge("spot_meter_audit_wrong"),
                },
            ),
        ],
        "Processes": [
            Chart(
                number=30,
                title="CPU",
                unit="short",
                lines={"{{pod}} {{instance}}": rate("process_cpu_seconds_total", "pod, instance")},
                description="Cores. A gateway's process uses one at most.",
            ),
            Chart(
                number=31,
                title="Memory",
                unit="bytes",
                lines={"{{pod}} {{instance}}": gauge("process_resident_memory_bytes", "pod, instance")},
            ),
            Chart(
                number=32,
                title="Connected to the bus",
                unit="short",
                lines={"{{pod}} {{instance}}": gauge("spot_bus_connected", "pod, instance", aggregate="min")},
            ),
        ],
    },
)
