"""What the waker has learned from a machine's engine: by probes, and by asking what it runs. Times are Unix seconds."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Probing:
    """What the probes of the engine have shown."""

    is_reachable: bool = False
    """The engine responds; the next probe asks for one token."""
    serial: int | None = None
    """The serial number of the probe under way."""
    sent_at: float = 0.0
    next_at: float = 0.0
    failures: int = 0
    error: str = ""
    """What the last failed probe got."""
    reported_at: float = 0.0
    """When a probe's error was last put on record."""

    def for_new_engine(self, now: float) -> "Probing":
        """Forget the previous engine: its responses prove nothing about the new one."""
        return replace(self, is_reachable=False, serial=None, next_at=now, failures=0, error="")


@dataclass(frozen=True, kw_only=True)
class IdleCheck:
    """What the engine says about its requests, once every gateway has let go of the draining machine."""

    passed: bool = False
    """It runs nothing, or does not say."""
    serial: int | None = None
    sent_at: float = 0.0
    next_at: float = 0.0
    failures: int = 0
    """Questions in a row without a response."""
