"""Every page of the site, for the tests that look at each: whoever adds a page adds a line.

Most are loaded by their path. The others come after something was done: they are here as what a person does, one after
another.
"""

from collections.abc import Awaitable, Callable, Mapping

from playwright.async_api import Page

from tests.integration.site.scene import day_before

PUBLIC = (
    "/",
    "/economics",
    f"/economics/{day_before(4)}",
    f"/economics/{day_before(4)}/charges/1",
    "/pricing",
    "/performance",
    "/reliability",
    "/status",
    "/learn",
    "/learn/cost",
    "/glossary",
    "/api",
    "/sign-in",
    "/nowhere",
)
USER = (
    "/account",
    "/account/sessions",
    "/account/keys",
    "/account/keys/new",
    "/account/keys/k1",
    "/account/usage",
    "/account/playground",
)
"""Behind the sign-in. `k1` is a key of the person who is signed in."""
OPERATOR = (
    "/operator",
    "/operator/keys",
    "/operator/people",
    "/operator/journal",
    "/operator/gates",
    "/operator/audit",
    f"/operator/counts?day={day_before(1)}",
    f"/operator/counts?day={day_before(20)}",
    "/operator/invoices",
    "/operator/machines/h100x2-1/hibernate",
    "/operator/models/qwen3-coder/wake",
    "/operator/gates/fleet/close",
    "/operator/keys/k1/revoke",
    "/operator/people/github=3A1/block",
    "/operator/people/github=3A1/end-sessions",
)
"""For viewers and operators; the last are the pages that ask before an order."""


async def _make_key(page: Page, url: str) -> None:
    await page.goto(f"{url}/account/keys/new")
    await page.get_by_label("Name").fill("laptop")
    await page.get_by_role("button", name="Make the key").click()


async def _reload(page: Page, _url: str) -> None:
    await page.reload()


async def _mistype_limit(page: Page, url: str) -> None:
    await page.goto(f"{url}/account/keys/new")
    await page.get_by_label("Name").fill("laptop")
    await page.get_by_label("Requests per minute").fill("many")
    await page.get_by_role("button", name="Make the key").click()


async def _roll(page: Page, url: str) -> None:
    await page.goto(f"{url}/account/keys/k1")
    await page.get_by_role("button", name="Roll the key").click()


async def _revoke_unsure(page: Page, url: str) -> None:
    await page.goto(f"{url}/account/keys/k1")
    await page.get_by_role("button", name="Revoke the key").click()


async def _revoke(page: Page, _url: str) -> None:
    await page.get_by_label("I want programs").check()
    await page.get_by_role("button", name="Revoke the key").click()


async def _order_in_vain(page: Page, url: str) -> None:
    await page.goto(f"{url}/operator/machines/h100x2-1/hibernate")
    await page.get_by_label("Why").fill("its driver is replaced")
    await page.get_by_label("Even if its engine").check()
    await page.get_by_role("button", name="Hibernate").click()
    assert await page.get_by_label("Even if its engine").is_checked()


async def _open_key_of_others(page: Page, url: str) -> None:
    await page.goto(f"{url}/account/keys/k2")


DEEDS: Mapping[str, Callable[[Page, str], Awaitable[None]]] = {
    "Your key is made": _make_key,
    "This form was sent already": _reload,
    "whole number": _mistype_limit,
    "The new secret of ci": _roll,
    "Tick": _revoke_unsure,
    "revoked": _revoke,
    "It was not done": _order_in_vain,
    "There is no such page": _open_key_of_others,
}
"""By what the page says afterwards; each goes on where the one before has ended."""
