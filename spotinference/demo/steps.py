"""The steps of the demo: the whole system once, with real components, each step with its time.

The demo uses the services as their users do: the official OpenAI SDK, the operator's commands, a provider's invoice.
"""

import asyncio
import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path

import aiohttp
import click
import openai

from services.meter.core.engine_counters import EngineCounters, parse
from services.waker.adapters import keeper_files
from shared.errors import SpotinferenceError
from shared.messages.billing import DayReport
from shared.messages.codec import decode, decode_text
from shared.messages.waker import ProviderCall
from shared.printable import printable
from spotinference.demo import preflight, requests
from spotinference.demo.invoice import build_invoice, facts_from_journal
from spotinference.demo.journal_printer import JournalPrinter, follow
from spotinference.demo.suite import WAIT_SECONDS, DemoFailed, StepPrinter, Suite, require, running_suite, wait_until
from spotinference.engine import model_file
from spotinference.journal.follower import read_journal
from spotinference.report.view import render_report
from spotinference.terminal import Screen

DEFAULT_FOLDER = Path(".spotinference/demo")
MACHINE = "local-1"
DISK = "disk-1"
SOURCE = "demo-cloud"

CONFIG = f"""\
# Written by `spotinference demo`.
[gateway]
port = 0

[site]
port = 0

[[tier]]
name = "local"
provider = "process"
idle_timeout = "8s"
max_concurrency = 4

[[machine]]
id = "{MACHINE}"
tier = "local"
instance = "{MACHINE}"
resources = ["{DISK}"]
command = ["python", "-m", "spotinference.engine", "--port", "{{port}}"]

[[model]]
name = "{requests.MODEL}"
lineup = ["local"]
"""


async def run(data_dir: Path | None) -> int:
    """Run all steps and return the exit status."""
    with _demo_folder(data_dir) as folder:
        printer = StepPrinter()
        try:
            printer.step("Check what the demo needs on this host")
            await asyncio.to_thread(preflight.check, folder)
            printer.print("disk space, free ports and the engine are fine")
            path = await asyncio.to_thread(model_file.model_file)
            printer.print(f"the model's weights are on disk: {path.name}, {path.stat().st_size / 1e6:.0f} MB")
            printer.step("Start `spotinference up`: each service in a process of its own, the machine asleep")
            async with running_suite(folder, printer) as suite:
                await _serve(suite, printer)
        except (SpotinferenceError, openai.OpenAIError, aiohttp.ClientError) as error:
            reason = "\n".join(map(printable, str(error).split("\n")))
            click.secho(f"\nthe demo failed: {reason}\nlogs are in {folder / 'logs'}", fg="red", err=True)
            return 1
        click.secho(f"\nDone in {time.monotonic() - printer.began_at:.1f} s. Everything has stopped.", bold=True)
        return 0


@contextmanager
def _demo_folder(data_dir: Path | None) -> Iterator[Path]:
    """Yield the demo's folder, emptied, for one demo at a time. A folder named by the user must be empty."""
    folder = DEFAULT_FOLDER if data_dir is None else data_dir
    with ExitStack() as stack:
        if data_dir is None:
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(folder.with_name("demo.lock").open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise click.ClickException(
                    "a demo is running here: wait until it ends, or choose a folder with --data-dir"
                ) from None
            shutil.rmtree(folder, ignore_errors=True)
        elif folder.is_dir() and any(folder.iterdir()):
            raise click.BadParameter(f"{folder} is not empty: choose a new folder", param_hint="--data-dir")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "spotinference.toml").write_text(CONFIG, "utf-8")
        yield folder.resolve()


async def _serve(suite: Suite, printer: StepPrinter) -> None:
    machine = await suite.machine()
    printer.print(f"machine  {machine.machine} is {machine.state}")
    require(machine.state == "asleep", "the machine was not asleep at the start")
    sent = requests.SentRequests()
    async with follow(suite, printer) as journal:
        endpoint, engine = await _send_requests(suite, printer, journal, sent)
        await _count(suite, printer, engine, sent)
        await _sleep(printer, journal, endpoint)
    await _books(suite, printer, sent)


async def _send_requests(
    suite: Suite, printer: StepPrinter, journal: JournalPrinter, sent: requests.SentRequests
) -> tuple[str, EngineCounters]:
    """Send the requests. Return the engine's endpoint, and its own token counts after all requests."""
    printer.step("Create a key; the first request, with the official OpenAI SDK, wakes the machine")
    key = await suite.run_json("keys", "create", "--name", "demo")
    printer.print(f"created key {key['id']}")
    async with openai.AsyncOpenAI(
        base_url=suite.base_url,
        api_key=key["key"],
        max_retries=0,
        timeout=WAIT_SECONDS + 5,
        default_headers={"X-Wake-Timeout": f"{WAIT_SECONDS:.0f}"},
    ) as client:
        await _wake(client, suite, printer, journal, sent)
        printer.step("Send the same request to the ready machine, then a dozen questions about a handbook")
        await requests.print_stream(client, printer, journal, "ready", sent)
        await requests.answer_questions(client, printer, sent)
    endpoint = await suite.endpoint()
    return endpoint, await _engine_counters(endpoint)


