"""From nothing to serving with what is rendered: each container's command, on its own files."""

import asyncio
import json
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from shared.runtime.suite_file import RunningService
from tests.deploy.bus_servers import Servers
from tests.deploy.guides import KUBERNETES, render_overlay
from tests.deploy.manifests import SETUP, Manifests, load
from tests.deploy.pods import Pod, Secrets
from tests.deploy.rules.code import SERVICES
from tests.docs.pages import page
from tests.kit.github import CLIENT_SECRET, Account, github_config, running_github
from tests.kit.hyperstack_cloud import hyperstack_cloud
from tests.kit.scripted_engine import ScriptedEngine
from tests.kit.site import Browser
from tests.kit.site_role import SiteRole, site_role
from tests.kit.tls import make_certificate
from tests.kit.tls_balancer import running_balancer
from tests.kit.waiting import until

PORTS = {
    "metrics_port = 9090": "metrics_port = 0",
    **{f'[{name}]\nhost = "*"': f'[{name}]\nport = 0\nhost = "127.0.0.1"' for name in ("gateway", "site")},
}
"""What would be taken on this host."""
LOCAL_OPERATOR = '[bus]\nurls = ["tls://localhost:4222"]\nnkey_file = "users/{user}.nk"\n'
ENGINE_KEY = "engine-key-of-the-test"


@dataclass
class Cluster:
    """The pods of an overlay, and the folder of an operator who follows the guide."""

    servers: Servers
    folder: Path
    pods: dict[str, Pod]
    operator_config: str

    async def announced(self) -> dict[str, RunningService]:
        """Return the services once all are ready."""
        return {name: await self.pods[name].ready() for name in SERVICES}

    async def run(self, *words: str) -> str:
        """Run a command of the operator, and return what it prints."""
        access = self.servers.access(is_secure="ca_file" in self.operator_config)
        config = self.folder / "operator.toml"
        config.write_text(self.operator_config.replace("tls://localhost:4222", access.urls[0]), "utf-8")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "spotinference", *words, "--config", str(config)),
            cwd=self.folder,
            stdout=subprocess.PIPE,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, words
        return output.decode()


@asynccontextmanager
async def cluster(
    manifests: Manifests,
    folder: Path,
    replaced: dict[str, str],
    secrets: Secrets,
    operator_config: str = LOCAL_OPERATOR,
    *,
    names: tuple[str, ...] = (*SERVICES, SETUP),
) -> AsyncIterator[Cluster]:
    """Everything started at once and not waited for, as `kubectl apply` does. `replaced`: other hosts."""
    home = folder / "operator"
    home.mkdir()
    servers = Servers(manifests, home)
    bus = manifests.config.bus
    urls = dict(zip(bus.urls, servers.access(is_secure=bus.ca_file is not None).urls, strict=True))
    keys = {name: (servers.users / f"{name}.nk").read_text("utf-8") for name in (*SERVICES, SETUP)}
    of_bus: Secrets = {f"bus-{name}": {f"{name}.nk": key} for name, key in keys.items()}
    of_bus["nats-tls"] = {"ca.crt": servers.certificates.ca.read_text("utf-8")}
    async with AsyncExitStack() as stack:
        stack.enter_context(servers.running())
        pods = {}
        for name in names:
            service, _, replica = name.partition("-")
            place = folder / "pods" / replica
            pods[name] = Pod(manifests, service, place, {**of_bus, **secrets}, {**PORTS, **urls, **replaced})
            stack.push_async_callback(pods[name].close)
            await pods[name].start()
        yield Cluster(servers, home, pods, operator_config)


async def serve_one_request(one: Cluster, model: str) -> None:
    """Make a key, send a request until it is answered, and await its usage in the ledger."""
    await one.pods[SETUP].complete()
    announced = await one.announced()
    created = json.loads(await one.run("keys", "create", "--name", "first", "--json"))
    async with aiohttp.ClientSession() as session:

        async def status() -> int:
            body = {"model": model, "messages": [{"role": "user", "content": "Say hello."}]}
            url, headers = (
                f"{announced['gateway'].url}/v1/chat/completions",
                {"Authorization": f"Bearer {created['key']}"},
            )
            async with session.post(url, json=body, headers=headers) as response:
                return response.status

        assert await until(status, lambda code: code == 200)
        async with session.get(announced["site"].url) as response:
            assert response.status == 200

    async def counted() -> int:
        usage = json.loads(await one.run("usage", "--json"))
        return int(usage["totals"]["requests"])

    assert await until(counted, bool) == 1


