"""`spotinference demo`: the whole job once, on real parts, each step with its time.

It uses the suite the way its users would: the official OpenAI SDK, the operator's commands, a provider's invoice.
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
from spotinference.demo.invoice import demo_invoice, facts_of
from spotinference.demo.journal_printer import Messages, following
from spotinference.demo.suite import WAIT_SECONDS, DemoFailed, Stage, Suite, expect, until, up
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


async def run(named: Path | None) -> int:
    """All steps; the exit status."""
    with _prepared(named) as folder:
        stage = Stage()
        try:
            stage.step("What the demo needs of this machine")
            await asyncio.to_thread(preflight.check, folder)
            stage.print("room on the disk, free ports, an engine that can be loaded")
            path = await asyncio.to_thread(model_file.model_file)
            stage.print(f"the model's weights: {path.name}, {path.stat().st_size / 1e6:.0f} MB, on this disk")
            stage.step("`spotinference up`: every service a process of its own, the machine asleep")
            async with up(folder, stage) as suite:
                await _serve(suite, stage)
        except (SpotinferenceError, openai.OpenAIError, aiohttp.ClientError) as error:
            reason = "\n".join(map(printable, str(error).split("\n")))
            click.secho(f"\nthe demo failed: {reason}\nlogs are in {folder / 'logs'}", fg="red", err=True)
            return 1
        click.secho(f"\nDone in {time.monotonic() - stage.begun:.1f} s; everything has stopped.", bold=True)
        return 0


@contextmanager
def _prepared(named: Path | None) -> Iterator[Path]:
    """The demo's own folder, emptied, for one demo at a time; one that was named has to be empty."""
    folder = DEFAULT_FOLDER if named is None else named
    with ExitStack() as until_end:
        if named is None:
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = until_end.enter_context(folder.with_name("demo.lock").open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise click.ClickException(
                    "a demo runs here: wait for its end, or name a folder with --data-dir"
                ) from None
            shutil.rmtree(folder, ignore_errors=True)
        elif folder.is_dir() and any(folder.iterdir()):
            raise click.BadParameter(f"{folder} is not empty: name a new folder", param_hint="--data-dir")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "spotinference.toml").write_text(CONFIG, "utf-8")
        yield folder.resolve()


async def _serve(suite: Suite, stage: Stage) -> None:
    machine = await suite.machine()
    stage.print(f"machine  {machine.machine} is {machine.state}")
    expect(machine.state == "asleep", "the machine was not asleep at the start")
    sent = requests.SentRequests()
    async with following(suite, stage) as messages:
        endpoint, engine = await _ask(suite, stage, messages, sent)
        await _count(suite, stage, engine, sent)
        await _sleep(stage, messages, endpoint)
    await _books(suite, stage, sent)


async def _ask(
    suite: Suite, stage: Stage, messages: Messages, sent: requests.SentRequests
) -> tuple[str, EngineCounters]:
    """Where the engine was, and its own count after all requests."""
    stage.step("A key, and the official OpenAI SDK: the first request wakes the machine")
    minted = await suite.json("keys", "create", "--name", "demo")
    stage.print(f"key {minted['id']} minted")
    async with openai.AsyncOpenAI(
        base_url=suite.base_url,
        api_key=minted["key"],
        max_retries=0,
        timeout=WAIT_SECONDS + 5,
        default_headers={"X-Wake-Timeout": f"{WAIT_SECONDS:.0f}"},
    ) as client:
        await _wake(client, suite, stage, messages, sent)
        stage.step("The same again, warm; then real work: a dozen questions about a handbook")
        await requests.show(client, stage, messages, "ready", sent)
        await requests.work(client, stage, sent)
    endpoint = await suite.endpoint()
    return endpoint, await _engine_counters(endpoint)


