"""Which machines are left alone for a while, since they failed again and again; each is tried again afterwards.

Failures are those of a machine: no connection, no answer in time, a 5xx, a death in a stream. A 4xx and a client that
leaves say nothing about a machine.
"""

from dataclasses import dataclass, field

FAILURES = 3
"""In a row, before a machine is left alone: one may be chance, three are not."""
PAUSE_SECONDS = 5.0
"""The first pause; each trial that fails doubles it."""
MAX_PAUSE_SECONDS = 60.0


@dataclass
class _Record:
    failures: int = 0
    pause: float = 0.0
    until: float = 0.0


@dataclass
class Breaker:
    """Failures per machine. Times are the caller's, in seconds."""

    _records: dict[str, _Record] = field(default_factory=dict)
    """Machines whose last request failed; empty while all is well."""

    @property
    def busy(self) -> bool:
        """Whether anything has failed: where nothing has, nobody need ask more."""
        return bool(self._records)

    def closed(self, machine: str, now: float) -> bool:
        """Whether the machine may get a request. After a pause it may get one, as a trial."""
        record = self._records.get(machine)
        return record is None or record.failures < FAILURES or now >= record.until

    def on_try(self, machine: str, now: float) -> None:
        """A request goes there: while a trial runs no second one follows."""
        record = self._records.get(machine)
        if record is not None and record.failures >= FAILURES:
            record.until = now + record.pause

    def on_success(self, machine: str) -> None:
        self._records.pop(machine, None)

    def on_failure(self, machine: str, now: float) -> None:
        record = self._records.setdefault(machine, _Record())
        record.failures += 1
        if record.failures >= FAILURES:
            record.pause = min(MAX_PAUSE_SECONDS, record.pause * 2 or PAUSE_SECONDS)
            record.until = now + record.pause

    def forget(self, machine: str) -> None:
        """A new generation: what an earlier engine did is not its fault."""
        self._records.pop(machine, None)

    @property
    def open(self) -> list[str]:
        """Machines that have failed often enough, whether or not a trial is due."""
        return [machine for machine, record in self._records.items() if record.failures >= FAILURES]
