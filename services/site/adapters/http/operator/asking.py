"""What an operator does: a page that asks, a form that says why, a row in the audit, and back to where it began."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from aiohttp import web

from services.site.adapters.http.account.gate import AccountRoute, Gate, Visit
from services.site.core.people import Role
from shared.errors import BusError, Rejected
from shared.printable import printable

MAX_REASON = 200
"""Characters: as many as the audit keeps."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One thing to be done, as the page asks for it."""

    title: str
    words: str
    """What it does, and what it does not."""
    button: str
    back: str
    """The path of the page to return to."""
    action: str
    """As the audit names it, past tense."""
    target: str
    do: Callable[[str], Awaitable[object]]
    """Do it, with the reason. Raises `Rejected` or `BusError`."""


Ask = Callable[[Visit], Awaitable[Question]]
"""Return what a path asks for. Raises `HTTPNotFound` if there is no such thing."""


class Asker:
    """Makes the two routes of a deed: the page that asks, and the form."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def routes(self, path: str, ask: Ask, *, checks: Sequence[tuple[str, str]] = ()) -> list[AccountRoute]:
        """`checks`: fields that may be ticked, and what they mean."""

        async def show(visit: Visit) -> web.Response:
            return self._page(visit, await ask(visit), checks)

        async def do(visit: Visit) -> web.Response:
            return await self._do(visit, await ask(visit), checks)

        fields = ("reason", *(name for name, _ in checks))
        return [
            AccountRoute(method="GET", path=path, role=Role.OPERATOR, handle=show),
            AccountRoute(method="POST", path=path, role=Role.OPERATOR, handle=do, fields=fields),
        ]

    async def _do(self, visit: Visit, question: Question, checks: Sequence[tuple[str, str]]) -> web.Response:
        reason = printable(" ".join(visit.form.get("reason", "").split()))
        if not 0 < len(reason) <= MAX_REASON:
            words = f"Say why, in 1 to {MAX_REASON} characters. Others read it in the journal and the audit."
            return self._page(visit, question, checks, fault=words, status=400)
        try:
            await question.do(reason)
        except Rejected as error:
            return self._page(visit, question, checks, fault=f"It was not done: {error}", status=409)
        except BusError as error:
            await self._gate.record(
                visit, question.action, target=question.target, detail=f"without an answer: {reason}"
            )
            words = f"There was no answer, so it may have been done or not: {error}"
            return self._page(visit, question, checks, fault=words, status=503)
        await self._gate.record(visit, question.action, target=question.target, detail=reason)
        return web.Response(status=303, headers={"Location": question.back})

    def _page(
        self,
        visit: Visit,
        question: Question,
        checks: Sequence[tuple[str, str]],
        *,
        fault: str | None = None,
        status: int = 200,
    ) -> web.Response:
        return self._gate.page(
            visit,
            "operator_ask.html",
            status=status,
            question=question,
            checks=checks,
            fault=fault,
            action=visit.request.rel_url.raw_path,
            reason=visit.form.get("reason", ""),
            ticked=[name for name, _ in checks if visit.form.get(name) == "on"],
            most=MAX_REASON,
        )
