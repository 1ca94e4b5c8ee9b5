"""The port `PeopleStore` on the site's database."""

from typing import Any

from sqlalchemy import select, update
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncEngine

from services.site.adapters.tables import people
from services.site.core.people import Person, Profile, SignupPolicy
from shared.database import dialect_insert, read_transaction

MOST_PEOPLE = 1000
"""Listed at once."""
MAX_TEXT = 200


def text_of(value: str) -> str:
    """Return a text from outside as it is stored: bounded, and without what PostgreSQL cannot hold."""
    return value.encode("utf-8", "replace").decode("utf-8", "replace").replace("\0", "")[:MAX_TEXT]


class SqlPeopleStore:
    """People who have signed in."""

    def __init__(self, engine: AsyncEngine, policy: SignupPolicy) -> None:
        self._engine = engine
        self._policy = policy
        self._insert = dialect_insert(engine)

    async def find_person(self, identity: str) -> Person | None:
        async with read_transaction(self._engine) as connection:
            row = (await connection.execute(select(people).where(people.c.id == identity))).one_or_none()
        return None if row is None else person_of(row, self._policy)

    async def list_people(self) -> list[Person]:
        """Return people, who signed in last first, up to `MOST_PEOPLE`."""
        query = select(people).order_by(people.c.signed_in_at.desc(), people.c.id).limit(MOST_PEOPLE)
        async with read_transaction(self._engine) as connection:
            return [person_of(row, self._policy) for row in await connection.execute(query)]

    async def save_person(self, profile: Profile, now: float) -> Person:
        names = {"login": text_of(profile.login), "name": None if profile.name is None else text_of(profile.name)}
        insert = self._insert(people).values(id=profile.identity, created_at=now, signed_in_at=now, **names)
        insert = insert.on_conflict_do_update(index_elements=["id"], set_={"signed_in_at": now, **names})
        async with self._engine.begin() as connection:
            row = (await connection.execute(insert.returning(*people.c))).one()
        return person_of(row, self._policy)

    async def set_blocked(self, identity: str, blocked_at: float | None) -> bool:
        """Block a person, or let them in again (None). Returns False if nobody has the identity."""
        async with self._engine.begin() as connection:
            changed = update(people).where(people.c.id == identity).values(blocked_at=blocked_at)
            return (await connection.execute(changed)).rowcount > 0


def person_of(row: Row[Any], policy: SignupPolicy) -> Person:
    return Person(
        identity=row.id,
        login=row.login,
        name=row.name,
        role=policy.role_of(row.id),
        created_at=row.created_at,
        signed_in_at=row.signed_in_at,
        blocked_at=row.blocked_at,
    )
