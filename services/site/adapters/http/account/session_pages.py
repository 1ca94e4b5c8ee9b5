"""The first page behind the sign-in, and one's sessions: where one is signed in, and how to end it."""

from aiohttp import web

from services.site.adapters.audit_log import SqlAuditLog
from services.site.adapters.http.account.gate import AccountRoute, Gate, Visit
from services.site.adapters.session_store import SqlSessionStore
from services.site.core.people import Role


class SessionPages:
    """Handlers of `/account` and `/account/sessions`."""

    def __init__(self, gate: Gate, sessions: SqlSessionStore, audit: SqlAuditLog, *, review_url: str | None) -> None:
        """`review_url`: where one may review what this site may do at the provider."""
        self._gate = gate
        self._sessions = sessions
        self._audit = audit
        self._review_url = review_url

    def table(self) -> list[AccountRoute]:
        user = Role.USER
        return [
            AccountRoute(method="GET", path="/account", role=user, handle=self._first, name="account", label="Account"),
            AccountRoute(
                method="GET",
                path="/account/sessions",
                role=user,
                handle=self._list,
                name="sessions",
                label="Sessions",
            ),
            AccountRoute(
                method="POST", path="/account/sessions/{session}/end", role=user, handle=self._end, is_counted=False
            ),
            AccountRoute(
                method="POST",
                path="/account/sessions/end-others",
                role=user,
                handle=self._end_others,
                is_counted=False,
            ),
        ]

    async def _first(self, visit: Visit) -> web.Response:
        deeds = await self._audit.list(person=visit.person.identity)
        return self._gate.page(visit, "account.html", deeds=deeds[:20], review_url=self._review_url)

    async def _list(self, visit: Visit) -> web.Response:
        sessions = await self._sessions.list(visit.person.identity, visit.now)
        return self._gate.page(visit, "sessions.html", sessions=sessions, own=visit.session.id)

    async def _end(self, visit: Visit) -> web.Response:
        session = visit.request.match_info["session"]
        ended = await self._sessions.end(visit.person.identity, visit.now, why="ended by its person", only=session)
        if not ended:
            raise web.HTTPNotFound
        await self._gate.record(visit, "session_ended", target=session)
        return web.Response(status=303, headers={"Location": "/account/sessions"})

    async def _end_others(self, visit: Visit) -> web.Response:
        own = visit.session.id
        if await self._sessions.end(visit.person.identity, visit.now, why="ended by its person", but=own):
            await self._gate.record(visit, "other_sessions_ended")
        return web.Response(status=303, headers={"Location": "/account/sessions"})
