"""`backup` and `restore`: what only the bus has comes back, and no revoked key does."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shared.bus.jetstream import JetStreamBus, connect
from shared.bus.topology import BACKED_UP, FLEET_JOURNAL, INVOICES, KEYS, REPORTS, WAKER
from shared.errors import BusUnavailable
from shared.key_store import create_key
from shared.messages.codec import encode
from shared.messages.waker import CommandIssued
from shared.runtime.suite_file import BUS_URL_VARIABLE
from spotinference.keys.store import read_keys
from spotinference.restore import command
from tests.integration.suite.conftest import Shell
from tests.kit.github import CLIENT_SECRET, Account, github_config, running_github
from tests.kit.nats_server import NatsServer, nats_binary
from tests.kit.site import Browser, running_site
from tests.kit.waiting import PATIENCE_SECONDS

UNDONE = "the restore is incomplete: it has been undone: repeat the command"


def _start_server(folder: Path) -> NatsServer:
    binary = nats_binary()
    assert binary is not None
    folder.mkdir()
    server = NatsServer(binary, folder)
    server.start()
    return server


@asynccontextmanager
async def _second_bus(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[JetStreamBus]:
    """An empty bus, to which commands are led from now on."""
    server = _start_server(folder)
    monkeypatch.setenv(BUS_URL_VARIABLE, server.url)
    try:
        async with connect(server.url, name="test", wait=PATIENCE_SECONDS) as bus:
            yield bus
    finally:
        server.stop()


def _lose(data_dir: Path) -> None:
    for file in data_dir.glob("*.sqlite*"):
        file.unlink()


def _databases(data_dir: Path) -> set[str]:
    return {path.name for path in data_dir.glob("*.sqlite*")}


def _others_may(folder: Path) -> set[int]:
    """The permissions of other users."""
    return {path.stat().st_mode & 0o077 for path in (folder, *folder.iterdir())}


async def _fill(bus: JetStreamBus, data_dir: Path) -> None:
    for number in range(300):
        entry = CommandIssued(at=float(number), machine="m1", order="cordon", by="x" * 900)
        await bus.publish("fleet.journal.m1", encode(entry), message_id=str(number))
    await bus.put(WAKER, "orders", b"old")
    await bus.put(WAKER, "orders", b"new")
    await bus.put(REPORTS, "published.a", b"figures")
    await bus.put_object(INVOICES, "bill.csv", b"a,b\n" * 200_000)
    with sqlite3.connect(data_dir / "ledger.sqlite") as ledger:
        ledger.execute("PRAGMA journal_mode=WAL")
        ledger.execute("CREATE TABLE events (id TEXT)")
        ledger.execute("INSERT INTO events VALUES ('e1')")


async def test_lost_bus_and_database_come_back_as_they_were(
    shell: Shell,
    bus: JetStreamBus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await _fill(bus, tmp_path)
    _, secret = await create_key(bus, name="kept")
    saved = await shell("backup", str(tmp_path / "copy"))
    assert saved.exit_code == 0, saved.output
    assert _others_may(tmp_path / "copy") == {0}
    journal, orders = await bus.read(FLEET_JOURNAL), await bus.get(WAKER, "orders")
    assert (await shell("restore", str(tmp_path / "copy"))).exit_code == 1  # nothing is lost yet

    _lose(tmp_path)
    async with _second_bus(tmp_path / "second", monkeypatch) as restored:
        result = await shell("restore", str(tmp_path / "copy"))
        assert result.exit_code == 0, result.output
        assert await restored.read(FLEET_JOURNAL) == journal
        assert await restored.get(WAKER, "orders") == orders
        assert await restored.get_object(INVOICES, "bill.csv") == b"a,b\n" * 200_000
        assert [record.name for _, record, _ in await read_keys(restored)] == ["kept"]
        assert secret not in (tmp_path / "copy" / "manifest.json").read_text()
    with sqlite3.connect(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.execute("SELECT id FROM events").fetchall() == [("e1",)]


async def test_restored_site_has_no_session(
    shell: Shell,
    bus: JetStreamBus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What ended after the copy stays so, though the copy knows nothing of it, and the operator hears what does not."""
    monkeypatch.setenv("GITHUB_CLIENT_SECRET", CLIENT_SECRET)
    async with running_github(Account(1, "ann"), Account(2, "olga"), Account(4, "bob")) as github:
        file = tmp_path / "spotinference.toml"
        site = f'[site]\nport = 0\nsignup = "open"\noperators = ["github:2"]\n{github_config(github)}'
        file.write_text(site + file.read_text())
        async with running_site(tmp_path, site, bus) as url, Browser(url) as ann, Browser(url) as olga:
            await ann.sign_in("ann")
            await olga.sign_in("olga")
            begun = await ann.get("/sign-in/github")
            session = f"session={ann.cookie()}"
            saved = await shell("backup", str(tmp_path / "copy"))  # while the site runs
            assert (saved.exit_code, "1 databases" in saved.output) == (0, True), saved.output
        _lose(tmp_path)
        async with _second_bus(tmp_path / "second", monkeypatch) as empty:
            restored = await shell("restore", str(tmp_path / "copy"))
            assert "whom you blocked after 20" in restored.output
            assert (await shell("restore", str(tmp_path / "copy"))).exit_code == 0  # as after one that was killed
            async with running_site(tmp_path, site, empty) as url, Browser(url) as ann, Browser(url) as olga:
                assert (await ann.get("/account", Cookie=session)).status == 303
                back = (await ann.get(f"{begun.location}&login=ann")).location
                under_way = begun.cookies[0].split(";")[0]
                assert (await ann.get(back[back.index("/sign-in") :], Cookie=under_way)).status == 503
                assert (await ann.sign_in("ann")).status == 303
                assert (await olga.sign_in("olga")).status == 303
                assert "2 sessions ended" in (await olga.get("/operator/audit")).text


