"""Declares everything on the bus: streams, durable consumers, buckets, object stores.

`provision` makes a server match it. Each number has its reason beside it.
"""

from dataclasses import dataclass

from shared.units import DAY_S


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A JetStream stream on file storage."""

    name: str
    subjects: tuple[str, ...]
    max_age: float | None
    """Seconds; None keeps messages for ever."""
    last_per_subject: bool = False
    discard_new: bool = False
    """A full stream rejects new messages instead of dropping old ones."""
    keep_for_good: bool = False
    """Deny purging and deleting."""
    duplicate_window: float = 120.0


@dataclass(frozen=True, kw_only=True)
class Consumer:
    """A durable pull consumer with explicit acknowledgement and unlimited redelivery."""

    stream: str
    subject: str
    """Messages under other subjects are not delivered."""
    durable: str
    ack_wait: float
    max_ack_pending: int


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """A key-value bucket with history 1."""

    name: str
    ttl: float | None = None
    """How many seconds a key lives after its last write; None for ever."""


@dataclass(frozen=True, kw_only=True)
class ObjectStore:
    """A store of files on the bus."""

    name: str


WAKE = Stream(name="WAKE", subjects=("wake.request.>",), max_age=600.0, last_per_subject=True, duplicate_window=10.0)
FLEET_JOURNAL = Stream(name="FLEET", subjects=("fleet.journal.>",), max_age=None, keep_for_good=True)
USAGE = Stream(
    name="USAGE",
    subjects=("usage.*",),
    # Longer than a replay can be late, and than a month's books stay open.
    max_age=40 * DAY_S,
    discard_new=True,
    keep_for_good=True,
)

LEDGER = Consumer(stream=USAGE.name, subject=USAGE.subjects[0], durable="ledger", ack_wait=30.0, max_ack_pending=10_000)
BOOKS = Consumer(
    stream=FLEET_JOURNAL.name, subject=FLEET_JOURNAL.subjects[0], durable="books", ack_wait=30.0, max_ack_pending=1000
)
AUDIT = Consumer(
    stream=FLEET_JOURNAL.name, subject=FLEET_JOURNAL.subjects[0], durable="audit", ack_wait=30.0, max_ack_pending=1000
)
WAKE_HISTORY = Consumer(
    stream=FLEET_JOURNAL.name, subject=FLEET_JOURNAL.subjects[0], durable="site", ack_wait=30.0, max_ack_pending=1000
)

LEASE_SECONDS = 5.0
"""A leader that stops renewing is replaced within this time, so that a standby acts within 10 s."""

FLEET = Bucket(name="fleet")
KEYS = Bucket(name="keys")
METER = Bucket(name="meter")
SOURCES = Bucket(name="sources", ttl=80 * DAY_S)
"""Who may send usage: a gateway writes the name of its source before the first event, and after each reconnect. Kept
twice as long as the stream keeps usage."""
RESPONSES = Bucket(name="responses", ttl=40 * DAY_S)
"""How gateways answered, hour by hour. Kept as long as usage, for a ledger that is restored from an older copy."""
MONTHS = Bucket(name="months")
BUDGET = Bucket(name="budget")
WAKER = Bucket(name="waker")
"""What a leading waker has to know from its predecessor. Only the leader reads and writes it."""
WAKES = Bucket(name="wakes")
"""What the wakes of each key have cost."""
REPORTS = Bucket(name="reports")
"""Measured runs and published figures."""
LEASES = Bucket(name="leases", ttl=LEASE_SECONDS)

INVOICES = ObjectStore(name="invoices")
BOOKS_FILES = ObjectStore(name="books")
"""Published reports, one file for each day, revision and file format."""

STREAMS = (WAKE, FLEET_JOURNAL, USAGE)
CONSUMERS = (LEDGER, BOOKS, AUDIT, WAKE_HISTORY)
BUCKETS = (FLEET, KEYS, METER, SOURCES, RESPONSES, MONTHS, BUDGET, WAKER, WAKES, REPORTS, LEASES)
OBJECT_STORES = (INVOICES, BOOKS_FILES)

BACKED_UP = (
    FLEET_JOURNAL.name,
    *(f"KV_{bucket.name}" for bucket in (WAKER, WAKES, REPORTS, BUDGET)),
    *(f"OBJ_{store.name}" for store in (INVOICES, BOOKS_FILES)),
)
"""Names of the streams that the bus alone has, beside the keys. Usage is in the ledger, or still in the gateways'
outboxes; the fleet is observed anew; marks and months come from the ledger."""
