"""A person's keys and their usage: shown once, theirs alone, and the same figures on the page and in the CSV."""

import asyncio
import csv
import io
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.site.app import own_keys, own_usage
from services.site.core.origins import form_token
from shared.bus.memory import MemoryBus
from shared.bus.subjects import BILLING_STATEMENT, METER_TOKENS, key_wakes_key, month_key
from shared.bus.topology import KEYS, MONTHS, WAKE_HISTORY, WAKES
from shared.config.load import parse
from shared.messages.billing import KeyMonthCost, Statement, StatementQuery
from shared.messages.codec import decode, encode
from shared.messages.gateway import KeyQuota, QuotaReport
from shared.messages.keys import KeyRecord, digest
from shared.messages.meter import KeyMonth, Tokens, TokensQuery, TokensRow, TokenSums, month_of
from shared.messages.waker import KeyWakes
from spotinference.check.local import check_site
from tests.kit.github import Account, Github, github_config, running_github
from tests.kit.site import Answer, Browser, running_site
from tests.kit.waiting import until
from tests.unit.site.journal import messages, transition, whole_wake

MODEL = '\n[[tier]]\nname = "t"\nprovider = "static"\n[[model]]\nname = "org/m"\nlineup = ["t"]\n'
NEW = "/account/keys/new"


@pytest.fixture
async def github() -> AsyncIterator[Github]:
    async with running_github(Account(1, "ann"), Account(2, "bob")) as running:
        yield running


def config(github: Github, more: str = "") -> str:
    return f'[site]\nport = 0\nsignup = "open"\n{more}\n{github_config(github)}{MODEL}'


async def make(browser: Browser, **fields: str) -> Answer:
    form = (await browser.get(NEW)).form(NEW)
    return await browser.post(NEW, {**form, "name": "ci", "lifetime": "90", **fields})


def secret_in(answer: Answer) -> str:
    match = re.search(r"sk-[A-Za-z0-9_-]{43}", answer.text)
    assert match is not None, answer.text
    return match[0]


async def records(bus: MemoryBus) -> dict[str, KeyRecord]:
    return {name: decode(entry.value, KeyRecord) for name, entry in (await bus.entries(KEYS)).items()}


async def test_a_secret_is_shown_once_and_a_reload_makes_no_other(github: Github, tmp_path: Path) -> None:
    bus = MemoryBus()
    async with running_site(tmp_path, config(github), bus) as url, Browser(url) as browser:
        await browser.sign_in("ann")
        form = {**(await browser.get(NEW)).form(NEW), "name": "ci", "lifetime": "90", "model:org/m": "yes"}
        made = await browser.post(NEW, {**form, "requests_per_minute": "1,000"})
        secret = secret_in(made)
        again = await browser.post(NEW, {**form, "requests_per_minute": "1,000"})
        assert (made.status, again.status) == (200, 409)
        assert "sent already" in again.text
        pages = [made.headers["Cache-Control"], (await browser.get("/account/keys")).text, again.text]
        account = (await browser.get("/account")).text
    assert pages[0] == "no-store"
    assert not any("sk-" + secret[3:10] in page for page in (*pages, account))
    assert f"sk-…{secret[-4:]}" in pages[1]
    assert "key created" in account
    (record,) = (await records(bus)).values()
    assert (record.owner, record.made_by, record.hint) == ("github:1", "github:1", secret[-4:])
    assert (record.models, record.requests_per_minute) == (("org/m",), 1000)
    assert record.expires_at == pytest.approx(time.time() + 90 * 86400, abs=60)
    files = b"".join(file.read_bytes() for file in tmp_path.rglob("*.sqlite*"))  # noqa: ASYNC240 - a test may
    assert secret.encode() not in files


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("name", " ", "Give the key a name"),
        ("name", "a" * 81, "Give the key a name"),
        ("lifetime", "12", "Choose one of the lifetimes"),
        ("tokens_per_minute", "-1", "whole number above 0"),
        ("monthly_tokens", "0", "whole number above 0"),
        ("concurrency", "9" * 20, "whole number above 0"),
        ("model:nobody", "yes", "There is no model"),
    ],
)
async def test_a_form_with_a_fault_makes_no_key_and_names_it(
    github: Github, tmp_path: Path, field: str, value: str, words: str
) -> None:
    bus = MemoryBus()
    async with running_site(tmp_path, config(github), bus) as url, Browser(url) as browser:
        await browser.sign_in("ann")
        answer = await make(browser, **{field: value})
        assert answer.status == 400
        assert words in answer.text
    assert await records(bus) == {}


