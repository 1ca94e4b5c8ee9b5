"""Which gateways died with requests in flight: those that fell silent without a last word."""

from dataclasses import dataclass, field

from shared.messages.gateway import Activity

SILENT_SECONDS = 10.0
"""They speak every 2 s."""


@dataclass
class GatewayLiveness:
    """What each gateway said last. Times are Unix seconds by the listener's clock."""

    _latest: dict[str, tuple[float, Activity]] = field(default_factory=dict)

    def record(self, activity: Activity, now: float) -> None:
        if activity.leaving:
            self._latest.pop(activity.gateway, None)
        else:
            self._latest[activity.gateway] = (now, activity)

    def pop_silent(self, now: float) -> list[Activity]:
        """The last words of those that fell silent since the last call."""
        gone = [name for name, (at, _) in self._latest.items() if now - at > SILENT_SECONDS]
        return [self._latest.pop(name)[1] for name in gone]

    def clear(self) -> None:
        """Nobody can be heard: silence means nothing."""
        self._latest.clear()
