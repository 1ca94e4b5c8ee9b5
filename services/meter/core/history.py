"""Pages of what happened, request by request."""

from collections.abc import Sequence
from typing import Any

from shared.messages.meter import History, Use


def history_page(rows: Sequence[Sequence[Any]], most: int) -> History:
    """Of rows of id, completion, wait for a wake, duration, model and tokens, in their order; a full page has a next.

    A model is named once: a row stays small however long its name is.
    """
    models: dict[str, int] = {}
    uses = tuple(
        Use(
            completed_at=completed,
            waited=waited,
            seconds=max(0.0, duration - waited),
            model=models.setdefault(model, len(models)),
            tokens=tokens,
        )
        for _, completed, waited, duration, model, tokens in rows
    )
    following = (rows[-1][1], rows[-1][0]) if len(rows) == most else None
    return History(models=tuple(models), uses=uses, next=following)
