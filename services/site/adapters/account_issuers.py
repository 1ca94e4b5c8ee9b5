"""Keeps the accounts of one issuer from the people of another: an identity has a number, and issuers number alike."""

from collections.abc import Mapping

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.site.adapters.tables import account_issuers, people
from shared.errors import Misconfigured


async def bind_issuers(engine: AsyncEngine, settings: Mapping[str, tuple[str, str]]) -> None:
    """Note whose accounts each provider's are, or raise `Misconfigured` if they are another issuer's.

    `settings`: by provider, the setting that names its issuer, and the issuer. Without accounts it may change.
    """
    issuers = account_issuers.c
    async with engine.begin() as connection:
        for provider, (setting, issuer) in settings.items():
            bound = await connection.scalar(select(issuers.issuer).where(issuers.provider == provider))
            if bound == issuer:
                continue
            has_accounts = select(people.c.id).where(people.c.id.startswith(f"{provider}:", autoescape=True)).limit(1)
            if bound is not None and await connection.scalar(has_accounts) is not None:
                raise Misconfigured(
                    f"{setting} is {issuer!r}, but the accounts here are of {bound!r}, and somebody else may have the "
                    "same number: set it back, or see `Move to another issuer` in docs/howto/sign-in.md"
                )
            await connection.execute(delete(account_issuers).where(issuers.provider == provider))
            await connection.execute(account_issuers.insert().values(provider=provider, issuer=issuer))
