"""Engines that cannot be started, die, or never answer: an honest error within the cap, and nothing left running."""

import sys
from pathlib import Path

import openai
import pytest

from tests.integration.suite.config import config
from tests.kit.up import processes_of, up
from tests.kit.waiting import PATIENCE_SECONDS, until

NEVER_READY = "import sys, time; print('loading for ever', flush=True); time.sleep(600); sys.argv"
DIES = "import sys; sys.exit('CUDA error: out of memory ' + sys.argv[1][:0])"


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        (["no-such-engine", "--port", "{port}"], "no-such-engine"),
        ([sys.executable, "-c", DIES, "{port}"], "the engine ended with exit status 1: see "),
        ([sys.executable, "-c", NEVER_READY, "{port}"], "not ready within"),
    ],
    ids=["missing", "dies", "never ready"],
)
async def test_wake_ends_at_the_cap_with_its_reason_in_the_journal(
    tmp_path: Path, command: list[str], reply: str
) -> None:
    settings = config(command, gateway='hold_cap = "5s"', waker='wake_cap = "4s"')
    async with up(tmp_path, settings) as suite:
        key = await suite.key()
        # An answer, not a hanging connection.
        patience = openai.Timeout(PATIENCE_SECONDS)
        async with openai.AsyncOpenAI(base_url=suite.base_url, api_key=key, max_retries=0, timeout=patience) as sdk:
            with pytest.raises(openai.InternalServerError) as caught:
                await sdk.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}])
        assert (caught.value.status_code, caught.value.code) == (504, "wake_timeout")

        async def reasons() -> str:
            return " ".join(str(entry.get("reason")) for entry in await suite.journal())

        assert reply in await until(reasons, lambda text: reply in text)
        assert "CUDA error" not in await reasons(), "the end of its log may hold a prompt"

        await until(suite.states, lambda seen: seen == {"local-1": "asleep"})
        assert processes_of(tmp_path / "data" / "machines") == [], "no engine stays behind"
        if command[0] == "no-such-engine":
            checked = await suite.command("check")
            assert checked.status == 1
            assert "program 'no-such-engine' is not on the PATH" in checked.err
        assert await suite.stop() == 0
        assert processes_of(tmp_path) == []
