"""`spotinference keys`: make, list and revoke API keys. Only their SHA-256 is stored; a secret is printed once."""

import secrets
import time
from datetime import UTC, datetime
from decimal import Decimal

import click
import msgspec
from rich.table import Table

from shared.bus.jetstream import JetStreamBus
from shared.bus.ports import Bus
from shared.bus.topology import KEYS
from shared.config.values import Money
from shared.errors import Misconfigured
from shared.ids import uuid7
from shared.key_names import names_of
from shared.messages.codec import encode, rfc3339
from shared.messages.keys import KeyRecord, digest
from spotinference.bucket_reader import read_bucket
from spotinference.context import Context, fail, suite_options
from spotinference.terminal import echo_json, say, show

LIMITS = {
    "requests_per_minute": "requests/min",
    "tokens_per_minute": "tokens/min",
    "concurrency": "at once",
    "monthly_tokens": "tokens/month",
    "wakes_per_hour": "wakes/hour",
    "wake_cost_per_day": "USD of wakes/day",
}
"""Fields of a key's record that bound it, and what they count. Absent: unlimited, and of wakes as `[gateway]` says."""
POSITIVE = click.IntRange(min=1)
MOST_WAKES = 1000
"""The waker remembers so many of a key."""


@click.group()
def keys() -> None:
    """API keys."""


@keys.command()
@click.option("--name", required=True, help="Whose key it is.")
@click.option("--rpm", "requests_per_minute", type=POSITIVE, help="Requests per minute.  [default: unlimited]")
@click.option(
    "--tpm", "tokens_per_minute", type=POSITIVE, help="Tokens per minute, prompt and completion.  [default: unlimited]"
)
@click.option(
    "--concurrency",
    type=POSITIVE,
    help="Requests at once, including those that wait for a machine.  [default: unlimited]",
)
@click.option("--monthly-tokens", type=POSITIVE, help="Tokens per calendar month (UTC).  [default: unlimited]")
@click.option(
    "--wakes-per-hour",
    type=click.IntRange(1, MOST_WAKES),
    help="Wakes that its requests may cause per hour.  [default: [gateway] wakes_per_hour]",
)
@click.option(
    "--wake-cost-per-day",
    metavar="USD",
    help="What these wakes may cost per UTC day, e.g. 5.00.  [default: [gateway] wake_cost_per_day]",
)
@click.option("--models", help="Allowed models, separated by commas.  [default: all]")
@click.option("--expires", help="When it ends: RFC 3339, e.g. 2027-01-31 or 2027-01-31T12:00:00Z.  [default: never]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object with id and key.")
@suite_options
def create(
    context: Context,
    /,
    *,
    name: str,
    models: str | None,
    expires: str | None,
    wake_cost_per_day: str | None,
    as_json: bool,
    **limits: int | None,
) -> None:
    """Make a key and print its secret, once."""
    config = context.config()
    allowed = tuple(m.strip() for m in models.split(",")) if models is not None else None
    for model in allowed or ():
        if model not in config.models:
            raise Misconfigured(f"--models: no [[model]] is named {model!r}")
    ends = None if expires is None else _moment(expires)
    cost = None if wake_cost_per_day is None else _amount("--wake-cost-per-day", wake_cost_per_day)
    key_id, secret = context.on_bus(
        lambda bus: mint(bus, name=name, models=allowed, expires_at=ends, wake_cost_per_day=cost, **limits)
    )
    if as_json:
        echo_json({"id": key_id, "key": secret})
    else:
        for line in (f"id   {key_id}", f"key  {secret}", "", "It is not stored and cannot be shown again."):
            say(line)


async def mint(
    bus: Bus,
    *,
    name: str,
    models: tuple[str, ...] | None = None,
    expires_at: float | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    concurrency: int | None = None,
    monthly_tokens: int | None = None,
    wakes_per_hour: int | None = None,
    wake_cost_per_day: Decimal | None = None,
) -> tuple[str, str]:
    """A new key's id and secret. The limits are positive; None is unlimited."""
    now = time.time()
    secret = f"sk-{secrets.token_urlsafe(32)}"
    record = KeyRecord(
        id=uuid7(now),
        name=name,
        created_at=now,
        models=models,
        expires_at=expires_at,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        concurrency=concurrency,
        monthly_tokens=monthly_tokens,
        wakes_per_hour=wakes_per_hour,
        wake_cost_per_day=wake_cost_per_day,
    )
    await bus.create(KEYS, digest(secret), encode(record))
    return record.id, secret


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object with a list of keys.")
@suite_options
def list_keys(context: Context, *, as_json: bool) -> None:
    """All keys, the oldest first; no secrets."""
    found = sorted((record for _, record, _ in context.on_bus(_records)), key=lambda record: record.created_at)
    if as_json:
        rows = [
            {
                "id": r.id,
                "name": r.name,
                "state": _state(r),
                "models": r.models,
                **{limit: getattr(r, limit) for limit in LIMITS},
                "created_at": rfc3339(r.created_at),
                "expires_at": None if r.expires_at is None else rfc3339(r.expires_at),
            }
            for r in found
        ]
        echo_json({"keys": rows})
        return
    table = Table("id", "name", "state", "models", "limits", "expires")
    for r in found:
        expires = "never" if r.expires_at is None else rfc3339(r.expires_at)
        models = "all" if r.models is None else ", ".join(r.models)
        table.add_row(r.id, r.name, _state(r), models, _limits(r), expires)
    show(table)


@keys.command()
@click.argument("key_id", metavar="ID")
@suite_options
def revoke(context: Context, key_id: str) -> None:
    """End a key; gateways refuse it within a second."""

    async def work(bus: JetStreamBus) -> bool:
        for name, record, revision in await _records(bus):
            if record.id == key_id:
                if record.revoked_at is None:
                    ended = msgspec.structs.replace(record, revoked_at=time.time())
                    await bus.update(KEYS, name, encode(ended), revision=revision)
                return True
        return False

    if not context.on_bus(work):
        fail(nobody(key_id))
    say(f"revoked {key_id}")


def nobody(key_id: str) -> str:
    """What to say of an id that no key has."""
    return f"no key has the id {key_id!r}: `spotinference keys list` shows them"


async def ids_of(bus: Bus, key: str) -> list[str]:
    """Return `key` itself where it is a key's id, else the ids of the keys with this name; revoked ones included."""
    records = [record for _, record, _ in await _records(bus)]
    if any(record.id == key for record in records):
        return [key]
    return sorted(record.id for record in records if record.name == key)


async def key_names(bus: Bus) -> dict[str, str]:
    """Names by id, of all keys that there are."""
    return names_of(record for _, record, _ in await _records(bus))


async def _records(bus: Bus) -> list[tuple[str, KeyRecord, int]]:
    return [(key, record, revision) for key, (record, revision) in (await read_bucket(bus, KEYS, KeyRecord)).items()]


def _state(record: KeyRecord) -> str:
    if record.revoked_at is not None:
        return "revoked"
    return "usable" if record.usable(time.time()) else "expired"


def _limits(record: KeyRecord) -> str:
    told = [f"{limit} {counts}" for field, counts in LIMITS.items() if (limit := getattr(record, field)) is not None]
    return "\n".join(told) or "none"


def _amount(option: str, text: str) -> Decimal:
    try:
        return Decimal(Money.parse(text))
    except ValueError as error:
        raise Misconfigured(f"{option}: {error}") from None


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Misconfigured(f"--expires: expected a time such as 2027-01-31T12:00:00Z, got {text!r}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
