"""Imported charges by snapshot. The leading replica is the only writer."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from itertools import groupby
from typing import Any

import msgspec
from sqlalchemy import Row, and_, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.billing.adapters.charge_insert import copy_charges
from services.billing.adapters.fleet_store import kept_fleets
from services.billing.adapters.import_warnings import billed_of, warnings_of
from services.billing.adapters.tables import cost_rows, snapshot_files, snapshot_invoices, snapshots
from services.billing.core.cost_row import SnapshotKey
from services.billing.core.invoice_files.delivery import ChargesTaken, Delivery, Snapshot, StaleDelivery
from services.billing.core.invoice_files.import_settings import is_of_this_reader
from services.billing.core.money import to_units, to_usd
from services.billing.core.utc_time import format_time
from shared.database import read_transaction
from shared.messages.codec import decode
from shared.messages.invoices import DeliveredFile, Imported, SnapshotSummary


class SqlInvoiceStore:
    """The imported charges in the database. Raises what `DATABASE_ERRORS` lists while it is down."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def deliver(self, delivery: Delivery, now: float) -> tuple[SnapshotSummary, ...]:
        """Make all of the delivery count, or none of it. Repeating it changes nothing.

        Raises:
            ChargesTaken: another source has these charges; the text names it.
        """
        async with self._engine.begin() as connection:
            if self._engine.dialect.name == "postgresql":
                # A leader that was paused may still be at it beside the next one; SQLite has one writer anyway.
                await connection.exec_driver_sql("LOCK TABLE snapshots IN SHARE ROW EXCLUSIVE MODE")
            by_key = {key: list(parts) for key, parts in groupby(delivery.snapshots, key=lambda one: one.key)}
            if delivery.again is not None:
                return await _read_again(connection, delivery, delivery.again, by_key, now)
            newest = await connection.scalar(select(func.max(snapshots.c.delivery)))
            writing = _Writing(delivery, (newest or 0) + 1, now)
            summaries: list[SnapshotSummary] = []
            for key, parts in by_key.items():
                summaries += await _activate(connection, writing, key, parts)
            return tuple(summaries)

    async def past_resources(self) -> frozenset[str]:
        """Return the ids of all machines that the books know, configured or not."""
        async with read_transaction(self._engine) as connection:
            return frozenset(name for kept in await kept_fleets(connection) for name in kept.fleet.machine_of)

    async def list_stale(self, terms: str) -> tuple[StaleDelivery, ...]:
        """Return the deliveries that count and were read with other import settings.

        The newest comes first: charges that it claimed by mistake are free when the older delivery follows.
        """
        s = snapshots.c
        old = select(s.delivery).where(s.active, s.terms != terms)
        whole = select(s.id, s.source, s.delivery).where(s.delivery.in_(old)).order_by(s.delivery.desc(), s.id)
        async with read_transaction(self._engine) as connection:
            rows = (await connection.execute(whole)).all()
            files = await _files(connection, [snapshot.id for snapshot in rows])
        delivered: dict[tuple[int, str], dict[DeliveredFile, None]] = {}
        for snapshot in rows:
            delivered.setdefault((snapshot.delivery, snapshot.source), {}).update(dict.fromkeys(files[snapshot.id]))
        return tuple(StaleDelivery(number, source, tuple(of)) for (number, source), of in delivered.items())

    async def list_snapshots(self, not_reread: Mapping[int, str]) -> tuple[Imported, ...]:
        """Return the snapshots, the newest first. Those that no longer count are kept as evidence.

        `not_reread`: why deliveries could not be read again, by their number.
        """
        query = select(snapshots).order_by(snapshots.c.id.desc())
        async with read_transaction(self._engine) as connection:
            rows = (await connection.execute(query)).all()
            files = await _files(connection, [snapshot.id for snapshot in rows])
            sums = await billed_of(connection)
        return tuple(
            Imported(
                source=snapshot.source,
                issuer=snapshot.issuer,
                account=snapshot.account,
                period_start=format_time(snapshot.period_start),
                period_end=format_time(snapshot.period_end),
                rows=snapshot.rows,
                billed=sums.get(snapshot.id, Decimal(0)),
                currency=snapshot.currency,
                active=snapshot.active,
                residue=None if snapshot.residue is None else Decimal(snapshot.residue),
                reread=snapshot.reread or "",
                imported_at=snapshot.imported_at,
                files=files[snapshot.id],
                warnings=decode(snapshot.warnings, tuple[str, ...]),
                not_reread=not_reread.get(snapshot.delivery, "") if snapshot.active else "",
            )
            for snapshot in rows
        )


