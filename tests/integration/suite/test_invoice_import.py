"""`spotinference invoice import` while billing dies, is restarted, is busy or loses the request: it never hangs."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from click.testing import Result

from shared.bus import subjects
from shared.bus.jetstream import JetStreamBus
from shared.bus.memory import MemoryBus
from shared.errors import BusUnavailable
from shared.messages.codec import decode, encode
from shared.messages.invoices import ImportAnswer, ImportRequest, ImportStatus, ImportStatusQuery, RunningImport
from spotinference.invoice import importer
from tests.integration.suite.conftest import Shell
from tests.kit.service import running
from tests.kit.waiting import until
from tests.unit.billing.cost_row_builders import focus_csv

REQUEST = ImportRequest(source="cloud", files=(), id="mine")


def bill(tmp_path: Path, rows: int) -> Path:
    """A file that takes billing more than a moment."""
    file = tmp_path / "may.csv"
    file.write_bytes(focus_csv(*[{"BilledCost": "0.01"}] * rows))
    return file


async def importing_now(bus: JetStreamBus) -> str:
    """The id of the import under way, empty without one."""
    try:
        answer = await bus.request(subjects.BILLING_IMPORT_STATUS, encode(ImportStatusQuery()), timeout=5)
    except BusUnavailable:
        return ""
    status = decode(answer, ImportStatus)
    return status.running.id if status.running else ""


async def test_import_is_requested_again_when_billing_was_killed_and_restarted(
    bus: JetStreamBus, shell: Shell, tmp_path: Path
) -> None:
    file = bill(tmp_path, 20_000)
    async with running("billing", tmp_path / "spotinference.toml", tmp_path) as process:
        command = asyncio.create_task(shell("invoice", "import", str(file), "--source", "cloud"))
        await until(lambda: importing_now(bus), bool)
        await process.kill9()
        await process.start()
        result = await command
    assert result.exit_code == 0, result.output
    assert "20000 rows  200 USD" in result.stdout
    assert f"{file}: billing was restarted during the import: requesting it again\n" in result.stderr


async def test_import_fails_when_billing_stays_away(
    bus: JetStreamBus, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "SILENCE_SECONDS", 0.5)
    file = bill(tmp_path, 20_000)
    async with running("billing", tmp_path / "spotinference.toml", tmp_path) as process:
        command = asyncio.create_task(shell("invoice", "import", str(file), "--source", "cloud"))
        await until(lambda: importing_now(bus), bool)
        await process.kill9()
        result: Result = await command
    assert result.exit_code == 1, result.output
    assert "spotinference: billing has not answered for " in result.stderr
    assert "`spotinference invoice list` shows what counts" in result.stderr


async def test_import_prints_one_line_when_interrupted(bus: JetStreamBus, options: tuple[str, ...]) -> None:
    """Billing here never finishes the import."""
    requested = asyncio.Event()

    async def answer(_: bytes) -> bytes:
        requested.set()
        await asyncio.Event().wait()
        return b""

    await bus.respond("billing", subjects.BILLING_IMPORT, answer)
    await bus.respond("billing", subjects.BILLING_IMPORT_STATUS, FakeBilling().status)
    words = ("invoice", "import", "--source", "cloud", str(bill(Path(options[-1]), 1)), *options)
    command = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "spotinference", *words, stderr=asyncio.subprocess.PIPE
    )
    await requested.wait()
    command.send_signal(signal.SIGINT)
    _, error = await command.communicate()
    assert command.returncode == 1
    assert "spotinference: interrupted: billing may still finish the import" in error.decode()
    assert "Traceback" not in error.decode()


class FakeBilling:
    """Replies with `statuses` in turn, the last one forever."""

    def __init__(self, *statuses: ImportStatus) -> None:
        self.statuses = list(statuses or (status("a", "mine"),))
        self.requests = 0

    async def status(self, _: bytes) -> bytes:
        return encode(self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0])

    async def take(self, _: bytes) -> bytes:
        """The first request is lost, the second answered."""
        self.requests += 1
        if self.requests == 1:
            await asyncio.Event().wait()
        return encode(ImportAnswer(sha256="0"))


def status(instance: str, running_id: str | None) -> ImportStatus:
    one = running_id and RunningImport(id=running_id, source="aws", step="reading", rows=1200, share=0.43, seconds=12.4)
    return ImportStatus(instance=instance, running=one or None)


@pytest.mark.parametrize(
    ("statuses", "message"),
    [
        ([status("a", "mine"), status("b", None)], "billing was restarted during the import: requesting it again"),
        ([status("a", None)], "billing was restarted during the import: requesting it again"),
        (
            [status("a", "x"), status("a", "x"), status("b", None)],
            "waiting for another import, of source aws: reading 1,200 rows, 43%, 12 s",
        ),
        ([status("a", "mine"), status("a", "mine"), status("b", None)], "reading 1,200 rows, 43%, 12 s"),
    ],
)
async def test_import_is_requested_once_more_when_lost(
    statuses: list[ImportStatus], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "POLL_SECONDS", 0.001)
    progress: list[str] = []
    assert await import_from(FakeBilling(*statuses), progress.append) == ImportAnswer(sha256="0")
    assert message in progress


async def test_import_fails_when_lost_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer, "POLL_SECONDS", 0.001)

    class Forgetful(FakeBilling):
        async def take(self, _: bytes) -> bytes:
            self.requests += 1
            await asyncio.Event().wait()
            return b""

    billing = Forgetful(status("a", None))
    with pytest.raises(BusUnavailable, match="billing lost the import 2 times"):
        await import_from(billing, lambda _: None)
    assert billing.requests == 2


def import_from(billing: FakeBilling, on_progress: Callable[[str], None]) -> Awaitable[ImportAnswer]:
    async def run() -> ImportAnswer:
        bus = MemoryBus()
        await bus.respond("billing", subjects.BILLING_IMPORT, billing.take)
        await bus.respond("billing", subjects.BILLING_IMPORT_STATUS, billing.status)
        return await importer.import_delivery(bus, REQUEST, on_progress)

    return run()
