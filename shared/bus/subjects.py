"""Every subject and every bucket key, built in one place.

Names of users (a model, a machine) may be any printable string; `token` makes one subject token of them.
"""

import re
from zlib import crc32

from shared.messages.codec import Unreadable, decode_text

_PLAIN = re.compile(r"[A-Za-z0-9_-]")
_ESCAPED = re.compile(r"=([0-9A-F]{2})")
_TOKEN = re.compile(r"(?:[A-Za-z0-9_-]|=[0-9A-F]{2})+")
SHOWN = 100
"""Characters of a key that is no name, for a message about it."""
PARTITIONS = 8
"""Subjects that usage is spread over, so that a later reader can take a part of it."""


def token(name: str) -> str:
    """One subject token, also valid as a bucket's key: what is not plain becomes `=XX` per byte of UTF-8."""
    if not name:
        raise ValueError("a name on the bus may not be empty")
    return "".join(c if _PLAIN.fullmatch(c) else "".join(f"={b:02X}" for b in c.encode()) for c in name)


def name(key: str) -> str:
    """Return the name that a key or a subject's token was made of; between two tokens of a key stays a dot.

    Raises:
        Unreadable: `token` makes no such thing. So no two keys have the same name.
    """
    return ".".join(map(_name_of, key.split(".")))


def _name_of(subject_token: str) -> str:
    if not _TOKEN.fullmatch(subject_token):
        raise Unreadable(f"{subject_token[:SHOWN]!r} is not how a name is written on the bus")
    found = decode_text(_ESCAPED.sub(lambda m: chr(int(m[1], 16)), subject_token).encode("latin-1"))
    if token(found) != subject_token:
        raise Unreadable(f"{subject_token[:SHOWN]!r} is another way to write a name than ours")
    return found


def wake_request(model: str) -> str:
    return f"wake.request.{token(model)}"


def activity(gateway: str) -> str:
    return f"activity.{token(gateway)}"


def limits(gateway: str) -> str:
    return f"limits.{token(gateway)}"


def usage(source: str) -> str:
    return f"usage.{crc32(source.encode()) % PARTITIONS}"


def journal(machine: str) -> str:
    return f"fleet.journal.{token(machine)}"


def machine_key(machine: str) -> str:
    return token(machine)


def machine_memory_key(machine: str) -> str:
    return f"machine.{token(machine)}"


def tier_memory_key(tier: str) -> str:
    return f"tier.{token(tier)}"


def budget_key(scope: str) -> str:
    """Of `fleet` or `tier.<tier>`."""
    kind, dot, tier = scope.partition(".")
    return f"{kind}.{token(tier)}" if dot else scope


def budget_journal(scope: str) -> str:
    """No machine's subject has so many tokens."""
    return f"fleet.journal.budget.{budget_key(scope)}"


def confirmed_key(source: str) -> str:
    return f"confirmed.{token(source)}"


def source_key(source: str) -> str:
    return token(source)


def audit_key(day: str) -> str:
    return f"audit.{day}"


def key_wakes_key(key_id: str) -> str:
    return token(key_id)


def month_key(key_id: str) -> str:
    return token(key_id)


def published_key(day: str) -> str:
    return f"published.{day}"


def bench_key(run: str) -> str:
    return f"bench.{run}"


WAKE_REQUESTS = "wake.request.>"
ACTIVITIES = "activity.*"
LIMITS = "limits.*"
WAKER_COMMAND = "waker.command"
METER_TOKENS = "meter.tokens"
METER_HISTORY = "meter.history"
METER_GAPS = "meter.gaps"
METER_LOST = "meter.lost"
METER_REREAD = "meter.reread"
METER_RECOUNT = "meter.recount"
METER_FIGURES = "meter.figures"
METER_AUDIT = "meter.audit"
BILLING_IMPORT = "billing.import"
BILLING_IMPORT_STATUS = "billing.import_status"
BILLING_INVOICES = "billing.invoices"
BILLING_PAYABLE = "billing.payable"
BILLING_REPORT = "billing.report"
BILLING_REPORTS = "billing.reports"
BILLING_BANDS = "billing.bands"
BILLING_STATEMENT = "billing.statement"
BILLING_GATE = "billing.gate"
BILLING_PUBLISHED = "billing.published"
WAKER_ORDERS_KEY = "orders"
WAKER_WAKES_KEY = "wakes"
WAKER_LEASE = "waker"
BILLING_LEASE = "billing"
METER_LEASE = "meter"


def matches(pattern: str, subject: str) -> bool:
    """NATS's wildcards: `*` is one token, a last `>` is one or more."""
    want, have = pattern.split("."), subject.split(".")
    for i, part in enumerate(want):
        if part == ">":
            return len(have) > i
        if i >= len(have) or part not in ("*", have[i]):
            return False
    return len(want) == len(have)
