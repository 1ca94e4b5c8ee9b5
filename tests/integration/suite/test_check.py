"""`spotinference check`: each problem is reported with its place and its fix, and hides no other."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from spotinference.__main__ import main
from spotinference.check import accounts
from tests.integration.suite.conftest import Put
from tests.kit.hyperstack_cloud import KEY, HyperstackCloud, hyperstack_cloud
from tests.kit.moto_cloud import REGION, MotoCloud, moto_process

Serve = Callable[..., Awaitable[str]]
Check = Callable[[str], Awaitable[Result]]
LISTS = {"data": [{"id": "served"}]}


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """`await serve(status, json or text, vectors=…, key=…)`: an origin whose `/v1/models` answers so.

    A good engine makes text, or embeddings alone, and only for who has its key.
    """
    async with AsyncExitStack() as stack:

        async def started(status: int, body: Any, *, vectors: bool = False, key: str = "") -> str:
            async def answer(_: web.Request) -> web.Response:
                if isinstance(body, str):
                    return web.Response(status=status, text=body, content_type="text/html" if "<" in body else None)
                return web.json_response(body, status=status)

            async def work(request: web.Request) -> web.Response:
                if key and request.headers.get("authorization") != f"Bearer {key}":
                    return web.json_response({"error": "who are you"}, status=401)
                name = "data" if vectors else "choices"
                return web.json_response({name: [{}]} if body == LISTS or vectors else {}, status=200)

            app = web.Application()
            app.router.add_get("/v1/models", answer)
            app.router.add_post("/v1/embeddings" if vectors else "/v1/completions", work)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            return f"http://127.0.0.1:{runner.addresses[0][1]}"

        yield started


@pytest.fixture
def closed_origin() -> Iterator[str]:
    """An origin where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Runs the command on this configuration, with no credentials but those that the test gives."""
    for name in ("HOME", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "no such"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "HYPERSTACK_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    config = tmp_path / "spotinference.toml"

    async def run(text: str) -> Result:
        config.write_text("[gateway]\nport = 0\n" + text)
        words = ["check", "--config", str(config), "--data-dir", str(tmp_path)]
        async with asyncio.timeout(60.0):
            return await asyncio.to_thread(CliRunner().invoke, main, words)

    return run


def assert_wrong(result: Result, *expected: Sequence[str]) -> None:
    """Assert that exactly these problems are reported, in this order. Each line has all of its parts."""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("{")]  # logs
    assert len(lines) == len(expected), result.output
    for line, parts in zip(lines, expected, strict=True):
        assert line.startswith("wrong "), line
        assert [part for part in parts if part not in line] == [], line
    assert result.exit_code == (1 if expected else 0)


def tier(name: str, provider: str, machines: dict[str, str]) -> str:
    """A tier with a model of its own that its engines call `served`; of each machine its further lines."""
    parts = [f'[[tier]]\nname = "{name}"\nprovider = "{provider}"']
    parts += [f'[[machine]]\nid = "{machine}"\ntier = "{name}"\n{lines}' for machine, lines in machines.items()]
    parts.append(f'[[model]]\nname = "model-{name}"\nlineup = ["{name}"]\nserved_as = "served"\n')
    return "\n".join(parts)


def at(endpoint: str, instance: object = None) -> str:
    return f'endpoint = "{endpoint}"' + (f'\ninstance = "{instance}"' if instance else "")


async def test_check_reports_every_wrong_engine(check: Check, serve: Serve, closed_origin: str) -> None:
    machines = {
        "good": await serve(200, LISTS),
        "page": await serve(200, "<html>welcome</html>"),
        "text": await serve(200, "welcome"),
        "other": await serve(200, {"status": "fine"}),
        "stranger": await serve(200, {"data": [{"id": "llama"}]}),
        "locked": await serve(401, {"error": "who are you"}),
        "loading": await serve(503, {"error": "loading"}),
        "nobody": closed_origin,
        "terse": await serve(404, {"error": "not found"}),
    }
    result = await check(tier("lab", "static", {name: at(endpoint) for name, endpoint in machines.items()}))
    assert_wrong(
        result,
        ("machine page:", machines["page"], "no engine"),
        ("machine text:", "does not do what served is for", "/v1/completions: 200 {}"),
        ("machine other:", "does not do what served is for"),
        ("machine stranger:", "serves llama, not served", "served_as"),
        ("machine locked:", "does not do what served is for"),
        ("machine loading:", "503", "start its engine"),
        ("machine nobody:", closed_origin, "start its engine, or correct `endpoint`"),
        ("machine terse:", "does not do what served is for"),
    )
    assert f"ok    machine good: endpoint {machines['good']}: an engine answers for served\n" in result.stdout
    assert "note  tier lab: no price_per_hour and no [[billing.source]]" in result.stdout


async def test_embedding_engine_is_checked_with_its_key(check: Check, serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-engine\n")
    endpoint = await serve(404, {"detail": "nothing here"}, vectors=True, key="sk-engine")
    text = tier("lab", "static", {"m1": at(endpoint)})
    assert_wrong(await check(text), ("machine m1:", "401", "set the tier's `key_file`"))
    keyed = text.replace('provider = "static"', f'provider = "static"\nkey_file = "{tmp_path / "key"}"')
    result = await check(keyed)
    assert_wrong(result)
    assert f"ok    machine m1: endpoint {endpoint}: an engine answers for served\n" in result.stdout
    (tmp_path / "key").write_text("sk-engine\r\nX-Other: 1")
    assert_wrong(await check(keyed), ("tier 'lab': key_file", "printable ASCII"))


async def test_good_configuration_passes(check: Check, serve: Serve) -> None:
    local = 'command = ["python", "-c", "", "{port}"]'
    text = tier("lab", "static", {"m1": at(await serve(200, LISTS))}) + tier("local", "process", {"m2": local})
    result = await check(text)
    assert_wrong(result)
    assert "ok    machine m2: python is installed\n" in result.stdout
    assert "ok    machine m2: engine not checked: it is not running\n" in result.stdout


async def test_rented_tier_without_a_price_is_a_note_when_there_is_a_budget(check: Check, serve: Serve) -> None:
    text = tier("lab", "static", {"m1": at(await serve(200, LISTS))})
    budgeted = await check(text + '[billing]\ndaily_budget = "20.00"\n')
    assert_wrong(budgeted)
    assert "note  tier lab: no price_per_hour: while its machines are awake" in budgeted.stdout


async def test_local_engine_is_checked_when_it_runs(
    check: Check, serve: Serve, put: Put, options: tuple[str, ...]
) -> None:
    commands = dict.fromkeys(("m1", "m2", "m3"), 'command = ["no-such-program", "{port}"]')
    await put("m1", "ready", endpoint=await serve(200, {"data": [{"id": "llama"}]}))
    await put("m2", "waking", endpoint=await serve(503, {}), phase="loading")
    await put("m3", "asleep")
    result = await check(tier("local", "process", commands))
    missing = [(f"machine {name}:", "program 'no-such-program' is not on the PATH") for name in commands]
    assert_wrong(result, *missing, ("machine m1:", "serves llama, not served"))
    assert "ok    machine m2: engine not checked: it is being woken\n" in result.stdout
    assert "ok    machine m3: engine not checked: it is not running\n" in result.stdout


@pytest.fixture
async def hyperstack(monkeypatch: pytest.MonkeyPatch, check: Check) -> AsyncIterator[HyperstackCloud]:
    async with hyperstack_cloud() as cloud:
        monkeypatch.setenv("HYPERSTACK_API_KEY", KEY)
        yield cloud


def account(cloud: HyperstackCloud, machines: dict[str, str], waker: str = "") -> str:
    text = tier("h100", "hyperstack", machines)
    return f'[waker]\n{waker}\n[provider.hyperstack]\nbase_url = "{cloud.base_url}"\n{text}'


async def test_machines_are_compared_with_the_provider_s_report(
    check: Check, serve: Serve, closed_origin: str, hyperstack: HyperstackCloud
) -> None:
    asleep, awake, silent = (hyperstack.add(status) for status in ("HIBERNATED", "ACTIVE", "ACTIVE"))
    billed, failed = hyperstack.add("SHUTOFF"), hyperstack.add("ERROR")
    stray = hyperstack.add("HIBERNATED", labels=["spotinference-fleet=prod"])
    machines = {
        "asleep": at(closed_origin, asleep.id),
        "awake": at(await serve(200, LISTS), awake.id),
        "silent": at(closed_origin, silent.id),
        "unknown": at(closed_origin, 999_999),
        "billed": at(closed_origin, billed.id),
        "failed": at(closed_origin, failed.id),
    }
    result = await check(account(hyperstack, machines, 'fleet = "prod"'))
    assert_wrong(
        result,
        ("machine unknown:", "999999 is not known to hyperstack", "correct `instance`"),
        ("machine failed:", "ERROR", "repair it at the provider"),
        ("machine silent:", closed_origin, "hyperstack reports that the machine is ACTIVE", "can this host connect"),
    )
    assert "machine asleep: engine not checked: hyperstack reports that the machine is HIBERNATED\n" in result.stdout
    assert "note  machine billed:" in result.stdout
    assert f"note  provider hyperstack: hyperstack:{stray.id} (HIBERNATED) has the fleet's tag" in result.stdout
    assert hyperstack.changes == 0, "it changes nothing"


async def test_clock_skew_is_reported(check: Check, closed_origin: str, hyperstack: HyperstackCloud) -> None:
    machines = {"m1": at(closed_origin, hyperstack.add("HIBERNATED").id)}
    hyperstack.skew = 50.0
    assert_wrong(await check(account(hyperstack, machines)))
    hyperstack.skew = 95.0
    assert_wrong(await check(account(hyperstack, machines)), ("provider hyperstack:", "clock", "9"))


async def test_bad_api_key_is_reported(
    check: Check, closed_origin: str, hyperstack: HyperstackCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = account(hyperstack, {"m1": at(closed_origin, hyperstack.add("HIBERNATED").id)})
    hyperstack.allowed = False
    denied = await check(text)
    assert_wrong(denied, ("provider hyperstack:",))
    assert KEY not in denied.output
    monkeypatch.setenv("HYPERSTACK_API_KEY", "another")
    assert_wrong(await check(text), ("provider hyperstack:", "HYPERSTACK_API_KEY"))
    monkeypatch.delenv("HYPERSTACK_API_KEY")
    assert_wrong(await check(text), ("provider hyperstack: HYPERSTACK_API_KEY: not set", "HYPERSTACK_API_KEY_FILE"))


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoCloud]:
    with moto_process() as cloud:
        yield cloud


@pytest.fixture
def ec2(moto: MotoCloud, check: Check, monkeypatch: pytest.MonkeyPatch) -> MotoCloud:
    moto.reset()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    return moto


def region(cloud: MotoCloud, machines: dict[str, str]) -> str:
    return f'[provider.ec2]\nregion = "{REGION}"\nendpoint_url = "{cloud.endpoint_url}"\n' + tier("p5", "ec2", machines)


async def test_missing_permission_is_named_beside_unknown_machines(
    check: Check, closed_origin: str, ec2: MotoCloud
) -> None:
    machines = {
        "m1": at(closed_origin, ec2.add_machine()),
        "m2": at(closed_origin, "i-0123456789abcdef0"),
        "m3": at(closed_origin, "i-typo"),
    }
    unknown = [(f"machine {m}:", "is not known to ec2", "correct `instance`") for m in ("m2", "m3")]
    assert_wrong(await check(region(ec2, machines)), *unknown)
    ec2.fail("StopInstances", code="UnauthorizedOperation", status=403)
    assert_wrong(await check(region(ec2, machines)), ("provider ec2:", "ec2:StopInstances"), *unknown)
    assert ec2.calls().get("StartInstances", 0) <= 2, "dry runs, one for each check"


async def test_a_problem_with_one_account_hides_no_other(
    check: Check, closed_origin: str, ec2: MotoCloud, hyperstack: HyperstackCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    text = account(hyperstack, {"h1": at(closed_origin, 999_999)}) + region(
        ec2, {"e1": at(closed_origin, ec2.add_machine())}
    )
    text += tier("lab", "static", {"s1": at(closed_origin)})
    result = await check(text)
    assert_wrong(
        result,
        ("provider ec2:", "credentials"),
        ("machine h1:", "is not known to hyperstack"),
        ("machine s1:", closed_origin),
    )
    assert "note  machine e1:" in result.stdout
    hyperstack.outage = True
    assert "provider hyperstack: " in (await check(text)).stderr


async def test_missing_library_is_named(
    check: Check, closed_origin: str, hyperstack: HyperstackCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> Any:
        raise ModuleNotFoundError("No module named 'boto3'", name="boto3")

    monkeypatch.setattr(accounts, "build_providers", missing)
    text = account(hyperstack, {"m1": at(closed_origin, 1)})
    assert_wrong(
        await check(text),
        ("provider hyperstack: boto3 is not installed on this host", "pip install spotinference[waker]"),
    )


async def test_unreachable_bus_and_database_are_reported(
    check: Check, closed_origin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = closed_origin.rpartition(":")[2]
    text = f'[bus]\nurl = "nats://127.0.0.1:{port}"\n[database]\nurl = "postgresql://127.0.0.1:{port}/x"\n'
    assert_wrong(
        await check(text + tier("lab", "static", {"s1": at(closed_origin)})),
        ("bus:",),
        ("database.url:",),
        ("machine s1:",),
    )
