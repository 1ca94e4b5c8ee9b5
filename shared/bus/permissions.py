"""Who may do what on the bus: one row for each user, from which the server's permissions are made.

A row names buckets, streams and consumers of the topology. Everything that it does not name is denied, and that is most
of JetStream's API: nobody but `setup` creates, changes or deletes a stream, and only who puts objects can purge one:
their store.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from shared.bus import subjects, topology
from shared.bus.topology import Bucket, Consumer, ObjectStore, Stream

Role = Literal[
    "gateway", "waker", "meter", "billing", "site", "operator", "backup", "outbox", "machine", "reaper", "setup"
]
ROLES: tuple[Role, ...] = get_args(Role)
NAMED: frozenset[Role] = frozenset({"gateway", "machine"})
"""Roles of which there may be several users, with names of their own."""
OWN = "{user}"
"""In a subject: the user's own name."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one user does. A bucket that is written is read too."""

    publishes: tuple[str, ...] = ()
    subscribes: tuple[str, ...] = ()
    reads: tuple[Bucket, ...] = ()
    writes: tuple[Bucket, ...] = ()
    writes_blindly: tuple[Bucket, ...] = ()
    """Without reading them."""
    own_keys: tuple[Bucket, ...] = ()
    """Buckets in which it writes, without reading them, the keys that begin with its own name."""
    keys: tuple[tuple[Bucket, str], ...] = ()
    """The only keys, or patterns of keys, that it writes in a bucket that it reads."""
    consumes: tuple[Consumer, ...] = ()
    streams: tuple[Stream, ...] = ()
    """Streams that it reads from any position, without a durable consumer."""
    pages: tuple[Stream, ...] = ()
    """The same, page by page."""
    last: tuple[Stream, ...] = ()
    """Streams of which it gets the last message of a subject."""
    backlogs: tuple[Consumer, ...] = ()
    """Consumers of others whose backlog it reads."""
    objects: tuple[ObjectStore, ...] = ()
    puts: tuple[ObjectStore, ...] = ()
    """Object stores in which it also puts objects."""
    saves: tuple[str, ...] = ()
    """Names of the streams that it saves whole, as the server packs them."""
    requests: tuple[str, ...] = ()
    responds: tuple[str, ...] = ()


ROWS: Mapping[Role, Row] = {
    "gateway": Row(
        publishes=("wake.request.*", f"activity.{OWN}", f"limits.{OWN}", "usage.*"),
        subscribes=(subjects.LIMITS,),
        reads=(topology.FLEET, topology.KEYS, topology.BUDGET, topology.MONTHS, topology.METER, topology.WAKES),
        writes_blindly=(topology.SOURCES,),
        own_keys=(topology.RESPONSES,),
    ),
    "waker": Row(
        publishes=("fleet.journal.*",),
        subscribes=(subjects.WAKE_REQUESTS, subjects.ACTIVITIES, subjects.MACHINE_NOTICES),
        reads=(topology.BUDGET,),
        writes=(topology.FLEET, topology.WAKER, topology.WAKES),
        keys=((topology.LEASES, subjects.WAKER_LEASE),),
        last=(topology.WAKE,),
        responds=subjects.WAKER_REQUESTS,
    ),
    "meter": Row(
        subscribes=(subjects.ACTIVITIES,),
        reads=(topology.FLEET, topology.KEYS, topology.SOURCES, topology.RESPONSES),
        writes=(topology.METER, topology.MONTHS),
        keys=((topology.LEASES, subjects.METER_LEASE), (topology.REPORTS, subjects.audit_key("*"))),
        consumes=(topology.LEDGER, topology.AUDIT),
        pages=(topology.USAGE, topology.FLEET_JOURNAL),
        responds=subjects.METER_REQUESTS,
    ),
    "billing": Row(
        publishes=("fleet.journal.budget.>", subjects.BILLING_PUBLISHED),
        reads=(topology.KEYS,),
        writes=(topology.BUDGET,),
        keys=(
            (topology.LEASES, subjects.BILLING_LEASE),
            (topology.REPORTS, subjects.published_key("*")),
            (topology.REPORTS, subjects.public_day_key("*")),
            (topology.REPORTS, subjects.HEADLINE_KEY),
        ),
        consumes=(topology.BOOKS,),
        pages=(topology.FLEET_JOURNAL,),
        puts=(topology.INVOICES, topology.BOOKS_FILES),
        requests=(subjects.METER_TOKENS,),
        responds=subjects.BILLING_REQUESTS,
    ),
    "site": Row(
        subscribes=(subjects.ACTIVITIES, subjects.LIMITS),
        reads=(
            topology.FLEET,
            topology.BUDGET,
            topology.REPORTS,
            topology.MONTHS,
            topology.WAKES,
            topology.LEASES,
        ),
        writes=(topology.KEYS,),
        consumes=(topology.WAKE_HISTORY,),
        streams=(topology.FLEET_JOURNAL,),
        pages=(topology.FLEET_JOURNAL,),
        objects=(topology.BOOKS_FILES,),
        requests=(subjects.WAKER_COMMAND, subjects.BILLING_GATE, *subjects.METER_QUERIES, *subjects.BILLING_QUERIES),
    ),
    "operator": Row(
        subscribes=(subjects.ACTIVITIES, *topology.FLEET_JOURNAL.subjects),
        reads=(topology.FLEET, topology.WAKER, topology.BUDGET, topology.METER, topology.SOURCES),
        writes=(topology.KEYS,),
        keys=((topology.REPORTS, subjects.bench_key("*")),),
        streams=(topology.FLEET_JOURNAL,),
        backlogs=(topology.LEDGER,),
        objects=(topology.BOOKS_FILES,),
        puts=(topology.INVOICES,),
        requests=(*subjects.WAKER_REQUESTS, *subjects.METER_REQUESTS, *subjects.BILLING_REQUESTS),
    ),
    "backup": Row(reads=(topology.KEYS,), saves=topology.BACKED_UP),
    # As any gateway, with what one left behind.
    "outbox": Row(
        publishes=("usage.*",), reads=(topology.METER,), writes_blindly=(topology.SOURCES, topology.RESPONSES)
    ),
    # A rented machine, which trusts nobody and is trusted with a word about itself. Its user has the machine's name.
    "machine": Row(publishes=(f"machine.notice.{OWN}",)),
    # The second line, outside: what it stops is in the journal.
    "reaper": Row(
        publishes=("fleet.journal.*",), subscribes=(subjects.ACTIVITIES,), reads=(topology.FLEET, topology.LEASES)
    ),
    "setup": Row(publishes=(">",)),
}


