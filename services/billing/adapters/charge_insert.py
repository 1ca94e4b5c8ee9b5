"""Charges into the books in bulk, by what each driver is fastest with: there may be half a million of them."""

from decimal import Decimal
from typing import Any

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.billing.adapters.invoice_reader import ROW
from services.billing.core.invoice_files.schema import AMOUNT_FIELDS


async def copy_charges(connection: AsyncConnection, rows: list[tuple[Any, ...]]) -> None:
    """Insert charges: `ROW` and the id of their snapshot each."""
    columns = (*ROW, "snapshot_id")
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(columns))
        await connection.exec_driver_sql(f"INSERT INTO cost_rows ({', '.join(columns)}) VALUES ({marks})", rows)  # noqa: S608 - our own names
        return
    amounts = [ROW.index(name) for name in AMOUNT_FIELDS]
    exact = [tuple(Decimal(v) if i in amounts and v is not None else v for i, v in enumerate(row)) for row in rows]
    raw = await connection.get_raw_connection()
    assert raw.driver_connection is not None
    try:
        await raw.driver_connection.copy_records_to_table("cost_rows", records=exact, columns=columns)
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        # Past SQLAlchemy, which otherwise makes of them what `DATABASE_ERRORS` lists.
        raise DBAPIError("COPY cost_rows", None, error) from error
