"""Machines, wakes and providers."""

from deploy.observability.boards.expressions import gauge, quantile, rate
from deploy.observability.charts import Board, Chart

FLEET = Board(
    uid="spotinference-fleet",
    title="spotinference: fleet",
    description="Machines: which state they are in, how they wake, and what their providers answer.",
    rows={
        "Machines": [
            Chart(
                number=1,
                title="Machines by state",
                unit="short",
                lines={"{{tier}} {{state}}": gauge("spot_waker_machines", "tier, state") + " > 0"},
                stacked=True,
            ),
            Chart(
                number=2,
                title="Machines that need an operator",
                unit="short",
                lines={"{{machine}}: {{reason}}": gauge("spot_waker_alarm", "machine, reason")},
            ),
            Chart(
                number=3,
                title="Transitions per hour",
                unit="short",
                lines={"{{tier}} to {{to_state}}": f"3600 * {rate('spot_waker_transitions_total', 'tier, to_state')}"},
            ),
        ],
        "Wakes": [
            Chart(
                number=10,
                title="Asleep to ready, P95",
                unit="s",
                lines={
                    "{{tier}}": quantile("0.95", "spot_waker_wake_seconds", "tier"),
                    "oldest under way": gauge("spot_waker_oldest_wake_seconds"),
                },
                limit=480,
            ),
            Chart(
                number=11,
                title="Phases of wakes, mean",
                unit="s",
                lines={
                    "{{tier}} {{phase}}": (
                        f"{rate('spot_waker_phase_seconds_sum', 'tier, phase')}"
                        f" / {rate('spot_waker_phase_seconds_count', 'tier, phase')}"
                    )
                },
                description="Where the eight minutes go.",
                stacked=True,
            ),
            Chart(
                number=12,
                title="Requests that wait",
                unit="short",
                lines={"{{pod}}": gauge("spot_gateway_waiting", "pod")},
                stacked=True,
            ),
        ],
        "Providers": [
            Chart(
                number=20,
                title="Calls and probes per hour",
                unit="short",
                lines={"{{call}} {{outcome}}": f"3600 * {rate('spot_waker_provider_calls_total', 'call, outcome')}"},
            ),
            Chart(
                number=21,
                title="Providers in doubt",
                unit="short",
                lines={"{{provider}}": gauge("spot_waker_provider_in_doubt", "provider")},
                description="None of their machines is put to sleep.",
            ),
            Chart(
                number=22,
                title="Replicas that lead",
                unit="short",
                lines={
                    "waker": gauge("spot_waker_leading", aggregate="sum"),
                    "meter": gauge("spot_meter_leading", aggregate="sum"),
                    "billing": gauge("spot_billing_leading", aggregate="sum"),
                },
                limit=1.5,
            ),
        ],
    },
)
