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
from tests.unit.billing.kit import focus_csv

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


async def test_an_import_is_asked_again_of_a_billing_that_was_killed_and_restarted(
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
    assert f"{file}: billing was restarted in the middle of it: asking again\n" in result.stderr


async def test_a_billing_that_stays_away_ends_the_command_with_one(
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


async def test_an_interrupted_command_ends_with_one_line(bus: JetStreamBus, options: tuple[str, ...]) -> None:
    """Billing here has the import for ever."""
    asked = asyncio.Event()

    async def answer(_: bytes) -> bytes:
        asked.set()
        await asyncio.Event().wait()
        return b""

    await bus.respond("billing", subjects.BILLING_IMPORT, answer)
    await bus.respond("billing", subjects.BILLING_IMPORT_STATUS, Billing().status)
    words = ("invoice", "import", "--source", "cloud", str(bill(Path(options[-1]), 1)), *options)
    command = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "spotinference", *words, stderr=asyncio.subprocess.PIPE
    )
    await asked.wait()
    command.send_signal(signal.SIGINT)
    _, error = await command.communicate()
    assert command.returncode == 1
    assert "spotinference: interrupted: billing may finish an import that it has begun" in error.decode()
    assert "Traceback" not in error.decode()


class Billing:
    """Says what it is told to; `statuses` are answered one after the other, the last one for ever."""

    def __init__(self, *statuses: ImportStatus) -> None:
        self.statuses = list(statuses or (status("a", "mine"),))
        self.asked = 0

    async def status(self, _: bytes) -> bytes:
        return encode(self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0])

    async def take(self, _: bytes) -> bytes:
        """The first request is lost, the second answered."""
        self.asked += 1
        if self.asked == 1:
            await asyncio.Event().wait()
        return encode(ImportAnswer(sha256="0"))


def status(instance: str, running_id: str | None) -> ImportStatus:
    one = running_id and RunningImport(id=running_id, source="aws", step="reading", rows=1200, share=0.43, seconds=12.4)
    return ImportStatus(instance=instance, running=one or None)


@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        ([status("a", "mine"), status("b", None)], "billing was restarted in the middle of it: asking again"),
        ([status("a", None)], "billing was restarted in the middle of it: asking again"),
        (
            [status("a", "x"), status("a", "x"), status("b", None)],
            "waiting behind another import, of source aws: reading 1,200 rows, 43%, 12 s",
        ),
        ([status("a", "mine"), status("a", "mine"), status("b", None)], "reading 1,200 rows, 43%, 12 s"),
    ],
)
async def test_a_lost_import_is_asked_for_once_more(
    statuses: list[ImportStatus], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "LOOK_SECONDS", 0.001)
    heard: list[str] = []
    assert await imported(Billing(*statuses), heard.append) == ImportAnswer(sha256="0")
    assert told in heard


async def test_an_import_that_is_lost_twice_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer, "LOOK_SECONDS", 0.001)

    class Forgetful(Billing):
        async def take(self, _: bytes) -> bytes:
            self.asked += 1
            await asyncio.Event().wait()
            return b""

    billing = Forgetful(status("a", None))
    with pytest.raises(BusUnavailable, match="billing lost the import 2 times"):
        await imported(billing, lambda _: None)
    assert billing.asked == 2


def imported(billing: Billing, tell: Callable[[str], None]) -> Awaitable[ImportAnswer]:
    async def run() -> ImportAnswer:
        bus = MemoryBus()
        await bus.respond("billing", subjects.BILLING_IMPORT, billing.take)
        await bus.respond("billing", subjects.BILLING_IMPORT_STATUS, billing.status)
        return await importer.import_delivery(bus, REQUEST, tell)

    return run()
