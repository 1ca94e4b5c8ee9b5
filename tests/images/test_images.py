"""The images that `make images` built: what is in them, and that the suite runs from them."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from tests.images import image as images
from tests.images.image import Image, RunningImage, mounted, own
from tests.kit.fork_server import ForkedProcess
from tests.kit.nats_server import NatsServer
from tests.kit.scripted_engine import NAME, ScriptedEngine
from tests.kit.service import ServiceProcess

TARGETS = os.environ.get("SPOT_IMAGES", "").split()
TAG = os.environ.get("SPOT_IMAGES_TAG", "")
LISTS = Path(os.environ.get("SPOT_IMAGES_LISTS", "dist/images"))
FILE = "spotinference.toml"
SERVICES = ("meter", "billing", "waker", "site", "gateway")
BASES = {name: images.name_of(base, "bookworm") for name, base in (("BASE", "build-base"), ("RUN_BASE", "run-base"))}
GATEWAY_MB = 100
FORBIDDEN = ("sh", "bash", "dash", "busybox", "apt", "dpkg", "pip", "gcc", "cc", "perl", "curl", "wget", "su", "mount")

pytestmark = pytest.mark.skipif(not TARGETS, reason="`make images` builds what this is about, and runs it")


@pytest.fixture(scope="module")
def built() -> Iterator[dict[str, Image]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(mounted(name, TAG)) for name in TARGETS}


@pytest.fixture(params=TARGETS)
def image(request: pytest.FixtureRequest, built: dict[str, Image]) -> Image:
    return built[request.param]


def test_it_has_neither_shell_nor_compiler_nor_package_manager(image: Image) -> None:
    programs = {path.name for folder in ("bin", "sbin", "usr/local/bin") for path in (image.root / folder).glob("*")}
    assert programs & {"python3"}
    assert not programs & set(FORBIDDEN)
    assert not list(image.root.rglob("pip"))


def test_it_runs_as_nobody_in_particular(image: Image) -> None:
    assert image.user == f"{images.USER}:{images.USER}"
    owned = [path for path in (image.root / "app").rglob("*") if path.lstat().st_uid != 0]
    assert owned == [], "the program must not be able to change itself"


def test_every_module_is_compiled_by_hash(image: Image) -> None:
    modules = [path for path in (image.root / "app").rglob("*.py") if "site-packages" not in path.parts]
    compiled = {path.name.split(".")[0] for path in (image.root / "app").rglob("*.pyc")}
    assert modules
    assert {path.stem for path in modules} - compiled == set()
    one = next((image.root / "app/shared/__pycache__").glob("errors.*.pyc")).read_bytes()
    assert int.from_bytes(one[4:8], "little") == 1, "by hash, unchecked: equal in each build"


@pytest.mark.skipif("gateway" not in TARGETS, reason="the gateway is not among the images of this run")
def test_the_gateway_is_small(built: dict[str, Image]) -> None:
    root = built["gateway"].root
    size = int(subprocess.run(["du", "-smx", root], capture_output=True, check=True).stdout.split()[0])
    assert size <= GATEWAY_MB


def test_a_second_build_is_the_same_byte_by_byte(tmp_path: Path) -> None:
    subprocess.run(["deploy/docker/build", f"{TAG}-again", tmp_path, TARGETS[0]], check=True, env=os.environ | BASES)
    assert images.identity(TARGETS[0], f"{TAG}-again") == images.identity(TARGETS[0], TAG)


@pytest.mark.parametrize("target", TARGETS)
def test_its_components_are_listed(target: str) -> None:
    listed = json.loads((LISTS / f"{target}.cdx.json").read_text(encoding="utf-8"))
    urls = {component["purl"].split("@")[0] for component in listed["components"]}
    assert {"pkg:pypi/aiohttp", "pkg:pypi/msgspec"} <= urls
    assert ("pkg:pypi/boto3" in urls) == (target in {"waker", "billing", "operator"})
    assert ("pkg:pypi/duckdb" in urls) == (target == "billing")


async def test_the_suite_runs_from_its_images(
    built: dict[str, Image], nats_server: NatsServer, scripted_engine: ScriptedEngine, tmp_path: Path
) -> None:
    """What is not built runs from here, beside the images."""
    config, data = tmp_path / "config", own(tmp_path / "data")
    config.mkdir()
    (config / FILE).write_text(_config(nats_server.url, scripted_engine.base_url), encoding="utf-8")
    for folder in (tmp_path.parent, tmp_path):
        folder.chmod(0o755)  # pytest's folders are their user's alone, and the images' user has to pass through
    with ExitStack() as stack:
        _command(built, "setup", config, data)
        running = [await _start(built, name, config, data, stack) for name in SERVICES]
        options = ("keys", "create", "--name", "one", "--json")
        key = json.loads(_command(built, "operator", config, data, *options))
        url = running[-1].announced.url
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key=key["key"], max_retries=0) as client:
            completion = await client.chat.completions.create(
                model=NAME, messages=[{"role": "user", "content": "Hello."}], max_tokens=3
            )
        assert completion.usage is not None
        assert completion.usage.completion_tokens > 0
        for service in reversed(running):
            if isinstance(service, RunningImage):
                assert images.is_root_read_only(service.announced.pid)
                assert images.user_of(service.announced.pid) == (images.USER, "0" * 16)
            assert await service.stop() == 0, images.end_of(service.log)


async def _start(
    built: dict[str, Image], name: str, config: Path, data: Path, stack: ExitStack
) -> RunningImage | ServiceProcess:
    if name in built:
        running = await images.start(built[name], config, data, config.parent / f"{name}.log")
        stack.callback(running.kill)
        return running
    service = ServiceProcess(name, config / FILE, config.parent)
    await service.start()
    assert service.process is not None
    stack.callback(_kill, service.process)
    return service


def _kill(process: asyncio.subprocess.Process | ForkedProcess) -> None:
    if process.returncode is None:
        process.kill()


def _command(built: dict[str, Image], target: str, config: Path, data: Path, *arguments: str) -> str:
    if target in built:
        options = ("--config", f"/{images.CONFIG}/{FILE}", "--data-dir", f"/{images.DATA}")
        return built[target].run(config, data, *arguments, *options)
    name = ("setup",) if target == "setup" else ()
    command = [sys.executable, "-m", "spotinference", *name, *arguments, "--config", str(config / FILE)]
    return subprocess.run(
        [*command, "--data-dir", str(config.parent)], check=True, capture_output=True, text=True, timeout=120
    ).stdout


def _config(bus: str, engine: str) -> str:
    return f"""
bus = {{url = "{bus}"}}
gateway = {{port = 0}}
site = {{port = 0}}
tier = [{{name = "here", provider = "static"}}]
machine = [{{id = "here-1", tier = "here", endpoint = "{engine}"}}]
model = [{{name = "{NAME}", lineup = ["here"]}}]
"""
