"""Compares the ledger with the engine's own count, request by request and in every sum."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Select, Table, func, select

from services.meter.adapters import tables
from shared.bus import subjects
from shared.database import create_engine, read_transaction
from shared.messages.codec import decode, encode
from shared.messages.meter import Tokens, TokensQuery
from tests.proof.cluster import Cluster

Counts = tuple[int, int, int]
"""Requests, prompt and completion tokens."""


@dataclass(frozen=True)
class Verdict:
    """`faults` is empty if every number is right."""

    counted: int
    lost: int
    losable: int
    faults: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.counted} counted, {self.lost} lost of at most {self.losable}"


async def check(cluster: Cluster) -> Verdict:
    """Check a cluster that has settled."""
    made = {s.headers["x-request-id"]: (s.prompt_tokens, s.completion_tokens) for s in cluster.engine.requests}
    ledger, sums, odd = await _ledger(cluster)
    lost = made.keys() - ledger.keys()
    expected = (len(ledger), sum(p for p, _ in ledger.values()), sum(c for _, c in ledger.values()))
    reported, gaps = await _reported(cluster)
    wrong = {i: (made.get(i), counted) for i, counted in ledger.items() if made.get(i) != counted}
    faults = {
        "requests twice at the engine": len(cluster.engine.requests) - len(made),
        "counted differently from the engine": wrong,
        "answered completely and not counted": cluster.traffic.received - ledger.keys(),
        "more lost than was in flight at killed gateways": max(0, len(lost) - cluster.losable),
        "sums that differ from the events": {n: s for n, s in {**sums, "reported": reported}.items() if s != expected},
        "open gaps": gaps,
        "rows in conflicts and quarantine": odd,
    }
    return Verdict(
        len(ledger), len(lost), cluster.losable, tuple(f"{name}: {bad}" for name, bad in faults.items() if bad)
    )


async def _ledger(cluster: Cluster) -> tuple[dict[str, tuple[int, int]], dict[str, Counts], int]:
    """Return each event, the stored sums, and how many rows there are in tables that should be empty."""
    engine = create_engine(cluster.database_url)
    try:
        async with read_transaction(engine) as connection:
            c = tables.events.c
            rows = await connection.execute(select(c.id, c.prompt_tokens, c.completion_tokens))
            stored = {row.id: (row.prompt_tokens, row.completion_tokens) for row in rows}
            sums = {}
            for table in (tables.rollups, tables.hours, tables.minutes):
                requests, prompt, completion = (await connection.execute(_sums(table))).one()
                sums[table.name] = (int(requests), int(prompt), int(completion))
            odd = 0
            for table in (tables.conflicts, tables.quarantine):
                odd += int((await connection.execute(select(func.count()).select_from(table))).scalar_one())
    finally:
        await engine.dispose()
    return stored, sums, odd


def _sums(table: Table) -> Select[Any]:
    c = table.c
    return select(func.sum(c.requests), func.sum(c.prompt_tokens), func.sum(c.completion_tokens))


async def _reported(cluster: Cluster) -> tuple[Counts, int]:
    """Return the meter's answer for today and yesterday, since the proof may run over midnight, and the open gaps."""
    now, requests, prompt, completion, gaps = datetime.now(UTC), 0, 0, 0, 0
    for day in (now - timedelta(days=1), now):
        query = encode(TokensQuery(day=day.date().isoformat()))
        answer = decode(await cluster.bus.request(subjects.METER_TOKENS, query, timeout=10.0), Tokens)
        requests += answer.totals.requests
        prompt += answer.totals.prompt_tokens
        completion += answer.totals.completion_tokens
        gaps += answer.open_gaps
    return (requests, prompt, completion), gaps