async def test_failed_restore_leaves_nothing_behind(
    shell: Shell,
    bus: JetStreamBus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await _fill(bus, tmp_path)
    copy = tmp_path / "copy"
    assert (await shell("backup", str(copy))).exit_code == 0
    _lose(tmp_path)
    reports = copy / f"KV_{REPORTS.name}.stream"
    whole = reports.read_bytes()
    async with _second_bus(tmp_path / "second", monkeypatch) as restored:
        reports.write_bytes(b"no snapshot of a stream")
        failed = await shell("restore", str(copy))
        assert (failed.exit_code, f"restore stream KV_{REPORTS.name}" in failed.output) == (1, True)
        assert await restored.js.streams_info() == []
        reports.unlink()
        failed = await shell("restore", str(copy))
        assert (failed.exit_code, f"{reports.name} missing" in failed.output) == (1, True)
        assert not (tmp_path / "ledger.sqlite").exists()

        reports.write_bytes(whole)
        result = await shell("restore", str(copy))
        assert result.exit_code == 0, result.output


def _fail(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Make a step of `restore` fail after it has done a part of its work."""
    work, calls = getattr(command, step), 0

    async def fail_in_bus(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        await work(*arguments, **options)
        calls += 1
        if calls == 2 or step != "restore_stream":
            raise BusUnavailable("no answer")

    def fail_on_disk(copies: dict[Path, Path]) -> None:
        list(copies.values())[-1].mkdir()  # something is there by now
        try:
            work(copies)
        finally:
            list(copies.values())[-1].rmdir()

    monkeypatch.setattr(command, step, fail_on_disk if step == "put_in_place" else fail_in_bus)


@pytest.mark.parametrize("step", ["make_room", "restore_stream", "provision", "merge_keys", "put_in_place"])
async def test_restore_that_fails_in_a_step_is_undone_and_can_be_repeated(
    step: str,
    shell: Shell,
    bus: JetStreamBus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await _fill(bus, tmp_path)
    await create_key(bus, name="kept")
    (tmp_path / "books.sqlite").touch()
    copy = str(tmp_path / "copy")
    assert (await shell("backup", copy)).exit_code == 0
    _lose(tmp_path)
    async with _second_bus(tmp_path / "second", monkeypatch) as restored:
        with monkeypatch.context() as patch:
            _fail(patch, step)
            failed = await shell("restore", copy)
        assert (failed.exit_code, UNDONE in failed.output) == (1, step != "make_room"), failed.output
        assert not {info.config.name for info in await restored.js.streams_info()} & set(BACKED_UP)
        assert _databases(tmp_path) == set()

        result = await shell("restore", copy)
        assert result.exit_code == 0, result.output
        assert await restored.get(WAKER, "orders") is not None
        assert [record.name for _, record, _ in await read_keys(restored)] == ["kept"]
    assert _databases(tmp_path) == {"ledger.sqlite", "books.sqlite"}


async def test_restore_that_was_killed_is_completed_by_a_second_one(
    shell: Shell,
    bus: JetStreamBus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await _fill(bus, tmp_path)
    (tmp_path / "books.sqlite").touch()
    copy = str(tmp_path / "copy")
    assert (await shell("backup", copy)).exit_code == 0
    _lose(tmp_path)
    async with _second_bus(tmp_path / "second", monkeypatch) as restored:
        assert (await shell("restore", copy)).exit_code == 0
        (tmp_path / "books.sqlite").unlink()  # it was killed between the two databases
        result = await shell("restore", copy)
        assert result.exit_code == 0, result.output
        assert await restored.get(WAKER, "orders") is not None
        assert (tmp_path / "books.sqlite").exists()

        await restored.put(WAKER, "orders", b"newer")
        (tmp_path / "books.sqlite").unlink()
        rejected = await shell("restore", copy)
        assert (rejected.exit_code, "restore into an empty bus" in rejected.output) == (1, True)
        with sqlite3.connect(tmp_path / "ledger.sqlite") as ledger:
            ledger.execute("INSERT INTO events VALUES ('e2')")
        rejected = await shell("restore", copy)
        assert (rejected.exit_code, "move it away first" in rejected.output) == (1, True)


async def test_key_that_was_revoked_after_the_backup_stays_revoked(
    shell: Shell, bus: JetStreamBus, tmp_path: Path
) -> None:
    key_id, _ = await create_key(bus, name="leaked")
    _, _ = await create_key(bus, name="kept")
    assert (await shell("backup", str(tmp_path / "copy"))).exit_code == 0
    assert (await shell("keys", "revoke", key_id)).exit_code == 0
    kept = next(digest for digest, record, _ in await read_keys(bus) if record.name == "kept")
    await bus.delete(KEYS, kept)

    restored = await shell("restore", str(tmp_path / "copy"))
    assert restored.exit_code == 0, restored.output
    assert {record.name: record.revoked_at is not None for _, record, _ in await read_keys(bus)} == {
        "leaked": True,
        "kept": False,
    }


async def test_backup_needs_a_new_folder_and_restore_a_complete_one(shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "something").touch()
    result = await shell("backup", str(folder))
    assert (result.exit_code, "not empty" in result.output) == (1, True)
    result = await asyncio.wait_for(shell("restore", str(folder)), PATIENCE_SECONDS)
    assert (result.exit_code, "manifest.json is missing" in result.output) == (1, True)


async def test_imported_keys_keep_every_revocation(shell: Shell, bus: JetStreamBus, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    ids = {name: (await create_key(bus, name=name))[0] for name in ("kept", "early", "late")}
    before = await read_keys(bus)
    assert (await shell("keys", "revoke", ids["early"])).exit_code == 0
    assert "exported 3 keys" in (await shell("keys", "export", str(file))).output
    for digest, record, _ in before:  # an older bus comes back
        if record.name == "kept":
            await bus.delete(KEYS, digest)
        else:
            await bus.put(KEYS, digest, encode(record))
    assert (await shell("keys", "revoke", ids["late"])).exit_code == 0
    assert "changed 2 of 3 keys" in (await shell("keys", "import", str(file))).output
    revoked = {record.name: record.revoked_at is not None for _, record, _ in await read_keys(bus)}
    assert revoked == {"kept": False, "early": True, "late": True}
    assert "changed 0 of 3 keys" in (await shell("keys", "import", str(file))).output

    file.write_text('{"keys": [{"digest": "sk-secret"}]}')
    result = await shell("keys", "import", str(file))
    assert (result.exit_code, "keys.json" in result.output) == (1, True)
