"""The command `keys`. Only the SHA-256 of a key is stored; its secret is printed once."""

import time
from decimal import Decimal
from pathlib import Path

import click
import msgspec
from rich.table import Table

from shared.bus.ports import Bus
from shared.config.values import Money
from shared.errors import Misconfigured, Rejected
from shared.key_records import SavedKey, merge_keys
from shared.key_store import create_key, revoke_key, roll_key, unknown_key_message
from shared.messages.codec import Unreadable, decode, encode, rfc3339
from shared.runtime.suite_file import write_private
from spotinference.context import Context, exit_with_error, suite_options
from spotinference.keys.store import read_keys, save_keys
from spotinference.keys.view import LIMITS, format_limits, key_state, list_records
from spotinference.option_types import DurationParam
from spotinference.terminal import echo_json, print_line, print_table
from spotinference.times import parse_time

POSITIVE = click.IntRange(min=1)
MAX_WAKES = 1000
"""The waker remembers this many wakes per key."""


class KeyExport(msgspec.Struct, frozen=True, kw_only=True):
    """The file of `keys export`."""

    keys: tuple[SavedKey, ...]


@click.group()
def keys() -> None:
    """Create, roll, list, revoke, export and import API keys."""


@keys.command()
@click.option("--name", required=True, help="Name of the key's owner.")
@click.option("--rpm", "requests_per_minute", type=POSITIVE, help="Requests per minute.  [default: unlimited]")
@click.option(
    "--tpm", "tokens_per_minute", type=POSITIVE, help="Prompt and completion tokens per minute.  [default: unlimited]"
)
@click.option(
    "--concurrency",
    type=POSITIVE,
    help="Concurrent requests, including those that wait for a machine.  [default: unlimited]",
)
@click.option("--monthly-tokens", type=POSITIVE, help="Tokens per calendar month in UTC.  [default: unlimited]")
@click.option(
    "--wakes-per-hour",
    type=click.IntRange(1, MAX_WAKES),
    help="Wakes that its requests may cause per hour.  [default: wakes_per_hour in [gateway]]",
)
@click.option(
    "--wake-cost-per-day",
    metavar="USD",
    help="What these wakes may cost per UTC day, for example 5.00.  [default: wake_cost_per_day in [gateway]]",
)
@click.option("--models", help="Allowed models, comma-separated.  [default: all]")
@click.option(
    "--expires", help="Expiry time in RFC 3339, for example 2027-01-31 or 2027-01-31T12:00:00Z.  [default: never]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
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
    """Create a key and print its secret. The secret cannot be shown again."""
    config = context.config()
    allowed = tuple(m.strip() for m in models.split(",")) if models is not None else None
    for model in allowed or ():
        if model not in config.models:
            raise Misconfigured(f"--models: no [[model]] is named {model!r}")
    ends = None if expires is None else _expiry(expires)
    cost = None if wake_cost_per_day is None else _amount("--wake-cost-per-day", wake_cost_per_day)
    key_id, secret = context.run_with_bus(
        lambda bus: create_key(
            bus,
            name=name,
            models=allowed,
            expires_at=ends,
            wake_cost_per_day=cost,
            owner=None,  # the operator's
            made_by=None,
            **limits,
        )
    )
    if as_json:
        echo_json({"id": key_id, "key": secret})
    else:
        _print_secret(key_id, secret)


@keys.command()
@click.argument("key_id", metavar="ID")
@click.option(
    "--overlap", type=DurationParam(), default="24h", show_default=True, help="How long the earlier secret stays valid."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@suite_options
def roll(context: Context, key_id: str, *, overlap: float, as_json: bool) -> None:
    """Give a key a new secret and print it. Its id, limits and usage stay, and both secrets count as one key.

    The earlier secret ends after the overlap; `--overlap 0s` ends it within a second.
    """
    now = time.time()

    async def work(bus: Bus) -> str:
        await read_keys(bus)  # it reports what cannot be read
        return await roll_key(bus, key_id, overlap_s=overlap, now=now)

    secret = context.run_with_bus(work)
    ends = rfc3339(now + overlap)
    if as_json:
        echo_json({"id": key_id, "key": secret, "previous_until": ends})
    else:
        _print_secret(key_id, secret)
        print_line(f"The earlier secret is valid until {ends} at the latest.")


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@suite_options
def list_keys(context: Context, *, as_json: bool) -> None:
    """List the keys, oldest first, without their secrets."""
    listed = list_records(record for _, record, _ in context.run_with_bus(read_keys))
    records = list(listed)
    if as_json:
        rows = [
            {
                "id": r.id,
                "name": r.name,
                "state": key_state(r),
                "models": r.models,
                **{limit: getattr(r, limit) for limit in LIMITS},
                "created_at": rfc3339(r.created_at),
                "expires_at": None if r.expires_at is None else rfc3339(r.expires_at),
                "previous_until": None if (until := listed[r]) is None else rfc3339(until),
            }
            for r in records
        ]
        echo_json({"keys": rows})
        return
    table = Table("id", "name", "state", "models", "limits", "expires")
    for r in records:
        expires = "never" if r.expires_at is None else rfc3339(r.expires_at)
        if (until := listed[r]) is not None:
            expires += f"\nearlier secret: {rfc3339(until)}"
        models = "all" if r.models is None else ", ".join(r.models)
        table.add_row(r.id, r.name, key_state(r), models, format_limits(r), expires)
    print_table(table)


@keys.command()
@click.argument("key_id", metavar="ID")
@suite_options
def revoke(context: Context, key_id: str) -> None:
    """Revoke a key with all its secrets. Gateways reject it within a second."""

    async def work(bus: Bus) -> bool:
        await read_keys(bus)  # it reports what cannot be read
        return await revoke_key(bus, key_id, now=time.time())

    if not context.run_with_bus(work):
        exit_with_error(unknown_key_message(key_id))
    print_line(f"revoked {key_id}")


@keys.command("export")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@suite_options
def export_keys(context: Context, file: Path) -> None:
    """Write all keys to FILE, which only you can read: their hashes and limits, without secrets."""
    export = KeyExport(keys=context.run_with_bus(save_keys))
    try:
        write_private(file, encode(export))
    except OSError as error:
        raise Rejected(f"{file}: {error.strerror}") from error
    print_line(f"exported {len(export.keys)} keys")


@keys.command("import")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@suite_options
def import_keys(context: Context, file: Path) -> None:
    """Create the keys in FILE that are missing, and revoke those that are revoked there.

    A key that is revoked here stays revoked, and the limits of keys that exist stay as they are.
    """
    try:
        export = decode(file.read_bytes(), KeyExport)
    except (OSError, Unreadable) as error:
        raise Rejected(f"{file}: {error}") from error
    changed = context.run_with_bus(lambda bus: merge_keys(bus, export.keys)).changed
    print_line(f"changed {changed} of {len(export.keys)} keys")


def _print_secret(key_id: str, secret: str) -> None:
    for line in (
        f"id   {key_id}",
        f"key  {secret}",
        "",
        "Save the key now: it is not stored and cannot be shown again.",
    ):
        print_line(line)


def _amount(option: str, text: str) -> Decimal:
    try:
        return Decimal(Money.parse(text))
    except ValueError as error:
        raise Misconfigured(f"{option}: {error}") from None


def _expiry(text: str) -> float:
    try:
        return parse_time(text)
    except ValueError:
        raise click.UsageError(f"--expires: expected a time such as 2027-01-31T12:00:00Z, got {text!r}") from None
