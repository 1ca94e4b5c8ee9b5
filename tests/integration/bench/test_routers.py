"""The Rust routers: each is ready and answers, with a key where it knows keys; one that is not to be had is named."""

from pathlib import Path

import aiohttp
import pytest

from bench import routers
from bench.cluster import KEY, SERVED_AS
from bench.routers import ROUTERS, Router, RouterUnavailable, running_router
from tests.clients.environments import NotInstalled
from tests.integration.bench.lying_engine import engine_port

CHECKS_THE_KEY = {"vllm-router": False, "smg": True}
BY_NAME = pytest.mark.parametrize("router", ROUTERS, ids=lambda router: router.name)


@pytest.mark.long  # 61 MB of wheels
@BY_NAME
async def test_a_router_serves_and_checks_as_documented(router: Router, tmp_path: Path) -> None:
    async with engine_port(tmp_path) as engine, aiohttp.ClientSession() as session:
        packages, log = router.install(), tmp_path / "router.log"
        async with running_router(router, packages, engine=engine, key=KEY, log=log) as (port, _):

            async def status(key: str, model: str) -> int:
                body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
                headers = {"Authorization": f"Bearer {key}"}
                url = f"http://127.0.0.1:{port}/v1/chat/completions"
                async with session.post(url, json=body, headers=headers) as response:
                    return response.status

            assert await status(KEY, SERVED_AS) == 200
            assert await status(KEY, "other") == 404
            assert await status("other", SERVED_AS) == (401 if CHECKS_THE_KEY[router.name] else 200)


async def test_a_router_that_ends_at_once_is_named_with_its_last_words(tmp_path: Path) -> None:
    router = Router("wrong", ("http.server",))  # knows none of the routers' options
    with pytest.raises(RouterUnavailable, match=r"it has ended with status 2: .*server.py: error"):
        async with running_router(router, tmp_path, engine=1, key=KEY, log=tmp_path / "log"):
            pass


def test_a_missing_wheel_is_reported_in_the_installers_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepared(*_args: object) -> Path:
        raise NotInstalled("pip install\nERROR: No matching distribution found for smg==1.13.0\n[notice] more\n")

    monkeypatch.setattr(routers, "prepared", prepared)
    with pytest.raises(RouterUnavailable) as caught:
        ROUTERS[1].install()
    assert str(caught.value) == "it cannot be installed: ERROR: No matching distribution found for smg==1.13.0"


@BY_NAME
def test_the_version_is_the_pinned_one(router: Router) -> None:
    assert f"{router.name}=={router.version()} " in router.pins.read_text("utf-8")
