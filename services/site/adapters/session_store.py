"""Sessions in the site's database: only the SHA-256 of a cookie is stored, and each can be ended at once."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Update, UpdateBase, select, update
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncEngine

from services.site.adapters.people_store import text_of
from services.site.adapters.tables import people, sent_forms, sessions
from services.site.app.sign_in import sha256
from services.site.core.people import Person, SessionLimits, SignupPolicy
from shared.database import dialect_insert, read_transaction
from shared.ids import uuid7

SEEN_EVERY_S = 60.0
"""How often the last use of a session is written, at most: more often if sessions end sooner."""
MOST_SESSIONS = 50
"""Of one person at a time; a further one ends the one that has been unused the longest."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """One browser of a person. Times are Unix seconds."""

    id: str
    """For its page. It signs nobody in."""
    created_at: float
    seen_at: float
    ends_at: float
    network: str
    user_agent: str


class SqlSessionStore:
    """Sessions of people."""

    def __init__(self, engine: AsyncEngine, policy: SignupPolicy, limits: SessionLimits) -> None:
        self._engine = engine
        self._policy = policy
        self._limits = limits
        self._insert = dialect_insert(engine)

    async def open(
        self, person: Person, now: float, *, network: str, user_agent: str, replaced: str | None
    ) -> tuple[str, float]:
        """Begin a session and return its cookie's value and the seconds it lasts. `replaced`: the cookie before."""
        cookie, length_s = secrets.token_urlsafe(32), self._limits.of(person.role).max_s
        async with self._engine.begin() as connection:
            if replaced is not None:
                await connection.execute(_end(now, "signed in again").where(sessions.c.sha256 == sha256(replaced)))
            alive = (sessions.c.person == person.identity) & sessions.c.ended_at.is_(None)
            newest = select(sessions.c.sha256).where(alive).order_by(sessions.c.seen_at.desc()).limit(MOST_SESSIONS - 1)
            kept = list((await connection.scalars(newest)).all())
            await connection.execute(_end(now, "too many sessions").where(alive, sessions.c.sha256.not_in(kept)))
            await connection.execute(
                sessions.insert().values(
                    sha256=sha256(cookie),
                    id=uuid7(now),
                    person=person.identity,
                    created_at=now,
                    seen_at=now,
                    ends_at=now + length_s,
                    network=network,
                    user_agent=text_of(user_agent),
                )
            )
        return cookie, length_s

    async def find(self, cookie: str, now: float, *, is_use: bool = True) -> tuple[Person, Session] | None:
        """Return whose session this is; None: it is unknown, has ended or its person is out.

        `is_use`: somebody did something, and did not only leave a page open.
        """
        query = select(sessions, *(column.label(f"person_{column.name}") for column in people.c)).join(
            people, people.c.id == sessions.c.person
        )
        async with read_transaction(self._engine) as connection:
            row = (await connection.execute(query.where(sessions.c.sha256 == sha256(cookie)))).one_or_none()
        if row is None or row.ended_at is not None:
            return None
        if row.person_blocked_at is not None or self._policy.has_removed(row.person):
            return None
        role = self._policy.role_of(row.person)
        limits = self._limits.of(role)
        seen_every_s = _seen_every_s(limits)
        if now >= min(row.ends_at, row.created_at + limits.max_s) or now >= row.seen_at + limits.idle_s + seen_every_s:
            await self._write(_end(now, "expired").where(sessions.c.sha256 == row.sha256))
            return None
        if is_use and now - row.seen_at >= seen_every_s:
            await self._write(update(sessions).where(sessions.c.sha256 == row.sha256).values(seen_at=now))
        person = Person(
            identity=row.person,
            login=row.person_login,
            name=row.person_name,
            role=role,
            created_at=row.person_created_at,
            signed_in_at=row.person_signed_in_at,
        )
        return person, _session_of(row)

    async def list(self, identity: str, now: float) -> Sequence[Session]:
        """Return a person's sessions that have not ended, used last first."""
        limits, c = self._limits.of(self._policy.role_of(identity)), sessions.c
        idle_since = now - limits.idle_s - _seen_every_s(limits)
        alive = (c.person == identity) & c.ended_at.is_(None) & (c.ends_at > now) & (c.seen_at > idle_since)
        async with read_transaction(self._engine) as connection:
            rows = await connection.execute(select(sessions).where(alive).order_by(c.seen_at.desc(), c.id))
            return [_session_of(row) for row in rows]

    async def end(self, identity: str, now: float, *, why: str, only: str | None = None, but: str | None = None) -> int:
        """End a person's sessions, or the one of the id `only`, or all `but` one. Returns how many."""
        ending = _end(now, why).where(sessions.c.person == identity, sessions.c.ended_at.is_(None))
        if only is not None:
            ending = ending.where(sessions.c.id == only)
        if but is not None:
            ending = ending.where(sessions.c.id != but)
        return await self._write(ending)

    async def send_form(self, form: str, now: float) -> bool:
        """Note that a form was sent. False: it was before, so this is a reload."""
        insert = self._insert(sent_forms).values(sha256=sha256(form), sent_at=now).on_conflict_do_nothing()
        return await self._write(insert) > 0

    async def _write(self, statement: UpdateBase) -> int:
        async with self._engine.begin() as connection:
            return int((await connection.execute(statement)).rowcount)


def _end(now: float, why: str) -> Update:
    return update(sessions).values(ended_at=now, ended_why=why)


def _seen_every_s(limits: SessionLimits) -> float:
    """Return how much later than known the last use may have been."""
    return min(SEEN_EVERY_S, limits.idle_s / 60)


def _session_of(row: Row[Any]) -> Session:
    return Session(
        id=row.id,
        created_at=row.created_at,
        seen_at=row.seen_at,
        ends_at=row.ends_at,
        network=row.network,
        user_agent=row.user_agent,
    )