async def _wake(
    client: openai.AsyncOpenAI, suite: Suite, stage: Stage, messages: Messages, sent: requests.SentRequests
) -> None:
    """The first request; `DemoFailed` with the reason as soon as it is known that no machine will answer it."""
    asking = asyncio.create_task(requests.show(client, stage, messages, "asleep", sent))
    failing = asyncio.create_task(messages.wake_failed())
    try:
        await asyncio.wait((asking, failing), return_when=asyncio.FIRST_COMPLETED)
        if asking.done():
            await asking
            return
        raise DemoFailed("the machine does not wake")
    except (DemoFailed, openai.OpenAIError) as error:
        reason = f"{error}\nthe waker said last: {messages.last_reason()}"
        words = keeper_files.last_words(keeper_files.machine_folder(suite.folder, MACHINE))
        if words and words not in reason:
            reason += f"\nthe engine said last: {words}"
        raise DemoFailed(reason) from error
    finally:
        for task in (asking, failing):
            task.cancel()
        await asyncio.gather(asking, failing, return_exceptions=True)


async def _count(suite: Suite, stage: Stage, engine: EngineCounters, sent: requests.SentRequests) -> None:
    stage.step("Every token counted: the ledger against the engine's own counters")

    totals = await until(
        lambda: suite.usage_since(sent.since),
        lambda seen: seen["requests"] == sent.requests,
        "the ledger did not get every request",
    )
    probe = sum(entry.tokens for entry in await suite.run_with_bus(read_journal) if isinstance(entry, ProviderCall))
    prompt, completion = totals["prompt_tokens"], totals["completion_tokens"]
    stage.print(f"ledger   {totals['requests']} requests, {prompt} prompt + {completion} completion tokens")
    stage.print(
        f"engine   {engine.prompt_tokens} prompt + {engine.completion_tokens} completion tokens, "
        f"{probe} of them for the waker's probe that it answers"
    )
    expect(
        engine.prompt_tokens + engine.completion_tokens - probe == prompt + completion,
        "the ledger and the engine do not agree",
    )
    stage.print("equal")


async def _engine_counters(endpoint: str) -> EngineCounters:
    async def look() -> EngineCounters:
        async with aiohttp.ClientSession() as session, session.get(f"{endpoint}/metrics") as answer:
            return parse(decode_text(await answer.read()))

    return await until(look, lambda seen: seen.running == 0, "the engine did not come to rest")


async def _sleep(stage: Stage, messages: Messages, endpoint: str) -> None:
    stage.step("Idle for 8 s: drained, put to sleep")
    await messages.reached_sleep()
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{endpoint}/health"):
            raise DemoFailed("the engine still answers")
    except aiohttp.ClientConnectorError:
        stage.print("the engine's process is gone")


async def _books(suite: Suite, stage: Stage, sent: requests.SentRequests) -> None:
    stage.step("The provider's invoice, divided by the tokens")
    facts = facts_of(await suite.run_with_bus(read_journal), sent.transfers, time.time())
    invoice = demo_invoice(facts, instance=MACHINE, disk=DISK)
    file = suite.folder / "focus-1.2.csv"
    file.write_bytes(invoice.csv)
    stage.print(f"{file.name} as a provider delivers it: {invoice.total} USD in all")
    for line in (await suite.command("invoice", "import", str(file), "--source", SOURCE)).splitlines():
        stage.print(line)
    reports = [
        decode((await suite.command("report", "--day", day, "--json")).encode(), DayReport) for day in invoice.days
    ]
    console = Screen()
    for report in reports:
        click.echo()
        console.print(render_report(report, console.width))
    click.echo()
    _balance(stage, reports, invoice.total)
    page = suite.folder / f"report-{invoice.days[-1]}.html"
    await suite.command("report", "--day", invoice.days[-1], "--html", str(page))
    stage.step("Where to go on")
    stage.print(f"the report as a page: {page}")
    click.echo(
        "\n   .venv/bin/spotinference up                          # the suite, until Ctrl-C\n"
        "   .venv/bin/spotinference keys create --name me       # in another terminal\n\n"
        '   client = openai.OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="sk-…")\n'
        f'   client.chat.completions.create(model="{requests.MODEL}",\n'
        '                                  messages=[{"role": "user", "content": "Hello"}])'
    )


def _balance(stage: Stage, reports: list[DayReport], total: Decimal) -> None:
    """The causes, tax beside them, are the invoice."""
    parts = sum((sum(report.causes.values(), Decimal(0)) + report.tax for report in reports), Decimal(0))
    stage.print(f"the causes and the tax beside them  {parts.normalize():f} USD")
    stage.print(f"the invoice                         {total.normalize():f} USD")
    expect(parts == total, "the parts do not sum to the invoice")
    stage.print("equal")
