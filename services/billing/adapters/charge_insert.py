"""Bulk inserts of charges, with the fastest method of each driver: there may be half a million charges."""

from decimal import Decimal
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.billing.adapters.invoice_reader import ROW
from services.billing.core.invoice_files.schema import AMOUNT_FIELDS


async def copy_charges(connection: AsyncConnection, rows: list[tuple[Any, ...]]) -> None:
    """Insert charges. Each row has the fields of `ROW` and the id of its snapshot."""
    columns = (*ROW, "snapshot_id")
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(columns))
        await connection.exec_driver_sql(f"INSERT INTO cost_rows ({', '.join(columns)}) VALUES ({marks})", rows)  # noqa: S608 - our own names
        return
    import asyncpg

    amounts = [ROW.index(name) for name in AMOUNT_FIELDS]
    exact = [tuple(Decimal(v) if i in amounts and v is not None else v for i, v in enumerate(row)) for row in rows]
    raw = await connection.get_raw_connection()
    assert raw.driver_connection is not None
    try:
        await raw.driver_connection.copy_records_to_table("cost_rows", records=exact, columns=columns)
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        # COPY bypasses SQLAlchemy, which would wrap these errors so that `DATABASE_ERRORS` lists them.
        raise DBAPIError("COPY cost_rows", None, error) from error
