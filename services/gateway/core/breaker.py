"""Which machines get no requests for a while, since they failed several times in a row, until a trial succeeds.

A machine that nobody can connect to fails for everyone. Any other failure, such as no answer in time, a 5xx or a death
in a stream, may be the doing of the request: it counts for the key whose request it was, and for everyone only once
another key's request has failed too. A 4xx and a client that leaves say nothing about a machine.
"""

from dataclasses import dataclass, field

FAILURES = 3
"""In a row, before a machine is left alone: one may be chance, three are not."""
MAX_FAILURES_PER_KEY = FAILURES - 1
"""That count for others: one key's requests never do it alone."""
MAX_KEYS = 1000
"""Told apart per machine; more than two are enough for everyone."""
PAUSE_SECONDS = 5.0
"""The first pause; each trial that fails doubles it."""
MAX_PAUSE_SECONDS = 60.0


@dataclass(slots=True)
class _Streak:
    """Failures in a row. Enough of them pause, and each further one doubles the pause."""

    failures: int = 0
    pause_s: float = 0.0
    until: float = 0.0

    def settle(self, now: float) -> None:
        if self.failures >= FAILURES:
            self.pause_s = min(MAX_PAUSE_SECONDS, self.pause_s * 2 or PAUSE_SECONDS)
            self.until = now + self.pause_s


@dataclass(slots=True)
class _Record:
    """One machine's failures: for everyone those to connect, and some of each key's."""

    everyone: _Streak = field(default_factory=_Streak)
    keys: dict[str, _Streak] = field(default_factory=dict)


@dataclass(slots=True)
class Breaker:
    """Failures per machine. Times are the caller's, in seconds."""

    _records: dict[str, _Record] = field(default_factory=dict)
    """Machines whose last request failed; empty while all is well."""

    @property
    def busy(self) -> bool:
        """Whether anything has failed: while nothing has, every machine is closed."""
        return bool(self._records)

    def is_closed(self, machine: str, key_id: str, now: float) -> bool:
        """Whether the machine may get a request of the key. After a pause it may get one, as a trial."""
        return all(now >= streak.until for streak in self._streaks(machine, key_id))

    def on_attempt(self, machine: str, key_id: str, now: float) -> None:
        """A request goes there: while a trial runs no second one follows."""
        for streak in self._streaks(machine, key_id):
            if streak.pause_s:
                streak.until = now + streak.pause_s

    def on_failure(self, machine: str, key_id: str, now: float) -> None:
        """A request of the key failed there, once it had reached the machine."""
        record = self._records.setdefault(machine, _Record())
        if key_id not in record.keys and len(record.keys) >= MAX_KEYS:
            record.keys.pop(next(iter(record.keys)))
        streak = record.keys.setdefault(key_id, _Streak())
        streak.failures += 1
        record.everyone.failures += streak.failures <= MAX_FAILURES_PER_KEY
        streak.settle(now)
        record.everyone.settle(now)

    def on_unreachable(self, machine: str, now: float) -> None:
        """No connection to the machine could be made."""
        everyone = self._records.setdefault(machine, _Record()).everyone
        everyone.failures += 1
        everyone.settle(now)

    def reset(self, machine: str) -> None:
        """It answered, or it is a new generation: what an earlier engine did is not its fault."""
        self._records.pop(machine, None)

    @property
    def open(self) -> list[str]:
        """Machines that everyone leaves alone, or one key does, whether or not a trial is due."""
        streaks = {machine: (record.everyone, *record.keys.values()) for machine, record in self._records.items()}
        return [machine for machine, of_machine in streaks.items() if any(streak.pause_s for streak in of_machine)]

    def _streaks(self, machine: str, key_id: str) -> list[_Streak]:
        """Those that count for the key."""
        record = self._records.get(machine)
        return [] if record is None else [s for s in (record.everyone, record.keys.get(key_id)) if s is not None]
