"""A circuit breaker: a machine that fails several times in a row gets no requests for a while, until a trial succeeds.

A machine that cannot be connected to fails for every key. Any other failure, such as a timeout, a 5xx or a stream that
breaks off, may be the request's own fault: it counts against the key that sent it, and against all keys only once
another key's request has failed too. A 4xx or a client that disconnects says nothing about a machine.
"""

from dataclasses import dataclass, field

FAILURES = 3
"""Failures in a row before a machine is paused: one may be chance, three are not."""
MAX_FAILURES_PER_KEY = FAILURES - 1
"""Failures of one key that count for all: one key alone never pauses a machine for the others."""
MAX_KEYS = 1000
"""Keys tracked per machine; two of them are enough to pause it for everyone."""
PAUSE_SECONDS = 5.0
"""The first pause; each failed trial doubles it."""
MAX_PAUSE_SECONDS = 60.0


@dataclass(slots=True)
class _Streak:
    """Failures in a row. From `FAILURES` on they pause the machine, and each further one doubles the pause."""

    failures: int = 0
    pause_s: float = 0.0
    until: float = 0.0

    def settle(self, now: float) -> None:
        if self.failures >= FAILURES:
            self.pause_s = min(MAX_PAUSE_SECONDS, self.pause_s * 2 or PAUSE_SECONDS)
            self.until = now + self.pause_s


@dataclass(slots=True)
class _Record:
    """One machine's failures. `everyone` has the failed connections and a few failures of each key."""

    everyone: _Streak = field(default_factory=_Streak)
    keys: dict[str, _Streak] = field(default_factory=dict)


@dataclass(slots=True)
class Breaker:
    """Failures per machine. The caller passes the time, in seconds."""

    _records: dict[str, _Record] = field(default_factory=dict)
    """Machines whose last request failed; empty while all is well."""

    @property
    def has_failures(self) -> bool:
        """Whether any machine has failed lately. If none has, every machine's breaker is closed."""
        return bool(self._records)

    def is_closed(self, machine: str, key_id: str, now: float) -> bool:
        """Return whether the machine may get a request of the key. After a pause it may get one, as a trial."""
        return all(now >= streak.until for streak in self._streaks(machine, key_id))

    def on_attempt(self, machine: str, key_id: str, now: float) -> None:
        """Record that a request is sent to the machine: while a trial runs, no second one follows."""
        for streak in self._streaks(machine, key_id):
            if streak.pause_s:
                streak.until = now + streak.pause_s

    def on_failure(self, machine: str, key_id: str, now: float) -> None:
        """Record that a request of the key failed after it had reached the machine."""
        record = self._records.setdefault(machine, _Record())
        if key_id not in record.keys and len(record.keys) >= MAX_KEYS:
            record.keys.pop(next(iter(record.keys)))
        streak = record.keys.setdefault(key_id, _Streak())
        streak.failures += 1
        record.everyone.failures += streak.failures <= MAX_FAILURES_PER_KEY
        streak.settle(now)
        record.everyone.settle(now)

    def on_unreachable(self, machine: str, now: float) -> None:
        """Record that the machine could not be connected to."""
        everyone = self._records.setdefault(machine, _Record()).everyone
        everyone.failures += 1
        everyone.settle(now)

    def reset(self, machine: str) -> None:
        """Forget the machine's failures: it has answered, or a new generation runs on it."""
        self._records.pop(machine, None)

    @property
    def paused_machines(self) -> list[str]:
        """Machines that are paused for everyone or for one key, whether or not a trial is due."""
        streaks = {machine: (record.everyone, *record.keys.values()) for machine, record in self._records.items()}
        return [machine for machine, of_machine in streaks.items() if any(streak.pause_s for streak in of_machine)]

    def _streaks(self, machine: str, key_id: str) -> list[_Streak]:
        """Return the streaks that count for the key."""
        record = self._records.get(machine)
        return [] if record is None else [s for s in (record.everyone, record.keys.get(key_id)) if s is not None]
