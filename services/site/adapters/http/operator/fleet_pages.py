"""The fleet, live, and the orders about its machines."""

import asyncio
from collections.abc import Callable, Mapping

from aiohttp import web

from services.site.adapters.http.account.gate import AccountRoute, Gate, Visit
from services.site.adapters.http.operator.asking import Asker, Question
from services.site.adapters.http.operator.paths import listed_page, name_in
from services.site.adapters.session_store import SqlSessionStore
from services.site.app.fleet_feed import FleetFeed, TooManyStreams
from services.site.app.orders import order_machine
from services.site.core.people import Role
from shared.bus.ports import Bus
from shared.bus.subjects import token
from shared.database import DATABASE_ERRORS
from shared.fleet_watcher import FleetWatcher
from shared.messages.waker import CommandKind

COMMENT_S = 15.0
"""Proxies end connections on which nothing is said."""
SEND_S = 15.0
"""How long a client may take for one fragment."""
EVENT_STREAM = "text/event-stream"
MACHINE_ORDERS: Mapping[str, tuple[CommandKind, str]] = {
    "wake": ("wake", "It is woken once, which costs money. Nothing keeps it awake: the idle policy applies."),
    "hibernate": (
        "hibernate",
        "It takes no new requests, finishes those that run, and goes to sleep. The next request may wake it.",
    ),
    "cordon": ("cordon", "It takes no requests and is not woken until it is uncordoned. Requests that run finish."),
    "uncordon": ("uncordon", "It takes requests and may be woken again."),
}
WAKE_MODEL = "The model's first machine that can be woken is woken, and is kept awake until an operator hibernates it."
FORCE = ("force", "Even if its engine says that it runs requests, which are lost")


class FleetPages:
    """Handlers of `/operator` and of what is ordered from there."""

    def __init__(
        self,
        gate: Gate,
        sessions: SqlSessionStore,
        bus: Bus,
        watcher: FleetWatcher,
        feed: FleetFeed,
        *,
        models: list[str],
        now: Callable[[], float],
    ) -> None:
        self._gate = gate
        self._sessions = sessions
        self._bus = bus
        self._watcher = watcher
        self._feed = feed
        self._models = models
        self._now = now

    def table(self) -> list[AccountRoute]:
        asker = Asker(self._gate)
        return [
            listed_page("/operator", self._fleet, "Fleet"),
            AccountRoute(method="GET", path="/operator/events", role=Role.VIEWER, handle=self._events),
            *asker.routes("/operator/machines/{machine}/hibernate", self._ask_machine, checks=[FORCE]),
            *asker.routes("/operator/machines/{machine}/{order}", self._ask_machine),
            *asker.routes("/operator/models/{model}/wake", self._ask_model),
        ]

    async def _fleet(self, visit: Visit) -> web.Response:
        models = [(model, f"/operator/models/{token(model)}/wake") for model in self._models]
        return self._gate.page(visit, "operator_fleet.html", board=self._feed.board(), models=models)

    async def _events(self, visit: Visit) -> web.StreamResponse:
        if EVENT_STREAM not in visit.request.headers.get("Accept", ""):
            raise web.HTTPNotAcceptable
        try:
            with self._feed.stream(visit.session.id):
                return await self._stream(visit)
        except TooManyStreams:
            raise web.HTTPTooManyRequests from None

    async def _stream(self, visit: Visit) -> web.StreamResponse:
        response = web.StreamResponse(headers={"X-Accel-Buffering": "no"})
        response.content_type = EVENT_STREAM
        await response.prepare(visit.request)
        seen = 0
        try:
            while not self._feed.closed:
                latest = await self._feed.next(seen, COMMENT_S)
                if await self._sessions.find(visit.cookie, self._now(), is_use=False) is None:
                    break
                seen, data = (seen, b": still here\n\n") if latest is None else (latest[0], _event(*latest))
                async with asyncio.timeout(SEND_S):
                    await response.write(data)
        except DATABASE_ERRORS:
            pass  # the client has gone, or does not read; or nobody knows who it is: it asks again
        return response

    async def _ask_machine(self, visit: Visit) -> Question:
        machine = name_in(visit.request, "machine")
        record, known = self._watcher.records.get(machine), visit.request.match_info.get("order", "hibernate")
        if record is None or known not in MACHINE_ORDERS:
            raise web.HTTPNotFound
        order, words = MACHINE_ORDERS[known]
        force = visit.form.get(FORCE[0]) == "on"

        async def do(reason: str) -> None:
            is_machine = order == "wake"
            await order_machine(self._bus, visit.person, order, machine, reason, is_machine=is_machine, force=force)

        return Question(
            title=f"{order.capitalize()} {machine}?",
            words=f"It is {record.state.replace('_', ' ')} now. {words}",
            button=order.capitalize(),
            back="/operator",
            action=f"machine_{order}_ordered",
            target=machine,
            do=do,
        )

    async def _ask_model(self, visit: Visit) -> Question:
        model = name_in(visit.request, "model")
        if model not in self._models:
            raise web.HTTPNotFound

        async def do(reason: str) -> None:
            await order_machine(self._bus, visit.person, "wake", model, reason, is_machine=False)

        return Question(
            title=f"Wake {model} and keep it awake?",
            words=WAKE_MODEL,
            button="Wake",
            back="/operator",
            action="model_wake_ordered",
            target=model,
            do=do,
        )


def _event(number: int, fragment: str) -> bytes:
    lines = "".join(f"data: {line}\n" for line in fragment.splitlines())
    return f"event: fleet\nid: {number}\n{lines}\n".encode()
