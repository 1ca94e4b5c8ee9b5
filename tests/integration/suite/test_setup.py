"""`spotinference setup` prepares the bus and the databases, as often as it is run, with the packages of its extra."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from sqlalchemy import text

from shared.bus import topology
from shared.bus.jetstream import connect
from shared.database import create_engine
from shared.runtime.suite_file import BUS_URL_VARIABLE
from tests.kit.ports import free_port
from tests.kit.waiting import PATIENCE_SECONDS

REQUIREMENTS = Path(__file__).parents[3] / "requirements" / "setup.txt"
LISTING = """
import json, sys
from importlib.metadata import packages_distributions
from spotinference.__main__ import main

main(sys.argv[1:], standalone_mode=False)
owners = packages_distributions()
loaded = {name.partition(".")[0] for name in sys.modules}
print(json.dumps(sorted({owner.lower() for name in loaded for owner in owners.get(name, ())})))
"""


async def run(home: Path, bus_url: str, *program: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *(program or ("-m", "spotinference"))),
        *("setup", "--config", str(home / "spotinference.toml"), "--data-dir", str(home / "data")),
        env={**os.environ, BUS_URL_VARIABLE: bus_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        output, errors = await process.communicate()
    return process.returncode or 0, output.decode(), errors.decode()


async def test_setup_prepares_everything_and_can_be_repeated(nats_url: str, database_url: str, tmp_path: Path) -> None:
    (tmp_path / "spotinference.toml").write_text(
        f'[bus]\nusage_max_bytes = 104857600\n[database]\nurl = "{database_url}"\n'
    )
    together = await asyncio.gather(*(run(tmp_path, nats_url) for _ in range(2)))
    for status, output, errors in (*together, await run(tmp_path, nats_url)):
        assert (status, errors) == (0, "")
        assert re.fullmatch(
            r"the bus is provisioned\n"
            r"the schema of the ledger is at revision \d{4}\n"
            r"the schema of the books is at revision \d{4}\n"
            r"the schema of the site is at revision \d{4}\n"
            r"keys on the bus: 0 came back, 0 ended again\n",
            output,
        ), output
    async with connect(nats_url, name="test", wait=PATIENCE_SECONDS) as bus:
        assert await bus.entries(topology.KEYS) == {}
        assert (await bus.size(topology.USAGE)).max_bytes == 104_857_600
    engine = create_engine(database_url)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE books_version SET version_num = '9001', required = '9001'"))
    await engine.dispose()
    status, _, errors = await run(tmp_path, nats_url)
    assert status == 1
    assert re.fullmatch(r"spotinference: the books: .* revision 9001.*run the newer version\n", errors), errors


async def test_setup_needs_only_the_packages_of_its_extra(nats_url: str, tmp_path: Path) -> None:
    (tmp_path / "spotinference.toml").write_text("")
    status, output, errors = await run(tmp_path, nats_url, "-c", LISTING)
    assert status == 0, errors
    names = re.findall(r"^([\w.-]+)==", REQUIREMENTS.read_text(), re.MULTILINE)
    pinned = {re.sub(r"[-_.]+", "-", name) for name in names}
    loaded = {re.sub(r"[-_.]+", "-", name) for name in json.loads(output.splitlines()[-1])}
    # Those of the environment itself: `site` loads them at its start.
    assert loaded - pinned - {"spotinference", "setuptools", "pip", "distutils-precedence"} == set()


async def test_setup_names_a_database_that_does_not_answer(nats_url: str, tmp_path: Path) -> None:
    url = f"postgresql://meter:hunter2@127.0.0.1:{free_port()}/ledger"
    (tmp_path / "spotinference.toml").write_text(f'[database]\nurl = "{url}"\n')
    status, _, errors = await run(tmp_path, nats_url)
    assert status == 1
    assert re.match(r"spotinference: the ledger: postgresql\+asyncpg://meter@127\.0\.0\.1:\d+/ledger: ", errors), errors
    assert "repeat the command" in errors
    assert "hunter2" not in errors