async def test_the_operator_bounds_the_age_of_keys(github: Github, tmp_path: Path) -> None:
    bus = MemoryBus()
    async with running_site(tmp_path, config(github, 'key_max_age = "40d"'), bus) as url, Browser(url) as browser:
        await browser.sign_in("ann")
        assert [(await make(browser, lifetime=days)).status for days in ("", "90", "30")] == [400, 400, 200]


CEILINGS = """
[site.key_limits]
requests_per_minute = 60
monthly_tokens = 1000
wakes_per_hour = 2
wake_cost_per_day = "1.50"
"""


async def test_the_operator_bounds_the_limits_of_keys(github: Github, tmp_path: Path) -> None:
    """As default, as highest value, and of keys from before once they are rolled; not of an operator's."""
    bus = MemoryBus()
    roles = config(github, 'operators = ["github:2"]') + CEILINGS
    old = KeyRecord(id="old", name="old", created_at=0.0, owner="github:1", concurrency=5, monthly_tokens=10)
    await bus.create(KEYS, digest("old"), encode(old))
    with capture_logs() as logs:
        async with running_site(tmp_path, roles, bus) as url, Browser(url) as browser, Browser(url) as operator:
            await browser.sign_in("ann")
            form = (await browser.get(NEW)).text
            assert "Requests per minute; at most 60, which empty means" in form
            assert "Requests at once; empty means no limit" in form
            assert "2 wakes per hour" in form
            refused = await make(browser, requests_per_minute="61")
            assert (refused.status, "Requests per minute: the most here is 60" in refused.text) == (400, True)
            secrets = [secret_in(await make(browser)), secret_in(await make(browser, requests_per_minute="59"))]
            page = "/account/keys/old"
            roll = (await browser.get(page)).form(f"{page}/roll")
            secrets.append(secret_in(await browser.post(f"{page}/roll", {**roll, "overlap": "0"})))
            await operator.sign_in("bob")
            secrets.append(secret_in(await make(operator, requests_per_minute="61")))
    stored = await records(bus)
    keys = [stored[digest(secret)] for secret in secrets]
    assert [(key.requests_per_minute, key.concurrency, key.monthly_tokens) for key in keys] == [
        (60, None, 1000),
        (59, None, 1000),
        (60, 5, 10),
        (61, None, None),
    ]
    wakes = [(key.wakes_per_hour, key.wake_cost_per_day) for key in keys]
    assert wakes == [(2, Decimal("1.50"))] * 3 + [(None, None)]
    assert not any(entry["event"] == "keys_unlimited" for entry in logs)


@pytest.mark.parametrize(
    ("more", "warns"), [("", True), (CEILINGS, False), ("[site.key_limits]\n", True), ("closed", False)]
)
async def test_unlimited_keys_of_strangers_are_warned_of(
    github: Github, tmp_path: Path, more: str, *, warns: bool
) -> None:
    text = config(github).replace('"open"', '"closed"') if more == "closed" else config(github) + more
    with capture_logs() as logs:
        async with running_site(tmp_path, text):
            pass
    assert [entry["event"] for entry in logs].count("keys_unlimited") == warns
    notes = check_site(parse(text, "test"))
    assert ["[site.key_limits]" in note.text for note in notes] == [True] * warns