@dataclass(frozen=True, kw_only=True)
class Permissions:
    """Subjects that a user may publish and subscribe. `deny` wins over `publish`."""

    publish: tuple[str, ...]
    deny: tuple[str, ...]
    subscribe: tuple[str, ...]


def inbox_prefix(user: str) -> str:
    """Return where the replies to a user arrive. Nobody else may subscribe to it."""
    return f"_INBOX_{subjects.token(user)}"


def permissions(role: Role, user: str) -> Permissions:
    """Return what the user of this name may do in this role."""
    row = ROWS[role]
    publish = [subject.replace(OWN, subjects.token(user)) for subject in (*row.publishes, *row.requests)]
    for bucket in (*row.reads, *row.writes, *(bucket for bucket, _ in row.keys)):
        publish += _read(f"KV_{bucket.name}")
    publish += [f"$JS.API.STREAM.INFO.KV_{bucket.name}" for bucket in (*row.writes_blindly, *row.own_keys)]
    publish += [f"$KV.{bucket.name}.>" for bucket in (*row.writes, *row.writes_blindly)]
    publish += [f"$KV.{bucket.name}.{key}" for bucket, key in row.keys]
    publish += [f"$KV.{bucket.name}.{subjects.token(user)}.>" for bucket in row.own_keys]
    for consumer in row.consumes:
        publish += [_next(consumer), _info(consumer), f"$JS.ACK.{consumer.stream}.{consumer.durable}.>"]
    for stream in (*row.streams, *row.pages):
        publish += _follow(stream.name)
    publish += [f"$JS.API.CONSUMER.MSG.NEXT.{stream.name}.*" for stream in row.pages]
    publish += [f"$JS.API.STREAM.MSG.GET.{stream.name}" for stream in row.last]
    publish += [_info(consumer) for consumer in row.backlogs]
    for store in (*row.objects, *row.puts):
        publish += [*_read(f"OBJ_{store.name}"), "$JS.API.STREAM.NAMES"]  # the client looks the stream up
    for store in row.puts:
        publish += [f"$O.{store.name}.>", f"$JS.API.STREAM.PURGE.OBJ_{store.name}"]  # the chunks of a failed put
    for name in row.saves:
        publish += [f"$JS.API.STREAM.SNAPSHOT.{name}", f"$JS.SNAPSHOT.ACK.{name}.>"]
    publish += [f"{inbox_prefix(other)}.>" for other in _requesters(row.responds)]
    if role not in ("setup", "machine"):
        publish.append(f"$JS.API.STREAM.INFO.{topology.WAKE.name}")  # its answer has the server's time
    subscribe = [f"{inbox_prefix(user)}.>", *row.subscribes, *row.responds]
    if row.responds:
        subscribe += [f"$SRV.{verb}{rest}" for verb in ("PING", "INFO", "STATS") for rest in ("", ".>")]
    return Permissions(publish=_unique(publish), deny=_unique(_others_consumers(row)), subscribe=_unique(subscribe))


def _follow(stream: str) -> list[str]:
    """Read a stream with named consumers that the server removes by itself."""
    verbs = ("CREATE", "INFO", "DELETE")
    consumers = [f"$JS.API.CONSUMER.{verb}.{stream}.>" for verb in verbs]
    return [f"$JS.API.STREAM.INFO.{stream}", *consumers, f"$JS.FC.{stream}.>"]


def _read(stream: str) -> list[str]:
    """Read a stream that has no durable consumer: one without a name in its subject could be any of them."""
    return [*_follow(stream), f"$JS.API.CONSUMER.CREATE.{stream}", f"$JS.API.STREAM.MSG.GET.{stream}"]


def _next(consumer: Consumer) -> str:
    return f"$JS.API.CONSUMER.MSG.NEXT.{consumer.stream}.{consumer.durable}"


def _info(consumer: Consumer) -> str:
    return f"$JS.API.CONSUMER.INFO.{consumer.stream}.{consumer.durable}"


def _others_consumers(row: Row) -> list[str]:
    """Return what would change a durable consumer of a stream that the user reads, or take its messages."""
    read = {stream.name for stream in (*row.streams, *row.pages)}
    denied: list[str] = []
    for consumer in topology.CONSUMERS:
        if consumer.stream in read:
            of_consumer = f"{consumer.stream}.{consumer.durable}"
            denied += [f"$JS.API.CONSUMER.{verb}.{of_consumer}" for verb in ("CREATE", "DELETE")]
            denied.append(f"$JS.API.CONSUMER.CREATE.{of_consumer}.>")
            if consumer not in row.consumes:
                denied.append(_next(consumer))
    return denied


def _requesters(responds: tuple[str, ...]) -> list[Role]:
    """Return whose requests a responder answers: those of its clients, and of `setup`, which may send any."""
    return [role for role in ROLES if responds and (role == "setup" or set(responds) & set(ROWS[role].requests))]


def _unique(patterns: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(patterns))
