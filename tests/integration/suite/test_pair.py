"""Two models on one pair of GPUs: a request for the one puts the other to sleep, and back, without a second load."""

import json
import sys
from itertools import groupby
from pathlib import Path

import openai

from services.waker.adapters import keeper_files
from tests.kit.up import UpProcess, alive, up
from tests.kit.waiting import PATIENCE_SECONDS

ENGINE = Path(__file__).parents[1] / "waker" / "faulty_engine.py"
HEAD = """
[gateway]
port = 0
drain_grace = "5s"
[waker]
idle_timeout = "1h"
gateway_timeout = "4s"
probe_interval = "50ms"
"""
PART = """
[[tier]]
name = "{name}"
provider = "process"
[[machine]]
id = "{name}"
tier = "{name}"
pair = "gpus"
sleep_level = 1
command = {command}
[[model]]
name = "{name}"
lineup = ["{name}"]
"""


def config(folder: Path, *models: str) -> str:
    command = [sys.executable, str(ENGINE), "--port", "{port}", "--gpus", str(folder / "gpus")]
    return HEAD + "".join(PART.format(name=name, command=json.dumps(command)) for name in models)


def engine(suite: UpProcess, machine: str) -> int:
    state = keeper_files.read_state(keeper_files.machine_folder(suite.folder / "data", machine))
    assert state is not None
    assert state.engine is not None
    return state.engine


def at_gpus(folder: Path) -> list[list[str]]:
    """Who took their memory and gave it, in turn."""
    lines = [line.split() for line in (folder / "gpus").read_text().splitlines()]
    return [[word for _, word in turn] for _, turn in groupby(lines, key=lambda line: line[0])]


async def states(suite: UpProcess) -> dict[str, tuple[str, int]]:
    return {name: (record.state, record.generation) for name, record in (await suite.machines()).items()}


async def test_two_models_take_turns_on_one_pair_and_wake_warm(tmp_path: Path) -> None:
    async with up(tmp_path, config(tmp_path, "a", "b")) as suite:
        key = await suite.key()
        async with openai.AsyncOpenAI(
            base_url=suite.base_url, api_key=key, max_retries=0, timeout=PATIENCE_SECONDS
        ) as sdk:

            async def ask(model: str) -> None:
                answer = await sdk.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}])
                assert answer.choices

            await ask("a")
            first = engine(suite, "a")
            await ask("b")
            assert alive(first)
            assert await states(suite) == {"a": ("asleep", 1), "b": ("ready", 1)}
            await ask("a")
            assert await states(suite) == {"a": ("ready", 1), "b": ("asleep", 1)}
            assert engine(suite, "a") == first
            await ask("b")
        assert at_gpus(tmp_path) == [["takes", "gives"]] * 3 + [["takes"]]
        reply = await suite.journal()
        reasons = [entry["reason"] for entry in reply if entry.get("to") == "draining"]
        assert reasons == ["its pair is needed for b", "its pair is needed for a", "its pair is needed for b"]
        engines = [first, engine(suite, "b")]
        assert await suite.stop() == 0
        assert not any(alive(pid) for pid in engines)
