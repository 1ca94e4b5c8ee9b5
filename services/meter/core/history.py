"""Pages of the requests that happened, one by one."""

from collections.abc import Sequence
from typing import Any

from shared.messages.meter import History, PastRequest


def history_page(rows: Sequence[Sequence[Any]], limit: int) -> History:
    """Build a page from rows of id, completion, wait for a wake, duration, model and tokens, in their order.

    `limit`: the rows of a full page, which has a next one. A model is named once, so a row stays small however long
    the name is.
    """
    models: dict[str, int] = {}
    uses = tuple(
        PastRequest(
            completed_at=completed_at,
            waited=waited,
            seconds=max(0.0, duration - waited),
            model=models.setdefault(model, len(models)),
            tokens=tokens,
        )
        for _, completed_at, waited, duration, model, tokens in rows
    )
    next_page = (rows[-1][1], rows[-1][0]) if len(rows) == limit else None
    return History(models=tuple(models), uses=uses, next=next_page)
