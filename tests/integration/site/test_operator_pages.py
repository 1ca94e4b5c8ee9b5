"""What viewers see and operators do: each deed is confirmed, has a reason, and leaves a row in the audit."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import pytest

from services.site.app import orders
from services.site.core.origins import form_token
from shared.bus import subjects
from shared.bus.memory import MemoryBus
from shared.bus.topology import BUDGET, FLEET, KEYS, REPORTS
from shared.key_store import create_key
from shared.messages.budget import BudgetGate, GateOrder, Gates
from shared.messages.codec import decode, encode
from shared.messages.invoices import Invoices, InvoiceStanding, InvoiceState
from shared.messages.keys import KeyRecord
from shared.messages.meter import Tokens, TokensQuery, TokensRow, TokenSums
from shared.messages.waker import CommandIssued, MachineRecord, WakerCommand, WakerReply
from tests.kit.github import Account, Github, github_config, running_github
from tests.kit.site import Answer, Browser, running_site

MACHINE = MachineRecord(
    machine="local 1",
    tier="local",
    state="ready",
    provider_state="running",
    endpoint="http://127.0.0.1:8000",
    generation=3,
    since=1_790_000_000.0,
    reason="woken <b>",
)
FLEET_CONFIG = """
[billing]
daily_budget = "200.00"
[[tier]]
name = "local"
provider = "process"
[[machine]]
id = "local 1"
tier = "local"
instance = "i-1"
command = ["engine", "{port}"]
[[model]]
name = "org/tiny"
lineup = ["local"]
"""
HIBERNATE = "/operator/machines/local=201/hibernate"
BY = "olga (github:2)"
PAGES = ("", "/gates", "/keys", "/people", "/audit", "/journal", "/counts", "/invoices")


@dataclass
class Desk:
    """A site with a fleet, a waker and a billing that take what they are told, and two people."""

    bus: MemoryBus
    url: str
    olga: Browser
    vic: Browser
    commands: list[WakerCommand] = field(default_factory=list)
    gates: list[GateOrder] = field(default_factory=list)
    reply: WakerReply = field(default_factory=lambda: WakerReply(accepted=True))

    async def do(self, path: str, reason: str = "it burns", **more: str) -> Answer:
        question = await self.olga.get(path)
        assert question.status == 200, question.text
        return await self.olga.post(path, {**question.form(path), "reason": reason, **more})

    async def deeds(self) -> str:
        return (await self.olga.get("/operator/audit")).text


@asynccontextmanager
async def running_desk(folder: Path, github: Github) -> AsyncIterator[Desk]:
    bus = MemoryBus()
    await bus.put(FLEET, subjects.machine_key("local 1"), encode(MACHINE))
    roles = 'signup = "open"\noperators = ["github:2"]\nviewers = ["github:3"]'
    config = f"[site]\nport = 0\n{roles}\n{github_config(github)}\n{FLEET_CONFIG}"
    async with running_site(folder, config, bus) as url, Browser(url) as olga, Browser(url) as vic:
        await olga.sign_in("olga")
        await vic.sign_in("vic")
        desk = Desk(bus, url, olga, vic)

        async def on_command(data: bytes) -> bytes:
            desk.commands.append(decode(data, WakerCommand))
            return encode(desk.reply)

        async def on_gate(data: bytes) -> bytes:
            desk.gates.append(decode(data, GateOrder))
            return encode(Gates())

        await bus.respond("waker", subjects.WAKER_COMMAND, on_command)
        await bus.respond("billing", subjects.BILLING_GATE, on_gate)
        yield desk


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    accounts = (Account(1, "ann"), Account(2, "olga"), Account(3, "vic"))
    async with running_github(*accounts) as github, running_desk(tmp_path, github) as running:
        yield running


async def test_a_viewer_sees_everything_and_can_do_nothing(desk: Desk) -> None:
    for page in PAGES:
        answer = await desk.vic.get(f"/operator{page}")
        assert answer.status == 200, page
        assert answer.headers["Cache-Control"] == "no-store"
    key_id, _ = await create_key(desk.bus, name="customer")
    deeds = (
        HIBERNATE,
        "/operator/machines/local=201/cordon",
        "/operator/models/org=2Ftiny/wake",
        "/operator/gates/fleet/open",
        f"/operator/keys/{key_id}/revoke",
        "/operator/people/github=3A2/block",
    )
    for path in deeds:
        assert (await desk.vic.get(path)).status == 403, path
        token = form_token(desk.vic.cookie(), path)
        assert (await desk.vic.post(path, {"token": token, "reason": "because"})).status == 403, path
        assert (await desk.olga.get(path)).status == 200, path
    assert (desk.commands, desk.gates) == ([], [])
    assert (await desk.olga.get("/operator/people")).text.count("blocked") == 0
    assert [record.revoked_at for record in await keys(desk)] == [None]


async def test_an_order_carries_its_reason_and_the_operator(desk: Desk) -> None:
    answer = await desk.do(HIBERNATE, "  its driver\tis replaced ", force="on")
    assert (answer.status, answer.location) == (303, "/operator")
    await desk.do("/operator/machines/local=201/wake")
    await desk.do("/operator/machines/local=201/cordon")
    await desk.do("/operator/models/org=2Ftiny/wake")
    why = "its driver is replaced"
    assert desk.commands == [
        WakerCommand(order="hibernate", target="local 1", by=BY, force=True, reason=why),
        WakerCommand(order="wake", target="local 1", by=BY, is_machine=True, reason="it burns"),
        WakerCommand(order="cordon", target="local 1", by=BY, reason="it burns"),
        WakerCommand(order="wake", target="org/tiny", by=BY, reason="it burns"),
    ]
    audit = await desk.deeds()
    assert audit.count("machine hibernate ordered") == 1
    assert why in audit
    assert "model wake ordered" in audit


@pytest.mark.parametrize("reason", ["", "   ", "x" * 201])
async def test_nothing_is_done_without_a_reason(desk: Desk, reason: str) -> None:
    answer = await desk.do(HIBERNATE, reason)
    assert answer.status == 400
    assert 'role="alert"' in answer.text
    assert desk.commands == []
    assert "ordered" not in await desk.deeds()


async def test_a_rejected_order_shows_why_and_is_not_audited(desk: Desk) -> None:
    desk.reply = WakerReply(accepted=False, error="it is <static>")
    answer = await desk.do(HIBERNATE)
    assert answer.status == 409
    assert "It was not done: it is &lt;static&gt;" in answer.text
    assert "it burns" in answer.text
    assert "ordered" not in await desk.deeds()


async def test_what_is_not_answered_is_recorded_as_that(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "PATIENCE_S", 0.0)
    monkeypatch.setattr(desk.bus, "_responders", {})
    answer = await desk.do(HIBERNATE)
    assert answer.status == 503
    assert "may have been done or not" in answer.text
    assert "without an answer: it burns" in await desk.deeds()


@pytest.mark.parametrize(
    "path",
    [
        "/operator/machines/local=202/cordon",
        "/operator/machines/local%201/cordon",
        "/operator/machines/local=201/explode",
        "/operator/models/other/wake",
        "/operator/gates/tier.other/open",
        "/operator/gates/fleet/burn",
        "/operator/keys/none/revoke",
        "/operator/people/github=3A9/block",
        "/operator/counts?day=2026-02-30",
        "/operator/counts?day=0001-01-01",
        "/operator/journal?before=x",
        "/operator/journal?before=-1",
    ],
)
async def test_what_is_not_there_is_404(desk: Desk, path: str) -> None:
    assert (await desk.olga.get(path)).status == 404


async def test_the_fleet_shows_text_from_outside_as_text(desk: Desk) -> None:
    page = (await desk.vic.get("/operator")).text
    assert "woken &lt;b&gt;" in page
    assert "local 1" in page
    assert "<td>\N{EN DASH}</td>" in page  # in flight: no gateway has reported, which is not 0
    assert "may be of the past" not in page
    desk.bus.view_age = 31.0
    assert "may be of the past" in (await desk.vic.get("/operator")).text


async def test_a_gate_shows_its_override_and_takes_one(desk: Desk) -> None:
    assert "has written nothing" in (await desk.vic.get("/operator/gates")).text
    now = time.time()
    gate = BudgetGate(
        open=False,
        reason="budget_closed",
        spend=Decimal("201.50"),
        limit=Decimal(200),
        observed_at=now,
        observed_age_s=1.0,
        ordered="close",
        ordered_day="2026-11-29",
        ordered_by="ops@bastion",
        ordered_why="a test",
    )
    await desk.bus.put(BUDGET, "fleet", encode(gate))
    page = (await desk.vic.get("/operator/gates")).text
    assert "201.50 USD" in page
    assert "by ops@bastion: a test" in page
    assert "Not observed lately" not in page
    assert (await desk.do("/operator/gates/fleet/open")).status == 303
    assert desk.gates == [GateOrder(scope="fleet", order="open", by=BY, reason="it burns")]
    assert "gate open ordered" in await desk.deeds()


async def keys(desk: Desk) -> list[KeyRecord]:
    return [decode(entry.value, KeyRecord) for entry in (await desk.bus.entries(KEYS)).values()]


async def test_an_operator_searches_sorts_and_revokes_keys(desk: Desk) -> None:
    old, _ = await create_key(desk.bus, name="Zebra", owner="github:3", made_by="github:3")
    new, _ = await create_key(desk.bus, name="apple")

    async def answer(data: bytes) -> bytes:
        query = decode(data, TokensQuery)
        row = TokensRow(dimensions={"key": old, "day": query.to or ""}, sums=TokenSums(requests=1))
        return encode(Tokens(day=query.day, complete=False, totals=row.sums, served=row.sums, rows=(row,)))

    assert "The meter does not answer" in (await desk.vic.get("/operator/keys")).text
    await desk.bus.respond("meter", subjects.METER_TOKENS, answer)
    page = (await desk.vic.get("/operator/keys")).text
    assert page.index("apple") < page.index("Zebra")
    assert page.count("not in 30 days") == 1
    by_use = (await desk.vic.get("/operator/keys?sort=used")).text
    assert by_use.index("Zebra") < by_use.index("apple")
    by_name = (await desk.vic.get("/operator/keys?search=zEB")).text
    assert ("Zebra" in by_name, "apple" in by_name) == (True, False)
    assert "/revoke" not in by_name
    by_owner = (await desk.vic.get("/operator/keys?search=vic&sort=owner")).text
    assert ("Zebra" in by_owner, "apple" in by_owner) == (True, False)
    assert (await desk.do(f"/operator/keys/{old}/revoke")).status == 303
    assert "by github:2" in (await desk.vic.get("/operator/keys")).text
    assert {record.id: record.revoked_at is not None for record in await keys(desk)} == {old: True, new: False}
    assert "key revoked by operator" in await desk.deeds()


async def test_a_blocked_person_is_out_at_once_and_stays_out(desk: Desk) -> None:
    for owner in ("github:1", "github:3"):
        await create_key(desk.bus, name="n", owner=owner)
    async with Browser(desk.url) as ann:
        await ann.sign_in("ann")
        assert (await desk.do("/operator/people/github=3A1/end-sessions")).status == 303
        assert (await ann.get("/account")).status == 303
        await ann.sign_in("ann")
        assert (await desk.do("/operator/people/github=3A1/block")).status == 303
        assert (await ann.get("/account")).status == 303
        assert (await ann.sign_in("ann")).status == 403
        assert "blocked 20" in (await desk.vic.get("/operator/people")).text
        assert (await desk.do("/operator/people/github=3A1/unblock")).status == 303
        assert (await ann.sign_in("ann")).status == 303
        assert not [record for record in await keys(desk) if record.revoked_at is not None]
        assert (await desk.do("/operator/people/github=3A1/block", keys="on")).status == 303
        assert {record.owner: record.revoked_by for record in await keys(desk)} == {
            "github:1": "github:2",
            "github:3": None,
        }
    assert (await desk.do("/operator/people/github=3A2/block")).status == 409
    audit = await desk.deeds()
    for action in ("sessions ended by operator", "person blocked", "person unblocked"):
        assert audit.count(action) == (2 if action == "person blocked" else 1)


async def test_the_journal_is_read_a_page_at_a_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(250):
        entry = CommandIssued(at=float(number), machine="m", order="cordon", by=f"by-{number:03}", reason="<why>")
        await desk.bus.publish(subjects.journal("m"), encode(entry))
    await desk.bus.publish(subjects.journal("m"), b"{}")
    sizes: list[int] = []
    page_of = desk.bus.page

    async def page(*args: object, most: int, **more: object) -> object:
        sizes.append(most)
        return await page_of(*args, most=most, **more)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(desk.bus, "page", page)
    seen: list[str] = []
    text, path = "", "/operator/journal"
    while path:
        text = (await desk.vic.get(path)).text
        seen += [line.split(", by ")[1][:6] for line in text.splitlines() if "cordon, by " in line]
        assert ("1 entries here cannot be read" in text) == (path == "/operator/journal")
        path = text.split('">Older')[0].rpartition('href="')[2] if ">Older" in text else ""
    assert seen == [f"by-{number:03}" for number in reversed(range(250))]
    assert max(sizes) <= 100
    assert "&lt;why&gt;" in text


async def test_counts_are_shown_as_they_were_audited_last(desk: Desk) -> None:
    missing = await desk.vic.get("/operator/counts?day=2026-11-01")
    assert "has published no audit" in missing.text
    example = Path("tests/contract/messages/audit.v1.json").read_bytes()  # noqa: ASYNC240 - a test may
    day = json.loads(example)["day"]
    await desk.bus.put(REPORTS, subjects.audit_key(day), example)
    page = (await desk.vic.get(f"/operator/counts?day={day}")).text
    for machine in json.loads(example)["machines"]:
        assert machine["machine"] in page
        assert machine["words"].split(":")[0] in page


async def test_invoices_that_do_not_tie_are_shown(desk: Desk) -> None:
    assert "Billing does not answer" in (await desk.vic.get("/operator/invoices")).text

    async def answer(_data: bytes) -> bytes:
        states: tuple[InvoiceState, ...] = ("differs", "ties", "open")
        standings = tuple(
            InvoiceStanding(
                source="ec2",
                issuer="AWS",
                invoice_id=f"inv-{state}",
                currency="USD",
                period_start="2026-10-01",
                period_end="2026-11-01",
                billed=Decimal(5),
                payable=Decimal(6),
                rounding=None,
                state=state,
            )
            for state in states
        )
        return encode(Invoices(imported=(), standings=standings))

    await desk.bus.respond("billing", subjects.BILLING_INVOICES, answer)
    page = (await desk.vic.get("/operator/invoices")).text
    assert ("inv-differs" in page, "inv-open" in page, "inv-ties" in page) == (True, True, False)
    assert "1 of 3 invoices do not tie" in page
