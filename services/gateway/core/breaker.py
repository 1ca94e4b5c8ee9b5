"""Which machines are left alone for a while, since they failed again and again; each is tried again afterwards.

A machine that nobody can connect to fails for everyone. Any other failure, such as no answer in time, a 5xx or a death
in a stream, may be the doing of the request: it counts for the key whose request it was, and for everyone only once
another key's request has failed too. A 4xx and a client that leaves say nothing about a machine.
"""

from dataclasses import dataclass, field

FAILURES = 3
"""In a row, before a machine is left alone: one may be chance, three are not."""
MOST_OF_A_KEY = FAILURES - 1
"""That count for others: one key's requests never do it alone."""
MAX_KEYS = 1000
"""Told apart per machine; more than two are enough for everyone."""
PAUSE_SECONDS = 5.0
"""The first pause; each trial that fails doubles it."""
MAX_PAUSE_SECONDS = 60.0


@dataclass(slots=True)
class _Pause:
    """Doubles with each failure that keeps it up."""

    seconds: float = 0.0
    until: float = 0.0

    def extend(self, now: float) -> None:
        self.seconds = min(MAX_PAUSE_SECONDS, self.seconds * 2 or PAUSE_SECONDS)
        self.until = now + self.seconds

    def on_try(self, now: float) -> None:
        if self.seconds:
            self.until = now + self.seconds


@dataclass(slots=True)
class _OfKey:
    failures: int = 0
    pause: _Pause = field(default_factory=_Pause)


@dataclass(slots=True)
class _Record:
    """Failures in a row."""

    unreachable: int = 0
    keys: dict[str, _OfKey] = field(default_factory=dict)
    pause: _Pause = field(default_factory=_Pause)
    """For everyone."""

    @property
    def left_alone(self) -> bool:
        return self.pause.seconds > 0 or any(of_key.pause.seconds for of_key in self.keys.values())

    def settle(self, now: float) -> None:
        of_keys = sum(min(MOST_OF_A_KEY, of_key.failures) for of_key in self.keys.values())
        if self.unreachable + of_keys >= FAILURES:
            self.pause.extend(now)


@dataclass
class Breaker:
    """Failures per machine. Times are the caller's, in seconds."""

    _records: dict[str, _Record] = field(default_factory=dict)
    """Machines whose last request failed; empty while all is well."""

    @property
    def busy(self) -> bool:
        """Whether anything has failed: where nothing has, nobody need ask more."""
        return bool(self._records)

    def closed(self, machine: str, key_id: str, now: float) -> bool:
        """Whether the machine may get a request of the key. After a pause it may get one, as a trial."""
        record = self._records.get(machine)
        if record is None:
            return True
        of_key = record.keys.get(key_id)
        return now >= record.pause.until and (of_key is None or now >= of_key.pause.until)

    def on_try(self, machine: str, key_id: str, now: float) -> None:
        """A request goes there: while a trial runs no second one follows."""
        record = self._records.get(machine)
        if record is not None:
            record.pause.on_try(now)
            if (of_key := record.keys.get(key_id)) is not None:
                of_key.pause.on_try(now)

    def on_success(self, machine: str) -> None:
        self._records.pop(machine, None)

    def on_failure(self, machine: str, key_id: str, now: float) -> None:
        """A request of the key failed there, once it had reached the machine."""
        record = self._records.setdefault(machine, _Record())
        of_key = record.keys.get(key_id)
        if of_key is None:
            if len(record.keys) >= MAX_KEYS:
                record.keys.pop(next(iter(record.keys)))
            of_key = record.keys[key_id] = _OfKey()
        of_key.failures += 1
        if of_key.failures >= FAILURES:
            of_key.pause.extend(now)
        record.settle(now)

    def on_unreachable(self, machine: str, now: float) -> None:
        """No connection to the machine could be made."""
        record = self._records.setdefault(machine, _Record())
        record.unreachable += 1
        record.settle(now)

    def forget(self, machine: str) -> None:
        """A new generation: what an earlier engine did is not its fault."""
        self._records.pop(machine, None)

    @property
    def open(self) -> list[str]:
        """Machines that everyone leaves alone, or one key does, whether or not a trial is due."""
        return [machine for machine, record in self._records.items() if record.left_alone]