@dataclass(frozen=True)
class _Writing:
    """A delivery that is being written, with its number."""

    delivery: Delivery
    number: int
    now: float
    reread: str | None = None
    """Why the delivery is read again."""


async def _read_again(
    connection: AsyncConnection,
    delivery: Delivery,
    number: int,
    by_key: Mapping[SnapshotKey, Sequence[Snapshot]],
    now: float,
) -> tuple[SnapshotSummary, ...]:
    """Replace what still counts of the delivery by its new reading, which may have other accounts than before."""
    s = snapshots.c
    own = (await connection.execute(select(snapshots).where(s.active, s.delivery == number))).all()
    if not own:
        return ()
    same = all(is_of_this_reader(snapshot.terms) for snapshot in own)
    writing = _Writing(delivery, number, now, "the configuration changed" if same else "by a newer version")
    await _put_away(connection, own)
    summaries: list[SnapshotSummary] = []
    for key, parts in by_key.items():
        standing = await _standing(connection, delivery, key)
        if delivery.appends or all(snapshot.delivery < number for snapshot in standing):
            await _put_away(connection, [] if delivery.appends else standing)
            summaries += await _insert_all(connection, writing, key, parts, _warnings(own, key), replaced=True)
    return tuple(summaries)


async def _standing(connection: AsyncConnection, delivery: Delivery, key: SnapshotKey) -> Sequence[Row[Any]]:
    """Return the key's snapshots that count, or raise `ChargesTaken` if they are another source's."""
    same_key = and_(snapshots.c.active, *(snapshots.c[name] == value for name, value in asdict(key).items()))
    standing = (await connection.execute(select(snapshots).where(same_key))).all()
    others = sorted({snapshot.source for snapshot in standing} - {delivery.source})
    if others:
        raise ChargesTaken(
            f"{key.issuer}, account {key.account}, {format_time(key.period_start)} to {format_time(key.period_end)} "
            f"is delivered by source {others[0]!r}: import it under that name, or leave this file out"
        )
    return standing


async def _activate(
    connection: AsyncConnection, writing: _Writing, key: SnapshotKey, parts: Sequence[Snapshot]
) -> list[SnapshotSummary]:
    delivery = writing.delivery
    standing = await _standing(connection, delivery, key)
    known = [snapshot for snapshot in standing if snapshot.sha256 == parts[0].sha256]
    if delivery.beside and not known and not delivery.appends:
        await _keep_beside(connection, delivery, key, standing)
    new = not known or known[0].terms != delivery.terms
    old = known if delivery.appends else standing
    if not new:
        return _summaries(key, parts, _warnings(known, key), replaced=False)
    replaced = [] if delivery.appends else standing
    warnings_by_currency = await warnings_of(connection, delivery.source, parts, delivery.facts, replaced)
    await _put_away(connection, old)
    return await _insert_all(connection, writing, key, parts, warnings_by_currency, replaced=bool(old))


def _warnings(known: Sequence[Row[Any]], key: SnapshotKey) -> dict[str, tuple[str, ...]]:
    """Return by currency the warnings about the key's snapshots when they were imported."""
    mine = [one for one in known if all(getattr(one, name) == value for name, value in asdict(key).items())]
    return {one.currency: decode(one.warnings, tuple[str, ...]) for one in mine}