def database_secrets(role: SiteRole) -> Secrets:
    urls = {"database": role.owner_url, "database-site": role.url}
    return {name: {"url": url, "ca.crt": ""} for name, url in urls.items()}


async def set_up(one: Cluster, role: SiteRole) -> None:
    """Await the tables, and let the site use its own as the guide says. It waits for both."""
    await one.pods[SETUP].complete()
    for pod in (pod for name, pod in one.pods.items() if name.startswith("site")):
        await until(pod.read_log, lambda log: "permission denied" in log)
    role.grant()


@pytest.mark.long
async def test_the_local_overlay_serves_a_request_and_drains(tmp_path: Path, scripted_engine: ScriptedEngine) -> None:
    scripted_engine.name = "Qwen/Qwen3-8B"
    engine = {"http://10.0.4.11:8000": scripted_engine.base_url}
    async with cluster(load("local"), tmp_path, engine, {}, LOCAL_OPERATOR) as one:
        await serve_one_request(one, "qwen3-8b")
        assert [await one.pods[name].stop() for name in SERVICES] == [0] * len(SERVICES)


@pytest.mark.long
async def test_the_overlay_of_the_guide_wakes_a_machine_and_serves(
    tmp_path: Path, scripted_engine: ScriptedEngine, postgres_url: str
) -> None:
    scripted_engine.name = "Qwen/Qwen3-Coder-Next-FP8"
    (operator_config,) = [block for block in page(KUBERNETES).blocks("toml") if block.startswith("# operator.toml")]
    (tmp_path / "guide").mkdir()
    manifests = render_overlay(KUBERNETES, tmp_path / "guide")
    async with hyperstack_cloud() as cloud, AsyncExitStack() as stack:
        role = stack.enter_context(site_role(postgres_url))
        machine = cloud.add()
        hosts = {
            "http://10.0.4.11:8000": scripted_engine.base_url,
            "[provider.hyperstack]": f'[provider.hyperstack]\nbase_url = "{cloud.base_url}"',
        }
        secrets: Secrets = {
            **database_secrets(role),
            "hyperstack": {"api-key": cloud.key},
            "engine-keys": {"h100x2": ENGINE_KEY},
        }
        async with cluster(manifests, tmp_path, hosts, secrets, operator_config) as one:
            await set_up(one, role)
            await serve_one_request(one, "qwen3-coder")
            assert cloud.state(machine) == "ACTIVE"
            assert cloud.changes == 1
            assert {seen.headers["authorization"] for seen in scripted_engine.requests} == {f"Bearer {ENGINE_KEY}"}
            for name in ("waker", "meter", "billing", "site"):
                assert await one.pods[name].stop() == 0, name


@pytest.mark.long
async def test_people_sign_in_through_the_balancer_and_keep_their_session_on_each_replica(
    tmp_path: Path, postgres_url: str
) -> None:
    certificate = make_certificate(tmp_path, "balancer")
    trusted = ssl.create_default_context(cafile=certificate.certificate)
    async with running_github(Account(583231, "ann"), Account(2, "bob")) as github, AsyncExitStack() as stack:
        role = stack.enter_context(site_role(postgres_url))
        balancer = await stack.enter_async_context(running_balancer(certificate))
        replaced = {
            '[site.github]\nclient_id = "Iv1.0123456789abcdef"': github_config(github),
            "https://www.example.org": balancer.url,
            "10.30.0.0/16": "127.0.0.0/8",
        }
        secrets: Secrets = {
            **database_secrets(role),
            "sign-in": {"github-client-secret": CLIENT_SECRET},
        }
        pods = (SETUP, "site-0", "site-1")
        one = await stack.enter_async_context(cluster(load("production"), tmp_path, replaced, secrets, names=pods))
        await set_up(one, role)
        balancer.backends += [(await one.pods[name].ready()).url for name in pods[1:]]
        async with Browser(balancer.url, trusted) as ann, Browser(balancer.url, trusted) as bob:
            answer = await ann.sign_in("ann", "sessions")
            assert (answer.status, answer.location) == (303, "/account/sessions")
            assert all("; Secure" in cookie for cookie in answer.cookies)
            assert [(await ann.get("/account")).status for _ in balancer.backends] == [200, 200]
            assert "127.0.0.0/24" not in (await ann.get("/account/sessions")).text  # the balancer's
            form = (await ann.get("/account/sessions")).form("/sign-out")
            assert (await ann.post("/sign-out", form)).status == 303
            assert [(await ann.get("/account")).status for _ in balancer.backends] == [303, 303]
            assert (await bob.sign_in("bob")).status == 403
        assert {query["redirect_uri"] for query in github.authorized} == {f"{balancer.url}/sign-in/github/callback"}
