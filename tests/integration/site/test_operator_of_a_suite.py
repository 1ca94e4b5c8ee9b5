"""An operator's orders from the site, followed by a whole suite on a bus with permissions."""

from pathlib import Path
from typing import Any

from tests.integration.suite.config import config
from tests.kit.github import Account, github_config, running_github
from tests.kit.site import Browser
from tests.kit.up import UpProcess, up
from tests.kit.waiting import until

ENGINE = ["python", "-c", "import time; time.sleep(999)", "{port}"]
MORE = '[billing]\ndaily_budget = "200.00"\n'


async def do(browser: Browser, path: str, reason: str) -> None:
    question = await browser.get(path)
    assert question.status == 200, question.text
    answer = await browser.post(path, {**question.form(path), "reason": reason})
    assert answer.status == 303, answer.text


async def test_the_suite_does_what_an_operator_orders_and_remembers_why(tmp_path: Path) -> None:
    async with running_github(Account(2, "olga")) as github:
        site = f'[site]\nport = 0\noperators = ["github:2"]\n{github_config(github)}'
        async with (
            up(tmp_path, f"{config(ENGINE)}\n{MORE}\n{site}") as suite,
            Browser(suite.services["site"]["url"]) as olga,
        ):
            assert f'base_url="{suite.base_url}"' in (await olga.get("/")).text  # its port is known once it runs
            await olga.sign_in("olga")
            await do(olga, "/operator/machines/local-1/cordon", "its driver is replaced")

            async def fleet() -> str:
                return (await olga.get("/operator")).text

            await until(fleet, lambda page: "cordoned" in page)
            await do(olga, "/operator/gates/fleet/close", "the month is spent")

            async def gates() -> str:
                return (await olga.get("/operator/gates")).text

            await until(gates, lambda page: "olga (github:2): the month is spent" in page)
            key = await suite.json("keys", "create", "--name", "customer")
            await do(olga, f"/operator/keys/{key['id']}/revoke", "it leaked")
            assert [entry["state"] for entry in await listed(suite)] == ["revoked"]

            journal = await suite.journal()
            orders = [entry for entry in journal if entry["kind"] in ("order", "gate") and entry["by"]]
            assert [(entry["by"], entry.get("why") or entry["reason"]) for entry in orders] == [
                ("olga (github:2)", "its driver is replaced"),
                ("olga (github:2)", "the month is spent"),
            ]
            page = (await olga.get("/operator/journal")).text
            assert "cordon, by olga (github:2): its driver is replaced" in page
            assert "by olga (github:2): the month is spent" in page
            for path in ("/operator/keys", "/operator/counts", "/operator/invoices", "/operator/people"):
                page = (await olga.get(path)).text
                assert "not answer" not in page, path
            audit = (await olga.get("/operator/audit")).text
            for action in ("machine cordon ordered", "gate close ordered", "key revoked by operator"):
                assert action in audit


async def listed(suite: UpProcess) -> list[dict[str, Any]]:
    keys = await suite.json("keys", "list")
    return list(keys["keys"] if isinstance(keys, dict) else keys)