async def test_a_key_is_rolled_and_revoked(github: Github, tmp_path: Path) -> None:
    bus = MemoryBus()
    async with running_site(tmp_path, config(github), bus) as url, Browser(url) as browser:
        await browser.sign_in("ann")
        first = secret_in(await make(browser))
        key_id = (await records(bus))[digest(first)].id
        page = f"/account/keys/{key_id}"
        form = (await browser.get(page)).form(f"{page}/roll")
        second = secret_in(await browser.post(f"{page}/roll", {**form, "overlap": "1"}))
        assert (await browser.post(f"{page}/roll", {**form, "overlap": "1"})).status == 409
        stored = await records(bus)
        assert set(stored) == {digest(first), digest(second)}
        assert stored[digest(second)].hint == second[-4:]
        assert stored[digest(first)].expires_at == pytest.approx(time.time() + 86400, abs=60)
        assert "The secret before ends" in (await browser.get(page)).text
        form = (await browser.get(page)).form(f"{page}/revoke")
        assert (await browser.post(f"{page}/revoke", form)).status == 400  # the box is not ticked
        assert (await browser.post(f"{page}/revoke", {**form, "sure": "yes"})).status == 303
        assert {(r.revoked_at is not None, r.revoked_by) for r in (await records(bus)).values()} == {(True, "github:1")}
        assert "revoked" in (await browser.get("/account/keys")).text
        assert "key revoked" in (await browser.get("/account")).text


