"""Builds every subject and every bucket key.

The names of models and machines may be any printable string; `token` turns one into a subject token.
"""

import re
from zlib import crc32

from shared.messages.codec import Unreadable, decode_text

_PLAIN = re.compile(r"[A-Za-z0-9_-]")
_ESCAPED = re.compile(r"=([0-9A-F]{2})")
_TOKEN = re.compile(r"(?:[A-Za-z0-9_-]|=[0-9A-F]{2})+")
SHOWN = 100
"""Characters of a malformed key that an error shows."""
PARTITIONS = 8
"""Number of subjects that usage is spread over, so that readers can share it."""


def token(name: str) -> str:
    """Return a name as one subject token, also valid as a key. Other characters become `=XX` per UTF-8 byte."""
    if not name:
        raise ValueError("a name on the bus must not be empty")
    return "".join(c if _PLAIN.fullmatch(c) else "".join(f"={b:02X}" for b in c.encode()) for c in name)


def is_plain(name: str) -> bool:
    """Return whether a name is its own token."""
    return bool(name) and token(name) == name


def name(key: str) -> str:
    """Return the name that a key or a subject's token was made from. The dots between the tokens of a key stay.

    Raises:
        Unreadable: `token` never makes this key. So no two keys have the same name.
    """
    return ".".join(map(_name_of, key.split(".")))


def _name_of(subject_token: str) -> str:
    if not _TOKEN.fullmatch(subject_token):
        raise Unreadable(f"{subject_token[:SHOWN]!r} is not a name in the bus's encoding")
    decoded = decode_text(_ESCAPED.sub(lambda m: chr(int(m[1], 16)), subject_token).encode("latin-1"))
    if token(decoded) != subject_token:
        raise Unreadable(f"{subject_token[:SHOWN]!r} is not how the bus encodes the name {decoded[:SHOWN]!r}")
    return decoded


def wake_request(model: str) -> str:
    return f"wake.request.{token(model)}"


def replica(user: str | None, name: str) -> str:
    """Return how a replica names itself in messages: `<user>.<name>` where the bus knows users, else the name."""
    return f"{user}.{name}" if user else name


def activity(gateway: str) -> str:
    return f"activity.{_user_token(gateway)}"


def limits(gateway: str) -> str:
    return f"limits.{_user_token(gateway)}"


def _user_token(gateway: str) -> str:
    """Return the token under which a gateway publishes: its user's, as no permission can match a part of a token."""
    user, dot, _ = gateway.partition(".")
    return token(user if dot and user else gateway)


def check_sender(subject: str, gateway: str) -> None:
    """Raise `Unreadable` if a gateway's message is on another user's subject, where only that user may publish."""
    sender = subject.rpartition(".")[2]
    if sender not in (_user_token(gateway), token(gateway)):
        raise Unreadable(f"{subject[:SHOWN]} is not the subject of gateway {gateway[:SHOWN]!r}")


def machine_notice(machine: str) -> str:
    return f"machine.notice.{token(machine)}"


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
    """Return the key of scope `fleet` or `tier.<tier>`."""
    kind, dot, tier = scope.partition(".")
    return f"{kind}.{token(tier)}" if dot else scope


def budget_journal(scope: str) -> str:
    """Return the journal subject of a budget. No machine's subject has as many tokens."""
    return f"fleet.journal.budget.{budget_key(scope)}"


def confirmed_key(source: str) -> str:
    return f"confirmed.{token(source)}"


def source_key(source: str) -> str:
    return token(source)


def responses_key(source: str, hour: int) -> str:
    """Return the key of a gateway's responses in an hour (since 1970). Its first token is the gateway's user."""
    return f"{_user_token(source)}.{token(source)}.{hour}"


def audit_key(day: str) -> str:
    return f"audit.{day}"


def key_wakes_key(key_id: str) -> str:
    return token(key_id)


def month_key(key_id: str) -> str:
    return token(key_id)


def published_key(day: str) -> str:
    return f"published.{day}"


def public_day_key(day: str) -> str:
    """Return the key of a day's public figures."""
    return f"day.{day}"


def bench_key(run: str) -> str:
    return f"bench.{run}"


WAKE_REQUESTS = "wake.request.>"
ACTIVITIES = "activity.*"
LIMITS = "limits.*"
MACHINE_NOTICES = "machine.notice.*"
WAKER_COMMAND = "waker.command"
METER_TOKENS = "meter.tokens"
METER_HISTORY = "meter.history"
METER_GAPS = "meter.gaps"
METER_LOST = "meter.lost"
METER_REREAD = "meter.reread"
METER_RECOUNT = "meter.recount"
METER_FIGURES = "meter.figures"
METER_AUDIT = "meter.audit"
METER_KEYS = "meter.keys"
METER_RESPONSES = "meter.responses"
BILLING_IMPORT = "billing.import"
BILLING_IMPORT_STATUS = "billing.import_status"
BILLING_INVOICES = "billing.invoices"
BILLING_PAYABLE = "billing.payable"
BILLING_REPORT = "billing.report"
BILLING_REPORTS = "billing.reports"
BILLING_BANDS = "billing.bands"
BILLING_STATEMENT = "billing.statement"
BILLING_TRAIL = "billing.trail"
BILLING_GATE = "billing.gate"
BILLING_PUBLISHED = "billing.published"
WAKER_REQUESTS = (WAKER_COMMAND,)
METER_QUERIES = (METER_TOKENS, METER_HISTORY, METER_GAPS, METER_FIGURES, METER_AUDIT, METER_KEYS, METER_RESPONSES)
"""Those of its requests that change nothing."""
METER_REQUESTS = (*METER_QUERIES, METER_LOST, METER_REREAD, METER_RECOUNT)
BILLING_QUERIES = (
    BILLING_INVOICES,
    BILLING_REPORT,
    BILLING_REPORTS,
    BILLING_BANDS,
    BILLING_STATEMENT,
    BILLING_TRAIL,
)
"""Those of its requests that change nothing."""
BILLING_REQUESTS = (*BILLING_QUERIES, BILLING_GATE, BILLING_IMPORT, BILLING_IMPORT_STATUS, BILLING_PAYABLE)
WAKER_ORDERS_KEY = "orders"
WAKER_WAKES_KEY = "wakes"
HEADLINE_KEY = "headline"
WAKER_LEASE = "waker"
BILLING_LEASE = "billing"
METER_LEASE = "meter"


def matches(pattern: str, subject: str) -> bool:
    """Match as NATS does: `*` is one token, a final `>` one or more."""
    pattern_tokens, tokens = pattern.split("."), subject.split(".")
    for i, part in enumerate(pattern_tokens):
        if part == ">":
            return len(tokens) > i
        if i >= len(tokens) or part not in ("*", tokens[i]):
            return False
    return len(pattern_tokens) == len(tokens)