async def _wake(
    client: openai.AsyncOpenAI, suite: Suite, printer: StepPrinter, journal: JournalPrinter, sent: requests.SentRequests
) -> None:
    """Send the first request.

    Raises:
        DemoFailed: no machine will answer it; raised as soon as that is known, with the reason.
    """
    asking = asyncio.create_task(requests.print_stream(client, printer, journal, "asleep", sent))
    failing = asyncio.create_task(journal.wait_until_wake_fails())
    try:
        await asyncio.wait((asking, failing), return_when=asyncio.FIRST_COMPLETED)
        if asking.done():
            await asking
            return
        raise DemoFailed("the machine did not wake")
    except (DemoFailed, openai.OpenAIError) as error:
        reason = f"{error}\nthe waker's last message: {journal.last_reason()}"
        words = keeper_files.last_words(keeper_files.machine_folder(suite.folder, MACHINE))
        if words and words not in reason:
            reason += f"\nthe engine's last message: {words}"
        raise DemoFailed(reason) from error
    finally:
        for task in (asking, failing):
            task.cancel()
        await asyncio.gather(asking, failing, return_exceptions=True)


async def _count(suite: Suite, printer: StepPrinter, engine: EngineCounters, sent: requests.SentRequests) -> None:
    printer.step("Compare the ledger's token counts with the engine's own counters")

    totals = await wait_until(
        lambda: suite.usage_since(sent.since),
        lambda totals: totals["requests"] == sent.requests,
        "the ledger did not receive every request",
    )
    probe = sum(entry.tokens for entry in await suite.run_with_bus(read_journal) if isinstance(entry, ProviderCall))
    prompt, completion = totals["prompt_tokens"], totals["completion_tokens"]
    printer.print(f"ledger   {totals['requests']} requests, {prompt} prompt + {completion} completion tokens")
    printer.print(
        f"engine   {engine.prompt_tokens} prompt + {engine.completion_tokens} completion tokens, "
        f"{probe} of them for the waker's readiness probe"
    )
    require(
        engine.prompt_tokens + engine.completion_tokens - probe == prompt + completion,
        "the ledger and the engine do not agree",
    )
    printer.print("equal")


async def _engine_counters(endpoint: str) -> EngineCounters:
    async def read() -> EngineCounters:
        async with aiohttp.ClientSession() as session, session.get(f"{endpoint}/metrics") as answer:
            return parse(decode_text(await answer.read()))

    return await wait_until(read, lambda counters: counters.running == 0, "the engine did not finish its requests")


async def _sleep(printer: StepPrinter, journal: JournalPrinter, endpoint: str) -> None:
    printer.step("After 8 idle seconds, the machine is drained and put to sleep")
    await journal.wait_until_asleep()
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{endpoint}/health"):
            raise DemoFailed("the engine still answers")
    except aiohttp.ClientConnectorError:
        printer.print("the engine's process is gone")


async def _books(suite: Suite, printer: StepPrinter, sent: requests.SentRequests) -> None:
    printer.step("Import the provider's invoice and divide it by the tokens")
    facts = facts_from_journal(await suite.run_with_bus(read_journal), sent.transfers, time.time())
    invoice = build_invoice(facts, instance=MACHINE, disk=DISK)
    file = suite.folder / "focus-1.2.csv"
    file.write_bytes(invoice.csv)
    printer.print(f"{file.name}, as a provider delivers it: {invoice.total} USD in total")
    for line in (await suite.run_command("invoice", "import", str(file), "--source", SOURCE)).splitlines():
        printer.print(line)
    reports = [
        decode((await suite.run_command("report", "--day", day, "--json")).encode(), DayReport) for day in invoice.days
    ]
    console = Screen()
    for report in reports:
        click.echo()
        console.print(render_report(report, console.width))
    click.echo()
    _balance(printer, reports, invoice.total)
    page = suite.folder / f"report-{invoice.days[-1]}.html"
    await suite.run_command("report", "--day", invoice.days[-1], "--html", str(page))
    printer.step("Next steps")
    printer.print(f"the report as an HTML page: {page}")
    click.echo(
        "\n   Everything has stopped. `up` serves the site at http://127.0.0.1:8081:\n"
        "   /status      what each machine does now, and when one that wakes will be ready\n"
        "   /economics   what a million tokens cost, day by day, down to the invoice's charges\n"
        "   /reliability how long wakes took, and how requests were answered\n"
        "   /learn       how it all works; /api with examples in curl, Python and Node\n"
    )
    click.echo(
        "\n   .venv/bin/spotinference up                          # run all services until Ctrl-C\n"
        "   .venv/bin/spotinference keys create --name me       # in another terminal\n\n"
        '   client = openai.OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="sk-…")\n'
        f'   client.chat.completions.create(model="{requests.MODEL}",\n'
        '                                  messages=[{"role": "user", "content": "Hello"}])'
    )


def _balance(printer: StepPrinter, reports: list[DayReport], total: Decimal) -> None:
    """Verify that the causes and the tax sum to the invoice."""
    parts = sum((sum(report.causes.values(), Decimal(0)) + report.tax for report in reports), Decimal(0))
    printer.print(f"the causes and the tax  {parts.normalize():f} USD")
    printer.print(f"the invoice             {total.normalize():f} USD")
    require(parts == total, "the causes and the tax do not sum to the invoice")
    printer.print("equal")
