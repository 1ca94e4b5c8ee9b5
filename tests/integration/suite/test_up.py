"""`spotinference up`: starts, serves, drains, and leaves nothing behind, however it ends."""

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from click.testing import CliRunner

from spotinference.__main__ import main
from tests.integration.suite.config import config
from tests.kit.engine import engine_command
from tests.kit.scripted_engine import NAME, ScriptedEngine
from tests.kit.up import UpProcess, processes_of, up
from tests.kit.waiting import until

ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}


async def key_of(suite: UpProcess, *options: str) -> str:
    return await suite.key(*options)


def nothing_left(folder: Path) -> Callable[[], Any]:
    async def read() -> list[int]:
        return processes_of(folder)

    return read


async def test_it_serves_alone_in_its_folder_and_ctrl_c_ends_all_of_it(tmp_path: Path, tiny_model: Path) -> None:
    """Most tests of this folder end theirs by SIGTERM."""
    async with up(tmp_path, config(engine_command(tiny_model))) as suite:
        assert set(suite.services) == {"bus", "site", "gateway", "waker", "meter", "billing"}
        async with openai.AsyncOpenAI(base_url=suite.base_url, api_key=await key_of(suite), max_retries=0) as sdk:
            answer = await sdk.chat.completions.create(**ASK)
        assert answer.usage is not None
        (machine,) = (await suite.json("fleet"))["machines"]
        assert (machine["id"], machine["state"], machine["in_flight"]) == ("local-1", "ready", 0)

        second = await suite.command("up")
        assert second.status == 1
        assert "services are already running with data directory" in second.err
        assert "--data-dir" in second.err

        assert await suite.stop(signal.SIGINT) == 0
        assert processes_of(tmp_path) == []


async def test_killed_itself_it_takes_services_and_engines_along(tmp_path: Path, tiny_model: Path) -> None:
    async with up(tmp_path, config(engine_command(tiny_model))) as suite:
        async with openai.AsyncOpenAI(base_url=suite.base_url, api_key=await key_of(suite), max_retries=0) as sdk:
            await sdk.chat.completions.create(**ASK)
        assert len(processes_of(tmp_path)) >= 7  # itself, the bus, four services, a keeper
        assert suite.process is not None
        suite.process.kill()
        await until(nothing_left(tmp_path), lambda left: left == [])


async def test_the_second_signal_stops_at_once(tmp_path: Path, tiny_model: Path) -> None:
    settings = config(["python", "-c", "import time; time.sleep(999)", "{port}"], gateway='hold_cap = "5m"')
    async with up(tmp_path, settings.replace('drain_grace = "5s"', 'drain_grace = "29s"')) as suite:
        assert suite.process is not None
        os.kill(suite.services["gateway"]["pid"], signal.SIGSTOP)  # it will not drain by itself
        suite.process.send_signal(signal.SIGINT)
        await until(lambda: _errors(suite), lambda text: "draining" in text)
        assert await suite.stop(signal.SIGINT) == 0
        await until(nothing_left(tmp_path), lambda left: left == [])


async def _errors(suite: UpProcess) -> str:
    return suite.errors


async def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    suite = UpProcess(tmp_path, "")
    (tmp_path / "data").write_text("a file")
    for command in ("up", "provision"):
        output = await suite.command(command)
        assert output.status != 0
        assert str(tmp_path / "data") in output.err
        assert "Traceback" not in output.err


async def test_a_taken_port_is_named_and_nothing_stays(tmp_path: Path, tiny_model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        suite = UpProcess(tmp_path, config(engine_command(tiny_model)).replace("port = 0", f"port = {port}"))
        output = await suite.command("up")
        checked = await suite.command("check")
    assert output.status == 1
    assert f"gateway.port: cannot listen on 127.0.0.1:{port}" in output.err
    assert checked.status == 1
    assert f"gateway.port: cannot listen on 127.0.0.1:{port}" in checked.err
    await until(nothing_left(tmp_path), lambda left: left == [])


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("[gateway\n", "not TOML"),
        ("[gatway]\n", "gatway"),
        ('[gateway]\nport = "x"\n', "gateway.port: expected int, got str"),
        ('[waker]\nidle_timeout = "soon"\n', "waker.idle_timeout must be a duration, e.g."),
        ('[[model]]\nname = "m"\nlineup = ["t"]\n', 'model "m": lineup: no [[tier]] is named "t"'),
    ],
)
def test_a_wrong_configuration_is_refused_by_every_command(tmp_path: Path, text: str, reply: str) -> None:
    suite = UpProcess(tmp_path, text)
    for word in ("up", "check", "fleet"):
        # In this process: its start would be most of a command's work.
        refused = CliRunner().invoke(main, [word, *suite._options])
        assert refused.exit_code == 1
        assert reply in refused.stderr
        assert "spotinference.toml" in refused.stderr
    assert not (tmp_path / "data" / "bus").exists()


async def test_an_engine_of_one_s_own_by_its_url(tmp_path: Path, scripted_engine: ScriptedEngine) -> None:
    settings = f"""
[gateway]
port = 0
[[tier]]
name = "mine"
provider = "static"
[[machine]]
id = "mine-1"
tier = "mine"
endpoint = "{scripted_engine.base_url}"
[[model]]
name = "org/name with spaces"
served_as = "{NAME}"
lineup = ["mine"]
"""
    async with up(tmp_path, settings) as suite:
        key = await key_of(suite, "--models", "org/name with spaces")
        async with openai.AsyncOpenAI(base_url=suite.base_url, api_key=key, max_retries=0) as sdk:
            answer = await sdk.chat.completions.create(**ASK | {"model": "org/name with spaces"})
            assert answer.choices[0].message.content
            (key_row,) = (await suite.json("keys", "list"))["keys"]
            assert (await suite.command("keys", "revoke", key_row["id"])).status == 0

            async def models() -> object:
                return await sdk.models.list()

            with pytest.raises(openai.AuthenticationError):
                await until(models, lambda _: False)
        assert (await suite.command("check")).status == 0
        assert await suite.stop() == 0
