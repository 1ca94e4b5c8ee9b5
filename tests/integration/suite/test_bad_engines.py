"""Engines that cannot be started, die, or never answer: an honest error within the cap, and nothing left running."""

import asyncio
import json
import sys
from pathlib import Path

import openai
import pytest

from tests.kit.up import UpProcess, processes_of, up
from tests.kit.waiting import PATIENCE_SECONDS, until

NEVER_READY = "import sys, time; print('loading for ever', flush=True); time.sleep(600); sys.argv"
DIES = "import sys; sys.exit('CUDA error: out of memory ' + sys.argv[1][:0])"
COMMANDS = {
    "missing": ["no-such-engine", "--port", "{port}"],
    "dies": [sys.executable, "-c", DIES, "{port}"],
    "never-ready": [sys.executable, "-c", NEVER_READY, "{port}"],
}
REASONS = {
    "missing": "no-such-engine",
    "dies": "the engine ended with exit status 1: see ",
    "never-ready": "not ready within",
}
SERVICES = """
[gateway]
port = 0
drain_grace = "5s"
hold_cap = "10s"
[waker]
wake_cap = "8s"
"""
MODEL = """
[[tier]]
name = "{name}"
provider = "process"
[[machine]]
id = "{name}"
tier = "{name}"
command = {command}
[[model]]
name = "{name}"
lineup = ["{name}"]
"""


async def test_wake_ends_at_the_cap_with_its_reason_in_the_journal(tmp_path: Path) -> None:
    models = (MODEL.format(name=name, command=json.dumps(command)) for name, command in COMMANDS.items())
    async with up(tmp_path, SERVICES + "".join(models)) as suite:
        key = await suite.key()
        await asyncio.gather(*(is_answered_with_wake_timeout(suite, key, name) for name in COMMANDS))

        async def reasons() -> dict[str, str]:
            by_machine = dict.fromkeys(COMMANDS, "")
            for entry in await suite.journal():
                by_machine[entry["machine"]] += f" {entry.get('reason')}"
            return by_machine

        seen = await until(reasons, lambda seen: all(REASONS[name] in seen[name] for name in COMMANDS))
        assert "CUDA error" not in seen["dies"], "the end of its log may hold a prompt"

        await until(suite.states, lambda seen: seen == dict.fromkeys(COMMANDS, "asleep"))
        assert processes_of(tmp_path / "data" / "machines") == [], "no engine stays behind"
        checked = await suite.command("check")
        assert checked.status == 1
        assert "program 'no-such-engine' is not on the PATH" in checked.err
        assert await suite.stop() == 0
        assert processes_of(tmp_path) == []


async def is_answered_with_wake_timeout(suite: UpProcess, key: str, model: str) -> None:
    """An answer, not a hanging connection."""
    patience = openai.Timeout(PATIENCE_SECONDS)
    async with openai.AsyncOpenAI(base_url=suite.base_url, api_key=key, max_retries=0, timeout=patience) as sdk:
        with pytest.raises(openai.InternalServerError) as caught:
            await sdk.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}])
    assert (caught.value.status_code, caught.value.code) == (504, "wake_timeout"), model