async def _insert_all(
    connection: AsyncConnection,
    writing: _Writing,
    key: SnapshotKey,
    parts: Sequence[Snapshot],
    warnings_by_currency: Mapping[str, tuple[str, ...]],
    *,
    replaced: bool,
) -> list[SnapshotSummary]:
    for part in parts:
        await _insert(connection, writing, part, warnings_by_currency.get(part.currency, ()))
    return _summaries(key, parts, warnings_by_currency, replaced=replaced)


def _summaries(
    key: SnapshotKey, parts: Sequence[Snapshot], warnings_by_currency: Mapping[str, tuple[str, ...]], *, replaced: bool
) -> list[SnapshotSummary]:
    return [
        SnapshotSummary(
            issuer=key.issuer,
            account=key.account,
            period_start=format_time(key.period_start),
            period_end=format_time(key.period_end),
            rows=part.rows,
            billed=to_usd(to_units(part.billed)),
            currency=part.currency,
            replaced=replaced,
            residue=part.residue,
            warnings=warnings_by_currency.get(part.currency, ()),
        )
        for part in parts
    ]


async def _keep_beside(
    connection: AsyncConnection, delivery: Delivery, key: SnapshotKey, standing: Sequence[Row[Any]]
) -> None:
    """Raise `ChargesTaken` where the snapshots that this one would replace came from a delivery beside it."""
    for files in (await _files(connection, [snapshot.id for snapshot in standing])).values():
        for file in files:
            if file.sha256 in delivery.beside:
                period = f"{format_time(key.period_start)} to {format_time(key.period_end)}"
                raise ChargesTaken(
                    f"{key.issuer}, account {key.account}, {period} "
                    f"is in {file.name} too, which another manifest of this place lists: import one of the two exports "
                    "alone; one of the whole billing account has the charges of both"
                )


async def _put_away(connection: AsyncConnection, old: Sequence[Row[tuple[object, ...]]]) -> None:
    """Make the snapshots no longer count. Their files and sums stay as evidence; the files have their charges."""
    ids = [snapshot.id for snapshot in old]
    await connection.execute(update(snapshots).where(snapshots.c.id.in_(ids)).values(active=False))
    await connection.execute(delete(cost_rows).where(cost_rows.c.snapshot_id.in_(ids)))


async def _insert(connection: AsyncConnection, writing: _Writing, part: Snapshot, warnings: tuple[str, ...]) -> None:
    delivery = writing.delivery
    facts = delivery.facts.get((part.key, part.currency))
    values = {
        "usual_day": facts and facts.usual_day,
        "warnings": msgspec.json.encode(warnings).decode(),
        "source": delivery.source,
        "sha256": part.sha256,
        "currency": part.currency,
        "rows": part.rows,
        "terms": delivery.terms,
        "active": True,
        "imported_at": writing.now,
        "delivery": writing.number,
        "residue": None if part.residue is None else f"{part.residue:f}",
        "reread": writing.reread,
    }
    made = await connection.execute(insert(snapshots).values(**values, **asdict(part.key)).returning(snapshots.c.id))
    snapshot_id = made.scalar_one()
    files = [{"snapshot_id": snapshot_id, "sha256": f.sha256, "file_name": f.name} for f in part.files]
    await connection.execute(insert(snapshot_files), files)
    sums = [{"snapshot_id": snapshot_id, "invoice_id": i, "billed": billed} for i, billed in part.invoices.items()]
    await connection.execute(insert(snapshot_invoices), sums)
    batches = delivery.rows(part)
    while batch := await asyncio.to_thread(next, batches, None):
        await copy_charges(connection, [(*row, snapshot_id) for row in batch])


async def _files(connection: AsyncConnection, ids: Sequence[int]) -> dict[int, tuple[DeliveredFile, ...]]:
    query = select(snapshot_files).where(snapshot_files.c.snapshot_id.in_(ids)).order_by(snapshot_files.c.file_name)
    files: dict[int, tuple[DeliveredFile, ...]] = dict.fromkeys(ids, ())
    for file in await connection.execute(query):
        files[file.snapshot_id] += (DeliveredFile(name=file.file_name, sha256=file.sha256),)
    return files
