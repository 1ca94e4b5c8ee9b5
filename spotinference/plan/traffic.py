"""The requests that `plan` replays: out of a CSV file, or out of the ledger, page by page."""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from shared.bus.ports import Bus
from shared.bus.subjects import METER_HISTORY
from shared.config.sections import Config
from shared.errors import Misconfigured
from shared.messages.meter import History, HistoryQuery
from spotinference.context import request_reply
from spotinference.plan.replay import Span, Traffic

COLUMNS = ("time", "model", "tokens")
DAY = 86400.0
LAST_TIME = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)
_WHOLE = re.compile(r"\d{1,15}", re.ASCII)


class Request(NamedTuple):
    """One that reached an engine, or would have."""

    arrived: float
    """Unix seconds."""
    seconds: float
    """That it is with its machine."""
    tokens: int


Requests = dict[str, list[Request]]
"""By model."""


def from_trace(path: Path, tokens_per_second: float) -> Requests:
    """The file's; `Misconfigured` names the line and the column that cannot be read."""
    found: defaultdict[str, list[Request]] = defaultdict(list)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            try:
                places = _places(next(rows, []))
                for row in rows:
                    if row:
                        model, request = _request(row, places, tokens_per_second)
                        found[model].append(request)
            except UnicodeDecodeError as error:
                raise Misconfigured(f"{path}: it is not UTF-8: {error.reason}") from error
            except (csv.Error, ValueError) as error:
                raise Misconfigured(f"{path}: line {max(rows.line_num, 1)}: {error}") from error
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}") from error
    return found


def _places(header: Sequence[str]) -> dict[str, int]:
    """Where each column is."""
    names = [name.strip() for name in header]
    for column in COLUMNS:
        if names.count(column) != 1:
            raise ValueError(f"column {column}: the header has to name it once: {','.join(COLUMNS)}")
    return {column: names.index(column) for column in COLUMNS} | {"": len(names)}


def _request(row: Sequence[str], places: dict[str, int], tokens_per_second: float) -> tuple[str, Request]:
    if len(row) != places[""]:
        raise ValueError(f"{len(row)} fields, and the header has {places['']}")
    at, model, tokens = (row[places[column]].strip() for column in COLUMNS)
    if not model:
        raise ValueError("column model: it is empty")
    if not _WHOLE.fullmatch(tokens):
        raise ValueError(f"column tokens: expected a whole number, got {tokens!r}")
    return model, Request(_time(at), int(tokens) / tokens_per_second, int(tokens))


def _time(text: str) -> float:
    said = f"column time: expected RFC 3339 such as 2026-11-23T10:00:00Z, or Unix seconds, got {text!r}"
    if _NUMBER.fullmatch(text):
        moment = float(text)
    else:
        try:
            parsed = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(said) from None
        if parsed.tzinfo is None:
            raise ValueError(f"column time: {text!r} does not say its offset: end it with Z for UTC")
        moment = parsed.timestamp()
    if not 0 <= moment < LAST_TIME:
        raise ValueError(said)
    return moment


async def from_ledger(bus: Bus, span: Span) -> Requests:
    """Those that arrived in the span; a request completes within a day of its arrival."""
    found: defaultdict[str, list[Request]] = defaultdict(list)
    async for page in _pages(bus, HistoryQuery(start=span[0], end=span[1] + DAY)):
        for use in page.uses:
            arrived = use.completed_at - use.seconds - use.waited
            if span[0] <= arrived < span[1]:
                found[page.models[use.model]].append(Request(arrived, use.seconds, use.tokens))
    return found


async def _pages(bus: Bus, query: HistoryQuery) -> AsyncIterator[History]:
    while True:
        page = await request_reply(bus, METER_HISTORY, query, History)
        yield page
        if page.next is None:
            return
        query = msgspec.structs.replace(query, after=page.next)


def within(requests: Requests, span: Span) -> Requests:
    """Those that arrived in it; a model without any is left out."""
    kept = {model: [r for r in those if span[0] <= r.arrived < span[1]] for model, those in requests.items()}
    return {model: those for model, those in kept.items() if those}


def by_tier(requests: Requests, config: Config) -> tuple[dict[str, list[Request]], Counter[str]]:
    """Each model's with the first tier of its lineup; and how many are of models that no tier serves."""
    found: dict[str, list[Request]] = {}
    unknown: Counter[str] = Counter()
    for name, those in sorted(requests.items()):
        model = config.models.get(name)
        if model is None or not model.lineup:
            unknown[name] += len(those)
        else:
            found.setdefault(model.lineup[0], []).extend(those)
    return found, unknown


def days_of(requests: Requests) -> Span:
    """The UTC days, whole, in which they arrived; there is one at least."""
    first = min(min(those).arrived for those in requests.values())
    last = max(max(those).arrived for those in requests.values())
    return first // DAY * DAY, last // DAY * DAY + DAY


def traffic(requests: Iterable[Request], span: Span) -> Traffic:
    """All of them, which arrived in the span."""
    arrivals, seconds, tokens = zip(*sorted(requests), strict=True)
    return Traffic(span=span, arrivals=arrivals, seconds=seconds, tokens=sum(tokens))