async def test_the_secrets_of_a_day_are_bounded_by_what_the_bus_has(
    github: Github, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither revoking nor rolling makes room: the records stay, and so does the bound after a restart."""
    monkeypatch.setattr(own_keys, "MOST_SECRETS_A_DAY", 3)
    bus = MemoryBus()
    async with running_site(tmp_path, config(github), bus) as url, Browser(url) as browser:
        await browser.sign_in("ann")
        await make(browser, lifetime="")
        (record,) = (await records(bus)).values()
        page = f"/account/keys/{record.id}"
        for _ in range(2):
            roll = (await browser.get(page)).form(f"{page}/roll")
            assert (await browser.post(f"{page}/roll", {**roll, "overlap": "0"})).status == 200
    async with running_site(tmp_path, config(github), bus) as url, Browser(url) as browser, Browser(url) as other:
        await browser.sign_in("ann")
        roll = (await browser.get(page)).form(f"{page}/roll")
        answers = [await browser.post(f"{page}/roll", {**roll, "overlap": "0"}), await make(browser)]
        revoke = (await browser.get(page)).form(f"{page}/revoke")
        assert (await browser.post(f"{page}/revoke", {**revoke, "sure": "yes"})).status == 303
        answers.append(await make(browser))
        assert [("3 secrets in 24 hours" in answer.text, answer.status) for answer in answers] == [(True, 400)] * 3
        await other.sign_in("bob")
        assert (await make(other)).status == 200
    assert len(await records(bus)) == 4


async def test_the_key_of_somebody_else_is_not_there(github: Github, tmp_path: Path) -> None:
    bus = MemoryBus()
    async with running_site(tmp_path, config(github), bus) as url, Browser(url) as ann, Browser(url) as bob:
        await ann.sign_in("ann")
        await bob.sign_in("bob")
        await make(ann)
        await make(bob)
        (key_id,) = [record.id for record in (await records(bus)).values() if record.owner == "github:1"]
        page = f"/account/keys/{key_id}"
        assert (await bob.get(page)).status == 404
        for action, field in ((f"{page}/roll", {"overlap": "0"}), (f"{page}/revoke", {"sure": "yes"})):
            token = form_token(bob.cookie(), action)
            assert (await bob.post(action, {"token": token, **field})).status == 404
        assert key_id not in (await bob.get("/account/keys")).text
        assert all(record.revoked_at is None for record in (await records(bus)).values())


async def test_limits_show_what_is_used_of_them(github: Github, tmp_path: Path) -> None:
    bus = MemoryBus()
    async with running_site(tmp_path, config(github), bus) as url, Browser(url) as browser:
        await browser.sign_in("ann")
        await make(browser, requests_per_minute="60", monthly_tokens="1000")
        (record,) = (await records(bus)).values()
        assert "60; use not known now" in (await browser.get("/account/keys")).text
        now = time.time()
        month = KeyMonth(key_id=record.id, month=month_of(now), tokens=500, at=now)
        await bus.put(MONTHS, month_key(record.id), encode(month))
        quota = KeyQuota(used=(7, 0, 1, 20), limits=(60, None, None, 480))
        report = QuotaReport(
            gateway="g",
            started=now,
            number=1,
            sent_at=now,
            follows="g",
            version=0,
            keys={record.id: quota},
            heard={},
            loans={},
        )
        await bus.publish_volatile("limits.g", encode(report))
        page = await until(lambda: browser.get("/account/keys"), lambda answer: "7 of 60 used" in answer.text)
    assert "520 of 1,000 used" in page.text


async def meter(data: bytes, *, is_new: bool = True) -> bytes:
    """Not `is_new`: that of the release before, which does not know `keys`."""
    query = decode(data, TokensQuery)
    assert query.key is not None
    keys, rows = query.keys if is_new else (), []
    if "k1" in (query.key, *keys):
        sums = TokenSums(requests=2, prompt_tokens=30, cached_tokens=10, completion_tokens=5)
        dimensions = {"day": query.to or query.day, "model": "org/m", "key": "k1"}
        rows = [TokensRow(dimensions={name: dimensions[name] for name in query.by}, sums=sums)]
    return encode(
        Tokens(
            day=query.day,
            to=query.to,
            complete=False,
            totals=TokenSums(),
            served=TokenSums(),
            rows=tuple(rows),
            keys=keys,
        )
    )


async def billing(data: bytes, *, is_new: bool = True) -> bytes:
    query = decode(data, StatementQuery)
    first, *others = [
        KeyMonthCost(key_id=key, complete=False, tokens=35 * (key == "k1"), amount=Decimal("1.234567") * (key == "k1"))
        for key in (query.key_id, *(query.others if is_new else ()))
    ]
    return encode(
        Statement(
            key_id=query.key_id,
            month=query.month,
            complete=False,
            tokens=first.tokens,
            amount=first.amount,
            lines=(),
            others=tuple(others),
        )
    )


@pytest.mark.parametrize("is_new", [True, False])
async def test_usage_never_takes_more_of_the_services_than_its_bound(
    monkeypatch: pytest.MonkeyPatch, *, is_new: bool
) -> None:
    """However often a page is loaded at once, and however many keys there were: one request for all of them.

    Services of the release before are asked about the rest key by key.
    """
    monkeypatch.setattr(own_usage, "MOST_READ", 6)
    bus, now, queries, most, running = MemoryBus(), time.time(), list[str](), list[int](), set[object]()
    costs: list[str] = []
    records = [KeyRecord(id=f"k{number}", name="n", created_at=0.0) for number in range(7)]
    records += [KeyRecord(id=f"old{number}", name="n", created_at=0.0, revoked_at=now - 40 * 86400) for number in "12"]
    keys = [own_keys.OwnKey(record=record, state="", earlier_until=None, limits=()) for record in records]

    async def slow_meter(data: bytes) -> bytes:
        queries.append(decode(data, TokensQuery).key or "")
        running.add(query := object())
        most.append(len(running))
        await asyncio.sleep(0)
        running.discard(query)
        return await meter(data, is_new=is_new)

    async def statements(data: bytes) -> bytes:
        costs.append(decode(data, StatementQuery).key_id)
        return await billing(data, is_new=is_new)

    await bus.respond("meter", METER_TOKENS, slow_meter)
    await bus.respond("billing", BILLING_STATEMENT, statements)
    usage = own_usage.OwnUsage(bus, now=lambda: now, monotonic=lambda: 0.0)
    pages, days = await asyncio.gather(
        asyncio.gather(*(usage.read(keys) for _ in range(5))),
        asyncio.gather(*(usage.last_days(keys) for _ in range(5))),
    )
    assert pages[-1].faults == ("You have 7 keys; the usage of 6 of them is shown.",)
    assert max(most) <= own_usage.MOST_AT_ONCE
    key_ids = ["k0"] if is_new else [f"k{number}" for number in range(6)]
    assert Counter(queries) == dict.fromkeys(key_ids, 2)  # once for either page
    assert Counter(costs) == dict.fromkeys(key_ids, 1)
    assert days[-1].keys() == {*(f"k{number}" for number in range(6)), "old1", "old2"}
    assert ([row.key_id for row in pages[-1].rows], pages[-1].amount) == (["k1"], Decimal("1.234567"))


async def test_usage_is_ones_own_and_equal_in_the_csv(github: Github, tmp_path: Path) -> None:
    bus, now = MemoryBus(), time.time()
    for key_id, owner in (("k1", "github:1"), ("k2", "github:1"), ("k3", "github:2")):
        record = KeyRecord(id=key_id, name=f"=name {key_id}", created_at=now, owner=owner, hint="abcd")
        await bus.create(KEYS, digest(key_id), encode(record))
    day = time.strftime("%Y-%m-%d", time.gmtime(now))
    wakes = KeyWakes(key_id="k1", wakes=1, cost=Decimal("0.25"), day=day, starts=(now,))
    await bus.put(WAKES, key_wakes_key("k1"), encode(wakes))
    entries = [
        *whole_wake(now - 20 * 86400, 95.0, wake="a", key="k1"),
        *whole_wake(now - 31 * 86400, 44.0, wake="b", key="k1"),
        transition(now - 7200, "asleep", "waking", wake="c", machine="m2", tier="spot", key="k2"),
        transition(now - 7000, "waking", "asleep", wake="c", machine="m2", tier="spot", key="k2"),
        *whole_wake(now - 3600, 33.0, wake="d", tier="other", key="k3"),
    ]
    for subject, data in messages(entries):
        await bus.publish(subject, data)
    async with running_site(tmp_path, config(github), bus) as url, Browser(url) as ann, Browser(url) as bob:
        await ann.sign_in("ann")
        await bob.sign_in("bob")
        dark = await ann.get("/account/usage")
        assert "The usage of =name k1 is not known now" in dark.text
        assert "not known" in dark.text
        await until(lambda: bus.backlog(WAKE_HISTORY), lambda backlog: backlog == 0)
        await bus.respond("meter", METER_TOKENS, meter)
        await bus.respond("billing", BILLING_STATEMENT, billing)
        page, table = await ann.get("/account/usage"), await ann.get("/account/usage.csv")
        other = await bob.get("/account/usage")
        keys = await ann.get("/account/keys")
    rows = list(csv.reader(io.StringIO(table.text)))
    assert rows[1:] == [[day, "org/m", "'=name k1", "k1", "2", "30", "10", "5"]]
    of_wakes = page.text.split('id="wakes"')[1].split("</section>")[0]
    assert re.findall(r"<td class=.text.>((?:ready|failed)[^<]*)</td>", of_wakes) == [
        "failed",
        "ready after 1 min 35 s",
    ]
    assert not [text for text in ("44 s", "33 s", "other") if text in of_wakes]
    (shown,) = re.findall(r"<tr><td>(\d{4}-\d\d-\d\d)</td>.*?</tr>", page.text)
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page.text.split(f"<tr><td>{shown}")[1].split("</tr>")[0])
    assert cells[-4:] == rows[1][-4:]
    assert "$1.23" in page.text
    assert "still open" in page.text
    assert "$0.25" in page.text
    assert table.headers["Cache-Control"] == "no-store"
    assert "None of your keys was used" in other.text
    assert f"<small>{day}</small>" in keys.text
    assert "not within 30 days" in keys.text
