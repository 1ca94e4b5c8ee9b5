"""Reads the requests that `plan` replays, from a CSV file or from the ledger."""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from shared.bus.ports import Bus
from shared.bus.request import request_reply
from shared.bus.subjects import METER_HISTORY
from shared.config.sections import Config
from shared.errors import Misconfigured
from shared.messages.meter import History, HistoryQuery
from shared.units import DAY_S
from spotinference.plan.replay import Span, Traffic

COLUMNS = ("time", "model", "tokens")
LAST_TIME = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)
_WHOLE = re.compile(r"\d{1,15}", re.ASCII)


class Request(NamedTuple):
    """A request that reached an engine, or would have."""

    arrived: float
    """Unix seconds."""
    seconds: float
    """How long it occupies the machine."""
    tokens: int


Requests = dict[str, list[Request]]
"""By model."""


def read_trace(path: Path, tokens_per_second: float) -> Requests:
    """Read a CSV file. Raises `Misconfigured`, naming the line and the column that cannot be read."""
    by_model: defaultdict[str, list[Request]] = defaultdict(list)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            try:
                indexes = _column_indexes(next(rows, []))
                for row in rows:
                    if row:
                        model, request = _request(row, indexes, tokens_per_second)
                        by_model[model].append(request)
            except UnicodeDecodeError as error:
                raise Misconfigured(f"{path}: not UTF-8: {error.reason}") from error
            except (csv.Error, ValueError) as error:
                raise Misconfigured(f"{path}: line {max(rows.line_num, 1)}: {error}") from error
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}") from error
    return by_model


def _column_indexes(header: Sequence[str]) -> dict[str, int]:
    """Return the index of each column."""
    names = [name.strip() for name in header]
    for column in COLUMNS:
        if names.count(column) != 1:
            raise ValueError(f"column {column}: the header must name it once: {','.join(COLUMNS)}")
    return {column: names.index(column) for column in COLUMNS} | {"": len(names)}


def _request(row: Sequence[str], indexes: dict[str, int], tokens_per_second: float) -> tuple[str, Request]:
    if len(row) != indexes[""]:
        raise ValueError(f"{len(row)} fields, but the header has {indexes['']}")
    at, model, tokens = (row[indexes[column]].strip() for column in COLUMNS)
    if not model:
        raise ValueError("column model: empty")
    if not _WHOLE.fullmatch(tokens):
        raise ValueError(f"column tokens: expected a whole number, got {tokens!r}")
    return model, Request(_time(at), int(tokens) / tokens_per_second, int(tokens))


def _time(text: str) -> float:
    expected = f"column time: expected RFC 3339 such as 2026-11-23T10:00:00Z, or Unix seconds, got {text!r}"
    if _NUMBER.fullmatch(text):
        moment = float(text)
    else:
        try:
            parsed = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(expected) from None
        if parsed.tzinfo is None:
            raise ValueError(f"column time: {text!r} has no offset: append Z for UTC")
        moment = parsed.timestamp()
    if not 0 <= moment < LAST_TIME:
        raise ValueError(expected)
    return moment


async def read_ledger(bus: Bus, span: Span) -> Requests:
    """Read the requests that arrived in the span. A request completes within a day of its arrival."""
    by_model: defaultdict[str, list[Request]] = defaultdict(list)
    async for page in _pages(bus, HistoryQuery(start=span[0], end=span[1] + DAY_S)):
        for use in page.uses:
            arrived = use.completed_at - use.seconds - use.waited
            if span[0] <= arrived < span[1]:
                by_model[page.models[use.model]].append(Request(arrived, use.seconds, use.tokens))
    return by_model


async def _pages(bus: Bus, query: HistoryQuery) -> AsyncIterator[History]:
    while True:
        page = await request_reply(bus, METER_HISTORY, query, History)
        yield page
        if page.next is None:
            return
        query = msgspec.structs.replace(query, after=page.next)


def requests_within(requests: Requests, span: Span) -> Requests:
    """Return the requests that arrived in the span, without models that have none."""
    kept = {model: [r for r in those if span[0] <= r.arrived < span[1]] for model, those in requests.items()}
    return {model: those for model, those in kept.items() if those}


def group_by_tier(requests: Requests, config: Config) -> tuple[dict[str, list[Request]], Counter[str]]:
    """Group requests by the first tier of the model's lineup; also count those of models that no tier serves."""
    by_tier: dict[str, list[Request]] = {}
    unknown: Counter[str] = Counter()
    for name, those in sorted(requests.items()):
        model = config.models.get(name)
        if model is None or not model.lineup:
            unknown[name] += len(those)
        else:
            by_tier.setdefault(model.lineup[0], []).extend(those)
    return by_tier, unknown


def day_span(requests: Requests) -> Span:
    """Return the span of whole UTC days in which the requests arrived. There must be at least one request."""
    first = min(min(those).arrived for those in requests.values())
    last = max(max(those).arrived for those in requests.values())
    return first // DAY_S * DAY_S, last // DAY_S * DAY_S + DAY_S


def traffic(requests: Iterable[Request], span: Span) -> Traffic:
    """Merge requests that arrived in the span into one traffic."""
    arrivals, seconds, tokens = zip(*sorted(requests), strict=True)
    return Traffic(span=span, arrivals=arrivals, seconds=seconds, tokens=sum(tokens))
