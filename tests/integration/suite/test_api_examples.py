"""The examples on the site's page of the API work as they stand there: against a running suite, with its own key."""

import asyncio
import html
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.clients.environments import NODE, PINS, install_node, prepared
from tests.integration.suite.config import config
from tests.kit.engine import engine_command
from tests.kit.up import UpProcess, up
from tests.kit.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def suite(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> AsyncIterator[UpProcess]:
    async with up(tmp_path_factory.mktemp("up"), config(engine_command(tiny_model))) as suite:
        yield suite


async def example(suite: UpProcess, language: str, number: int = 0) -> str:
    """Return an example as a reader copies it from the page, for the suite's own port."""
    async with aiohttp.ClientSession(suite.services["site"]["url"]) as session, session.get("/api") as response:
        assert response.status == 200
        page = await response.text()
    blocks = re.findall(rf'<code class="language-{language}">(.*?)</code>', page, re.DOTALL)
    code = html.unescape(blocks[number])
    assert '"tiny"' in code, "the example names a model of this installation"
    return re.sub(r"http://127\.0\.0\.1:\d+", suite.services["gateway"]["url"], code)


async def run(words: list[str], suite: UpProcess, folder: Path) -> str:
    environment = {"PATH": os.environ["PATH"], "SPOT_API_KEY": await suite.key()}
    process = await asyncio.create_subprocess_exec(
        *words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            out, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, (out, errors)
    return out.decode()


async def test_curl_gets_a_completion(suite: UpProcess, tmp_path: Path) -> None:
    assert shutil.which("curl"), "install curl"
    out = await run(["sh", "-c", await example(suite, "sh")], suite, tmp_path)
    assert '"finish_reason"' in out
    assert '"total_tokens"' in out


async def test_python_streams_a_completion(suite: UpProcess, tmp_path: Path) -> None:
    out = await run([sys.executable, "-c", await example(suite, "python")], suite, tmp_path)
    assert re.search(r"^\d+ tokens$", out, re.MULTILINE)


async def test_node_alone_streams_a_completion(suite: UpProcess, tmp_path: Path) -> None:
    (tmp_path / "ask.mjs").write_text(await example(suite, "js", 1))
    out = await run([str(NODE / "bin" / "node"), "ask.mjs"], suite, tmp_path)
    assert out.endswith("data: [DONE]\n\n")


@pytest.mark.long  # the package comes from npm's registry
async def test_node_gets_a_completion_by_the_sdk(suite: UpProcess, tmp_path: Path) -> None:
    packages = prepared("openai-node", PINS / "openai-node" / "package-lock.json", install_node)
    (tmp_path / "node_modules").symlink_to(packages / "node_modules")
    (tmp_path / "ask.mjs").write_text(await example(suite, "js"))
    out = await run([str(NODE / "bin" / "node"), "ask.mjs"], suite, tmp_path)
    assert re.search(r" \d+\n$", out)
