"""The operator's commands about money, asked of a real bus on which a billing that knows what it says answers."""

import asyncio
import csv
import io
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest_asyncio
from click.testing import CliRunner
from msgspec.structs import replace

from services.billing.adapters.export.report_files import render_files
from shared.bus import subjects, topology
from shared.bus.jetstream import JetStreamBus
from shared.messages.billing import (
    Band,
    Bands,
    BandsQuery,
    ReportQuery,
    ReportsQuery,
    StatementQuery,
)
from shared.messages.codec import Message, decode, encode
from shared.messages.keys import KeyRecord, digest
from shared.messages.meter import ErrorReply, Tokens, TokensQuery, TokensRow, TokenSums
from spotinference.__main__ import main
from tests.unit.billing.export.full_reports import EVIL, day_report, explained, period_report, statement

M = TypeVar("M", bound=Message)
TO = "2026-05-31"
UNREPORTED = "2026-01-01"
"""A day that has no report."""


class CommandResult(NamedTuple):
    status: int
    out: str
    err: str


class Desk:
    """Runs commands; keeps what billing was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.queries: list[Message] = []

    def reports(self, data: bytes) -> Message:
        query = self._record_query(decode(data, ReportsQuery))
        return ErrorReply(reason=f"to: no {query.to}") if query.to == UNREPORTED else period_report(query.days, TO)

    def report(self, data: bytes) -> Message:
        query = self._record_query(decode(data, ReportQuery))
        report = day_report(query.day)
        return (
            ErrorReply(reason=f"day: no {query.day}")
            if query.day == UNREPORTED
            else explained(report)
            if query.explain
            else report
        )

    def statement(self, data: bytes) -> Message:
        key = self._record_query(decode(data, StatementQuery)).key_id
        return replace(statement(key_id=key), lines=()) if key == "unused" else statement(key_id=key)

    def tokens(self, data: bytes) -> Message:
        query = decode(data, TokensQuery)
        sums = TokenSums(requests=1, prompt_tokens=7)
        dimensions = [{"model": "@m", "key": key} for key in ("k1", "k2")]
        rows = tuple(TokensRow(dimensions={name: row[name] for name in query.by}, sums=sums) for row in dimensions)
        return Tokens(day=query.day, complete=True, totals=sums, served=sums, rows=rows)

    def bands(self, data: bytes) -> Message:
        self._record_query(decode(data, BandsQuery))
        band = Band(
            model=EVIL[3], day=TO, low=Decimal(2), high=Decimal("2.5"), trailing_7=Decimal("2.2"), trailing_28=None
        )
        return Bands(day=TO, bands=(band,))

    async def run(self, *words: str) -> CommandResult:
        config = str(self.folder / "spotinference.toml")
        arguments = [*words, "--config", config, "--data-dir", str(self.folder)]
        done = await asyncio.to_thread(CliRunner().invoke, main, arguments)
        return CommandResult(done.exit_code, done.stdout, done.stderr)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def _record_query(self, query: M) -> M:
        self.queries.append(query)
        return query


@pytest_asyncio.fixture
async def desk(tmp_path: Path, bus: JetStreamBus, nats_url: str) -> Desk:
    (tmp_path / "spotinference.toml").write_text(f'[bus]\nurl = "{nats_url}"\n')
    made = Desk(tmp_path)
    answers: dict[str, Callable[[bytes], Message]] = {
        subjects.BILLING_REPORTS: made.reports,
        subjects.BILLING_REPORT: made.report,
        subjects.BILLING_STATEMENT: made.statement,
        subjects.BILLING_BANDS: made.bands,
        subjects.METER_TOKENS: made.tokens,
    }
    for subject, answer in answers.items():

        async def respond(data: bytes, answer: Callable[[bytes], Message] = answer) -> bytes:
            return encode(answer(data))

        await bus.respond("billing", subject, respond)
    return made


async def test_without_options_the_last_seven_days_come_first_and_then_the_day(desk: Desk) -> None:
    result = await desk.run("report")
    assert result.status == 0, result.err
    assert [type(query) for query in desk.queries] == [ReportsQuery]
    week = period_report(7, TO)
    lines = result.out.splitlines()
    assert lines[0].startswith(f"${week.usd_per_mtok:,.4f} per million tokens")
    assert result.out.index("7 days, 2026-05-25 to 2026-05-31 UTC") < result.out.index(
        "2026-05-31 UTC, estimated, revision 3"
    )


async def test_files_are_those_that_the_service_publishes(desk: Desk) -> None:
    names = ("r.csv", "r.xlsx", "r.html")
    options = [word for name in names for word in (f"--{name[2:]}", desk.path(name))]
    result = await desk.run("report", "--days", "9", "--to", TO, *options, "--json")
    assert result.status == 0, result.err
    assert desk.queries == [ReportsQuery(to=TO, days=9, explain=True)]
    published = render_files(period_report(9, TO))
    assert {name: (desk.folder / name).read_bytes() for name in names} == {name: published[name[2:]] for name in names}
    assert json.loads(result.out) == json.loads(published["json"])
    rows = list(csv.DictReader(io.StringIO((desk.folder / "r.csv").read_text("utf-8"))))
    spend = sum(Decimal(row["spend"]) for row in rows if row["kind"] == "total")
    assert spend == period_report(9, TO).spend
    place = desk.path("d.csv")
    assert (await desk.run("report", "--day", TO, "--csv", place)).out == f"wrote {place}\n"


async def test_a_day_as_json_is_one_object(desk: Desk) -> None:
    result = await desk.run("report", "--day", "2026-05-03", "--json")
    assert json.loads(result.out) == json.loads(render_files(day_report())["json"])
    assert desk.queries == [ReportQuery(day="2026-05-03")]


async def test_days_are_shown_without_the_last_one_again(desk: Desk) -> None:
    result = await desk.run("report", "--days", "3", "--to", TO)
    assert "3 days, 2026-05-29 to 2026-05-31 UTC" in result.out
    assert "revision" not in result.out
    assert desk.queries == [ReportsQuery(to=TO, days=3)]


async def test_a_rejected_report_writes_nothing_and_exits_with_one(desk: Desk) -> None:
    kept = desk.folder / "kept.csv"
    kept.write_text("old")
    result = await desk.run("report", "--day", UNREPORTED, "--csv", str(kept))
    assert (result.status, result.err) == (1, f"spotinference: day: no {UNREPORTED}\n")
    assert kept.read_text() == "old"
    place = desk.path("none/r.html")
    result = await desk.run("report", "--days", "3", "--html", place)
    assert (result.status, result.err) == (1, f"spotinference: --html {place}: No such file or directory\n")


async def test_options_that_exclude_one_another_are_wrong_usage(desk: Desk) -> None:
    for words in (("--day", TO, "--days", "3"), ("--day", TO, "--to", TO), ("--to", TO), ("--days", "0")):
        result = await desk.run("report", *words)
        assert result.status == 2, words
    assert desk.queries == []


async def test_a_figure_is_explained(desk: Desk) -> None:
    result = await desk.run("report", "--day", TO, "--explain", "unattributed")
    assert result.status == 0, result.err
    assert desk.queries == [ReportQuery(day=TO, explain=True)]
    expected = explained(day_report(TO)).explanations[0]
    assert result.out.startswith(f"unattributed: ${expected.amount:,.4f}\n{TO} UTC, provisional, revision 3\n")
    last = [line.split()[-1] for line in result.out.splitlines()[-4:]]
    assert last == [
        f"{amount:,.4f}" for amount in (*(x.amount for x in expected.lines), expected.rest, expected.amount)
    ]
    explanation = json.loads((await desk.run("report", "--day", TO, "--explain", "unattributed", "--json")).out)
    assert {name: explanation[name] for name in ("day", "revision", "state", "figure", "amount")} == {
        "day": TO,
        "revision": 3,
        "state": "provisional",
        "figure": "unattributed",
        "amount": f"{expected.amount:f}",
    }
    assert [line["resource"] for line in explanation["lines"]] == ["disk-1", "nat-1"]
    assert explanation["reason"] is None
    result = await desk.run("report", "--day", TO, "--explain", "typo")
    assert (result.status, result.out) == (1, "")
    assert result.err == "spotinference: --explain: no figure is named 'typo'; the figures are unattributed, h100x2\n"
    assert (await desk.run("report", "--explain", "shared", "--html", desk.path("x.html"))).status == 2
    result = await desk.run("report", "--days", "3", "--to", TO, "--explain", "shared")
    assert (result.status, result.err[:60]) == (1, "spotinference: 2026-05-29 to 2026-05-31: no figure can be ex")


async def test_a_statement_on_the_terminal_and_as_files(desk: Desk) -> None:
    result = await desk.run("statement", "=k1", "--month", "2026-05")
    assert result.status == 0, result.err
    assert "=k1, 2026-05: $6.0000 for 2,400,002 tokens, complete" in result.out
    assert desk.queries == [StatementQuery(key_id="=k1", month="2026-05")]
    result = await desk.run("statement", "=k1", "--json", "--csv", desk.path("s.csv"), "--html", desk.path("s.html"))
    published = render_files(statement(key_id="=k1"))
    assert json.loads(result.out) == json.loads(published["json"])
    assert (desk.folder / "s.csv").read_bytes() == published["csv"]
    assert (desk.folder / "s.html").read_bytes() == published["html"]


async def test_a_statement_by_the_keys_name(desk: Desk, bus: JetStreamBus) -> None:
    for key_id, name in (("k1", "Acme"), ("k2", "Twice"), ("k3", "Twice"), ("k4", "k1")):
        record = KeyRecord(id=key_id, name=name, created_at=1.0, revoked_at=2.0)
        await bus.create(topology.KEYS, digest(f"sk-{key_id}"), encode(record))
    result = await desk.run("statement", "Acme", "--month", "2026-05")
    assert (result.status, result.err) == (0, "")
    result = await desk.run("statement", "Twice")
    assert (result.status, result.out) == (1, "")
    assert result.err == "spotinference: 2 keys are named 'Twice': pass the id of one: k2, k3\n"
    await desk.run("statement", "k1", "--month", "2026-05")
    assert desk.queries == [StatementQuery(key_id="k1", month="2026-05")] * 2, "an id goes before a name"


async def test_usage_by_key_has_names_and_no_formula(desk: Desk, bus: JetStreamBus) -> None:
    record = KeyRecord(id="k1", name="=1+1", created_at=1.0)
    await bus.create(topology.KEYS, digest("sk-k1"), encode(record))
    result = await desk.run("usage", "--by", "model,key", "--json", "--csv", desk.path("u.csv"))
    assert result.status == 0, result.err
    rows = json.loads(result.out)["rows"]
    assert [(row["model"], row["key"], row["key_name"]) for row in rows] == [("@m", "k1", "=1+1"), ("@m", "k2", None)]
    with (desk.folder / "u.csv").open(encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    assert [(row["model"], row["key"], row["key_name"]) for row in written] == [
        ("'@m", "k1", "'=1+1"),
        ("'@m", "k2", ""),
    ]
    assert [row["prompt_tokens"] for row in written] == ["7", "7"]
    shown = (await desk.run("usage", "--by", "key")).out
    assert "=1+1" in shown
    assert "key_name" not in json.loads((await desk.run("usage", "--by", "model", "--json")).out)["rows"][0]


async def test_bands_as_a_table_and_as_json(desk: Desk) -> None:
    result = await desk.run("bands", "--day", TO)
    assert "2 to 2.5" in result.out
    assert "\x1b" not in result.out
    assert desk.queries == [BandsQuery(day=TO)]
    (band,) = json.loads((await desk.run("bands", "--json")).out)["bands"]
    assert (band["model"], band["low"], band["trailing_28"]) == (EVIL[3], "2", None)


async def test_a_statement_of_nobody_is_refused_and_of_an_unused_key_is_empty(desk: Desk, bus: JetStreamBus) -> None:
    result = await desk.run("statement", "unused")
    assert (result.status, result.out) == (1, "")
    assert "no key has the id or the name 'unused'" in result.err
    record = KeyRecord(id="unused", name="u", created_at=1.0)
    await bus.create(topology.KEYS, digest("sk-unused"), encode(record))
    result = await desk.run("statement", "unused", "--json")
    assert (result.status, json.loads(result.out)["lines"]) == (0, [])
