"""`make check-vllm`: the real vLLM behind the whole suite, on a CPU or on the NVIDIA GPU of this machine."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from openai import AsyncOpenAI

from tests.deploy.machine.machines import CLASSES, VLLM_NAMES, engine_words, write_machine
from tests.kit.up import up
from tests.vllm.checks import ENGINE_KEY, MODEL, Checks
from tests.vllm.environment import NotInstalled, has_gpu, prepare

T = TypeVar("T")

SCRIPTS = Path(__file__).parent
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_API_KEY": ENGINE_KEY,
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
SHARED_WITH_MACHINES = (
    "--enable-auto-tool-choice",
    "--enable-prompt-tokens-details",
    "--safetensors-load-strategy",
    "--shutdown-timeout",
    "--disable-fastapi-docs",
    "--disable-uvicorn-access-log",
)
"""Options of the machines' unit that are used here too, with their values."""


def main() -> int:
    """Return 1 if a check fails."""
    gpu = has_gpu()
    try:
        programs = step("install", lambda: prepare(gpu=gpu))
    except NotInstalled as error:
        print(error)
        return 1
    with tempfile.TemporaryDirectory(prefix="spot-vllm-") as name:
        folder = Path(name)
        step("tiny model", lambda: run(programs / "python", SCRIPTS / "tiny_model.py", folder / "model"))
        known = step("names", lambda: read_names(programs, folder))
        if known != VLLM_NAMES.read_text("utf-8"):
            print(f"WRONG {VLLM_NAMES.name} is not what this vLLM says: write it anew with tests/vllm/vllm_names.py")
            return 1
        return asyncio.run(check(programs, folder, gpu=gpu))


def read_names(programs: Path, folder: Path) -> str:
    """Return vLLM's own names, after its parser has accepted the command line of every machine class."""
    lines = []
    for of_class in CLASSES:
        words = engine_words(write_machine(folder, of_class=of_class))
        lines.append(" ".join(words[words.index("serve") + 1 :]))
    (folder / "command-lines").write_text("\n".join(lines), "utf-8")
    return run(programs / "python", SCRIPTS / "vllm_names.py", folder / "command-lines")


async def check(programs: Path, folder: Path, *, gpu: bool) -> int:
    os.environ.update(ENVIRONMENT)  # the suite passes it on to the engine
    (folder / "engine-key").write_text(ENGINE_KEY)
    (folder / "suite").mkdir()
    failed = 0
    async with up(folder / "suite", config(engine_command(programs, folder, gpu=gpu), folder / "engine-key")) as suite:
        async with AsyncOpenAI(base_url=suite.base_url, api_key=await suite.key(), max_retries=0) as client:
            for name, run_check in Checks(suite, client).all().items():
                began_at = time.monotonic()
                try:
                    words, result = await run_check(), "ok"
                except Exception as error:  # noqa: BLE001 - the next promise is checked all the same
                    words, result, failed = f"{type(error).__name__}: {error}", "WRONG", failed + 1
                print(f"{result:<5} {name:<28} {time.monotonic() - began_at:6.1f} s  {words}", flush=True)
        if failed:
            for log in (folder / "suite/data").rglob("*.log"):
                if "machines" in log.parts or "waker" in log.name:
                    print(f"--- {log}\n{log.read_text('utf-8', 'replace')[-3000:]}")
    return 1 if failed else 0


def engine_command(programs: Path, folder: Path, *, gpu: bool) -> list[str]:
    """Return the command of the machine: the options of a GPU machine, and what a tiny model needs."""
    words = engine_words(write_machine(folder, of_class=CLASSES[0]))
    shared = [
        word
        for option, word in zip(["", *words], words, strict=False)
        if word in SHARED_WITH_MACHINES or (option in SHARED_WITH_MACHINES and not word.startswith("--"))
    ]
    command = [str(programs / "vllm"), "serve", str(folder / "model"), "--host", "127.0.0.1", "--port", "{port}"]
    command += ["--served-model-name", MODEL, "--max-model-len", "16384", "--tool-call-parser", "hermes", *shared]
    return command if gpu else [*command, "--enforce-eager"]


def config(command: list[str], key_file: Path) -> str:
    return f"""
[gateway]
port = 0
[waker]
gateway_timeout = "4s"
[meter]
scrape_interval = "1s"
[[tier]]
name = "vllm"
provider = "process"
key_file = {json.dumps(str(key_file))}
[[machine]]
id = "vllm-1"
tier = "vllm"
command = {json.dumps(command)}
[[model]]
name = "{MODEL}"
lineup = ["vllm"]
"""


def step(name: str, work: Callable[[], T]) -> T:
    began_at = time.monotonic()
    result = work()
    print(f"ok    {name:<28} {time.monotonic() - began_at:6.1f} s", flush=True)
    return result


def run(*words: Path) -> str:
    """Return what the program prints; fails with its errors."""
    result = subprocess.run(
        [str(word) for word in words], check=False, capture_output=True, text=True, env={**os.environ, **ENVIRONMENT}
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


if __name__ == "__main__":
    sys.exit(main())
