"""Which gateways died with requests in flight: those that fell silent without saying that they leave."""

from dataclasses import dataclass, field

from shared.messages.gateway import Activity

SILENT_SECONDS = 10.0
"""Gateways send a heartbeat every 2 s."""


@dataclass
class GatewayLiveness:
    """Each gateway's last heartbeat. Times are Unix seconds by the receiver's clock."""

    _latest: dict[str, tuple[float, Activity]] = field(default_factory=dict)

    def record(self, activity: Activity, now: float) -> None:
        if activity.leaving:
            self._latest.pop(activity.gateway, None)
        else:
            self._latest[activity.gateway] = (now, activity)

    def pop_silent(self, now: float) -> list[Activity]:
        """Return the last heartbeats of the gateways that fell silent since the last call."""
        silent = [name for name, (at, _) in self._latest.items() if now - at > SILENT_SECONDS]
        return [self._latest.pop(name)[1] for name in silent]

    def clear(self) -> None:
        """Forget all heartbeats: while none can be received, silence means nothing."""
        self._latest.clear()
