"""A word planted in every text of every message that the site reads: public pages show only what is on a short list."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shared.bus import subjects
from shared.bus.memory import MemoryBus
from shared.bus.topology import BUDGET, FLEET, KEYS, LEASES, MONTHS, REPORTS, WAKE_HISTORY, WAKES, Bucket
from shared.messages.codec import Unreadable, decode, encode
from tests.contract.test_messages import MESSAGES
from tests.kit.github import CLIENT_SECRET, Account, github_config, running_github
from tests.kit.site import Browser, running_site
from tests.kit.waiting import until

EXAMPLES = Path(__file__).parents[2] / "contract" / "messages"
DAY, TIER, MODEL, WAKE = "2026-11-23", "h100x2", "qwen3-coder", "w_9"
NOW = 1_795_482_000.0
CONFIG = f"""
[site]
port = 0
[[tier]]
name = "{TIER}"
provider = "static"
[[machine]]
id = "h100x2-1"
tier = "{TIER}"
endpoint = "http://10.0.4.11:8000"
[[model]]
name = "{MODEL}"
lineup = ["{TIER}"]
"""
STORED: tuple[tuple[str, Bucket, str], ...] = (
    ("machine.v1.alarm", FLEET, "h100x2-1"),
    ("budget.v1.ordered", BUDGET, "fleet"),
    ("budget.v1", BUDGET, f"tier.{TIER}"),
    ("public_day.v1", REPORTS, subjects.public_day_key(DAY)),
    ("headline.v1", REPORTS, subjects.HEADLINE_KEY),
    ("published.v1", REPORTS, subjects.published_key(DAY)),
    ("audit.v1", REPORTS, subjects.audit_key(DAY)),
    ("bench_run.v1", REPORTS, subjects.bench_key("1")),
    ("key.v1.owner", KEYS, "a" * 64),
    ("key_month.v1", MONTHS, "k_1"),
    ("key_wakes.v1", WAKES, "k_1"),
)
JOURNALLED = ("transition.v1", "phase.v1", "provider_call.v1", "ordered.v1.reason")
ANSWERED = {
    "trail.v1": subjects.BILLING_TRAIL,
    "figures.v1": subjects.METER_FIGURES,
    "responses.v1": subjects.METER_RESPONSES,
}
ALIKE = {
    "day": DAY,
    "tier": TIER,
    "wake_id": WAKE,
    "machine": "h100x2-1",
    "endpoint": "http://10.0.4.11:8000",
    "scope": "fleet",
}
"""Fields by which messages belong together: they are planted in a message of their own."""
PUBLIC = {
    *(f"BenchRun.{field}" for field in ("engine", "engine_version", "gateway_version", "model", "tier")),
    "Figures.rows.dimensions.model",
    *(f"Headline.bands.{field}" for field in ("left_out", "model")),
    *(f"Headline.period.{field}" for field in ("causes.<name>", "complete_through", "from", "to", "models.model")),
    *(f"Headline.period.days.{field}" for field in ("causes.<name>", "models.model")),
    *(f"PublishedDay.figures.{field}" for field in ("causes.<name>", "day", "models.model")),
    *(f"Trail.{field}" for field in ("costs.source", "invoices.sha256", "invoices.source")),
}
"""Texts that anybody may read. `TIER` and its like stand on pages too; numbers and choices of few are not texts."""
LOGGED = {"machine", "endpoint", "scope"}
"""Names in the log of a message that is refused since it is about another machine or gate."""
WORD = re.compile(r"zq\w+zq")
Leaf = tuple[str | int, ...]


def leaves(value: Any, path: Leaf = ()) -> Iterator[Leaf]:
    """The place of each text, and of each name in a mapping."""
    if isinstance(value, dict):
        for name, child in value.items():
            yield (*path, name, "<name>")
            yield from leaves(child, (*path, name))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from leaves(child, (*path, index))
    elif isinstance(value, str) and path != ("type",):
        yield path


def replaced(value: Any, path: Leaf, word: str) -> Any:
    if not path:
        return word
    head, *rest = path
    if isinstance(value, list):
        return [replaced(child, tuple(rest), word) if index == head else child for index, child in enumerate(value)]
    if rest == ["<name>"]:
        return {**value, word: value[head]}
    return {name: replaced(child, tuple(rest), word) if name == head else child for name, child in value.items()}


class Garden:
    """Messages in which words stand, and where each stands."""

    def __init__(self) -> None:
        self.words: dict[str, str] = {}

    def plant(self, example: str, *, alike: bool = False) -> list[bytes]:
        """Return the message with a word in each text that may be any; `alike`: one message for each of `ALIKE`."""
        message = json.loads((EXAMPLES / f"{example}.json").read_text("utf-8"))
        for row in message.get("rows", ()) if example == "responses.v1" else ():
            row["dimensions"]["day"] = DAY  # as the site asks for them
        for path in leaves(message):
            if path[-1] in ALIKE:
                message = replaced(message, path, ALIKE[str(path[-1])])
        kind, planted, apart = MESSAGES[message["type"]], message, []
        for path in sorted(leaves(message), key=len, reverse=True):  # a mapping's names after what is in it
            name = next((str(part) for part in reversed(path) if not isinstance(part, int)), "")
            word = f"zq{len(self.words)}zq"
            if not keeps(kind, replaced(message, path, word), word):
                continue
            if name in ALIKE:
                if alike:
                    apart.append(replaced(message, path, word))
                    self.words[word] = where(kind.__name__, path)
            elif not alike:
                planted = replaced(planted, path, word)
                self.words[word] = where(kind.__name__, path)
        return [json.dumps(each).encode() for each in (apart if alike else [planted])]

    def place(self, word: str) -> str:
        return self.words.get(word, word)


def keeps(kind: type[Any], message: Any, word: str) -> bool:
    """Whether this is a message in which the word stands: no choice of few, no number, no unknown field."""
    try:
        return word.encode() in encode(decode(json.dumps(message).encode(), kind))
    except Unreadable:
        return False


def where(kind: str, path: Leaf) -> str:
    names = [str(part) for part in path if not isinstance(part, int)]
    return ".".join([kind, *(names if names[-1] != "<name>" else [*names[:-2], "<name>"])])


async def fill(bus: MemoryBus, garden: Garden) -> None:
    for example, bucket, key in STORED:
        await bus.put(bucket, key, garden.plant(example)[0])
        for number, other in enumerate(garden.plant(example, alike=True)):
            await bus.put(bucket, f"{key}-{number}", other)
    for example in JOURNALLED:
        for message in [*garden.plant(example), *garden.plant(example, alike=True)]:
            await bus.publish(subjects.journal("h100x2-1"), message)
    gates = "gate_turned.v1.ordered"
    for message in [*garden.plant(gates), *garden.plant(gates, alike=True)]:
        await bus.publish(subjects.budget_journal("fleet"), message)
    for example, subject in (("activity.v1", "activity.gw-0-1f2e3d4c"), ("limits.v1", "limits.gw-0-1f2e3d4c")):
        await bus.publish_volatile(subject, garden.plant(example)[0])
    await bus.put(LEASES, subjects.WAKER_LEASE, b"zqleasezq")
    for example, subject in ANSWERED.items():
        (answer,) = garden.plant(example)

        async def respond(_data: bytes, answer: bytes = answer) -> bytes:
            return answer

        await bus.respond("all", subject, respond)


async def read_all(client: aiohttp.ClientSession) -> dict[str, str]:
    """Every public page in each of its forms, and the files for programs."""
    async with client.get("/sitemap.xml") as response:
        pages = [link.partition("<")[0] for link in (await response.text()).split("<loc>")[1:]]
    paths = [link.partition("//")[2].partition("/")[2] for link in pages]
    files = ("feed.xml", "llms.txt", "sitemap.xml", "robots.txt", "index.json")
    shown: dict[str, str] = {}
    for path in [
        *files,
        *(f"{page}{form}" for page in [*paths, f"economics/{DAY}"] for form in ("", ".json", ".csv", ".md")),
    ]:
        async with client.get(f"/{path}") as response:
            if response.status != 404:
                assert response.status == 200, path
                shown[path] = await response.text()
    return shown


async def test_public_pages_show_no_text_but_the_public_ones(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bus, garden = MemoryBus(), Garden()
    async with (
        running_site(tmp_path, CONFIG, bus, now=lambda: NOW) as url,
        aiohttp.ClientSession(url) as client,
    ):
        await fill(bus, garden)
        await until(lambda: bus.backlog(WAKE_HISTORY), lambda backlog: backlog == 0)
        shown = await read_all(client)
    assert {garden.place(word) for text in shown.values() for word in WORD.findall(text)} == PUBLIC
    assert {path.rpartition(".")[2] for path in shown} >= {"json", "csv", "md", "xml", "txt"}
    assert len(garden.words) > 100
    assert_logs_nothing(capfd, [word for word, place in garden.words.items() if place.split(".")[-1] not in LOGGED])


async def test_logs_show_no_secret_of_a_person(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with running_github(Account(1, "ann")) as github:
        config = f'[site]\nport = 0\nsignup = "open"\n{github_config(github)}'
        async with running_site(tmp_path, config) as url, Browser(url) as browser:
            begun = await browser.get("/sign-in/github")
            github.user_fault = "html"
            await browser.get((await browser.get(f"{begun.location}&login=ann")).location)
            github.user_fault = None
            await browser.sign_in("ann")
            form = {**(await browser.get("/account/keys/new")).form("/account/keys/new"), "name": "zq0zq"}
            made = await browser.post("/account/keys/new", {**form, "lifetime": "30"})
            await browser.post("/account/keys/new", {**form, "zq1zq": "zq2zq"})
            await browser.get("/nowhere?key=zq3zq", Authorization="Bearer zq4zq", Cookie="session=zq5zq")
            await browser.get("/sign-in/github/callback?code=zq6zq&state=zq7zq&error=zq8zq")
            secrets = {browser.cookie(), CLIENT_SECRET, *re.findall(r"sk-[A-Za-z0-9_-]{20,}", made.text), form["token"]}
    secrets |= (
        {f"zq{number}zq" for number in range(9)}
        | {value for sent in github.exchanged for value in sent.values() if len(value) > 15}
        | {*github.deleted}
    )
    assert len(secrets) >= 8
    assert_logs_nothing(capfd, secrets)


def assert_logs_nothing(capfd: pytest.CaptureFixture[str], secrets: Iterable[str]) -> None:
    logged = "".join(capfd.readouterr())
    assert logged
    assert [secret for secret in secrets if secret in logged] == []
