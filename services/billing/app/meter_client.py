"""Queries the meter for tokens, by which costs are divided."""

from collections.abc import Sequence

import msgspec

from shared.bus import subjects
from shared.bus.ports import Bus
from shared.errors import BusUnavailable, Rejected
from shared.messages.codec import Decoder, Unreadable, encode
from shared.messages.meter import ErrorReply, Tokens, TokensQuery

METER_TIMEOUT_S = 10.0
"""For a day's sums: the ledger answers in milliseconds, its database may be busy for seconds."""
MAX_PAGES = 200
"""Nearly a million rows."""
_answers: Decoder[Tokens | ErrorReply] = Decoder(Tokens | ErrorReply)


class MeterClient:
    """Sends queries to the meter over the bus."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def tokens(self, query: TokensQuery) -> Tokens:
        """Return all pages of the answer as one, or raise `Rejected`: without tokens there is no figure.

        The pages are made one after another, so only their rows are joined; the totals are those of the last page.
        """
        pages: list[Tokens] = []
        after: str | None = ""
        while after is not None:
            if len(pages) == MAX_PAGES:
                raise Rejected(f"the meter's answer has more than {MAX_PAGES} pages: ask for fewer days")
            pages.append(await self._page(msgspec.structs.replace(query, after=after)))
            after = pages[-1].next
        busy: dict[str, tuple[tuple[float, float], ...]] = {}
        for page in pages:
            for machine, intervals in page.busy.items():
                busy[machine] = (*busy.get(machine, ()), *intervals)
        rows = tuple(row for page in pages for row in page.rows)
        return msgspec.structs.replace(pages[-1], rows=rows, busy={name: _merge(busy[name]) for name in busy})

    async def _page(self, query: TokensQuery) -> Tokens:
        try:
            response = self._bus.request(subjects.METER_TOKENS, encode(query), timeout=METER_TIMEOUT_S)
            answer = _answers.decode(await response)
        except BusUnavailable as error:
            raise Rejected(f"the meter does not answer ({error}): ask again when it runs") from error
        except Unreadable as error:
            raise Rejected(f"the meter's answer is unreadable ({error}): run the same version of both") from error
        if isinstance(answer, ErrorReply):
            raise Rejected(f"the meter refused: {answer.reason}")
        return answer


def _merge(intervals: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Merge overlapping intervals: one may have grown before the next page was made."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return tuple(merged)
