"""People: their role, whether they are blocked, the end of their sessions; and the audit of all."""

import re
from collections.abc import Awaitable, Callable

from aiohttp import web

from services.site.adapters.audit_log import MOST_ROWS, SqlAuditLog
from services.site.adapters.http.account.gate import AccountRoute, Gate, Visit
from services.site.adapters.http.operator.asking import Asker, Question
from services.site.adapters.http.operator.paths import listed_page, name_in
from services.site.adapters.people_store import SqlPeopleStore
from services.site.adapters.session_store import SqlSessionStore
from services.site.app.own_keys import OwnKeys
from services.site.core.people import Person
from shared.bus.subjects import token
from shared.errors import Rejected

_DEED = re.compile("[0-9a-f-]{1,36}")
"""The id of a row of the audit."""
WITH_KEYS = ("keys", "Revoke all their keys as well, for good")


class PeoplePages:
    """Handlers of `/operator/people` and `/operator/audit`."""

    def __init__(
        self,
        gate: Gate,
        people: SqlPeopleStore,
        sessions: SqlSessionStore,
        audit: SqlAuditLog,
        keys: OwnKeys,
        *,
        now: Callable[[], float],
    ) -> None:
        self._gate = gate
        self._people = people
        self._sessions = sessions
        self._audit = audit
        self._keys = keys
        self._now = now

    def table(self) -> list[AccountRoute]:
        asker = Asker(self._gate)
        return [
            listed_page("/operator/people", self._list, "People"),
            listed_page("/operator/audit", self._deeds, "Audit"),
            *asker.routes("/operator/people/{person}/block", self._ask_block, checks=[WITH_KEYS]),
            *asker.routes("/operator/people/{person}/unblock", self._ask_unblock),
            *asker.routes("/operator/people/{person}/end-sessions", self._ask_end),
        ]

    async def _list(self, visit: Visit) -> web.Response:
        people = [(person, f"/operator/people/{token(person.identity)}") for person in await self._people.list_people()]
        return self._gate.page(visit, "operator_people.html", people=people)

    async def _deeds(self, visit: Visit) -> web.Response:
        before = visit.request.query.get("before") or None
        if before is not None and not _DEED.fullmatch(before):
            raise web.HTTPNotFound
        deeds = await self._audit.list(before=before)
        older = deeds[-1].id if len(deeds) == MOST_ROWS else None
        return self._gate.page(visit, "operator_audit.html", deeds=deeds, older=older, is_newest=before is None)

    async def _ask_block(self, visit: Visit) -> Question:
        async def do(reason: str) -> None:
            if identity == visit.person.identity:
                raise Rejected("nobody blocks themself: ask another operator")
            await self._people.set_blocked(identity, self._now())
            await self._sessions.end(identity, self._now(), why="blocked")
            if visit.form.get(WITH_KEYS[0]) == "on":
                for key in self._keys.of(identity):
                    if key.state != "revoked":
                        await self._keys.revoke(key.record.id, visit.person)
                        await self._gate.record(visit, "key_revoked_by_operator", target=key.record.id, detail=reason)

        person = await self._person(visit)
        identity = person.identity
        words = "All sessions end and no new one begins. Keys go on working unless you revoke them too."
        return _question(person, "person_blocked", do, title=f"Block {person.login}?", words=words, button="Block")

    async def _ask_unblock(self, visit: Visit) -> Question:
        async def do(_reason: str) -> None:
            await self._people.set_blocked(person.identity, None)

        person = await self._person(visit)
        words = "Signing in works again, as the rule for sign-up has it."
        title = f"Let {person.login} in again?"
        return _question(person, "person_unblocked", do, title=title, words=words, button="Unblock")

    async def _ask_end(self, visit: Visit) -> Question:
        async def do(_reason: str) -> None:
            await self._sessions.end(person.identity, self._now(), why="ended by an operator")

        person = await self._person(visit)
        words = "Every browser has to sign in again."
        title = f"End all sessions of {person.login}?"
        return _question(person, "sessions_ended_by_operator", do, title=title, words=words, button="End them")

    async def _person(self, visit: Visit) -> Person:
        person = await self._people.find_person(name_in(visit.request, "person"))
        if person is None:
            raise web.HTTPNotFound
        return person


def _question(
    person: Person, action: str, do: Callable[[str], Awaitable[object]], *, title: str, words: str, button: str
) -> Question:
    return Question(
        title=title, words=words, button=button, back="/operator/people", action=action, target=person.identity, do=do
    )
