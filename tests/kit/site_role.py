"""The site's role in PostgreSQL, made by the statements of the Kubernetes guide."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg

GUIDE = Path("docs/howto/deploy-on-kubernetes.md")


@dataclass(frozen=True)
class SiteRole:
    owner_url: str
    """Of the role that owns the tables."""
    group: str

    @property
    def url(self) -> str:
        return self.at(self.owner_url)

    def at(self, owner_url: str) -> str:
        """The URL of the same or another database of the server as the site has it."""
        return re.sub(r"//[^@]*@", f"//{self.group}_1@", owner_url)

    def grant(self) -> None:
        """As the guide has it, once the tables are there."""
        self.execute(_statements()[1])

    def execute(self, statements: str) -> None:
        with psycopg.connect(self.owner_url.replace("+asyncpg", "")) as owner:
            owner.execute(statements.replace("website", self.group))


@contextmanager
def site_role(owner_url: str) -> Iterator[SiteRole]:
    """Roles are the server's: these have a name of their own, and go with the test."""
    role = SiteRole(owner_url, f"site_{uuid4().hex}")
    role.execute(_statements()[0])
    try:
        yield role
    finally:
        role.execute("DROP OWNED BY website; DROP ROLE website, website_1")


def _statements() -> list[str]:
    blocks: list[str] = re.findall(r"```sql\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    return blocks
