"""Real NATS servers with the configuration of the manifests: the server reads it, and three of them are one bus."""

from dataclasses import replace
from pathlib import Path

import pytest
from nats.errors import Error as NatsError

from shared.bus.jetstream import connect
from shared.bus.provision import provision
from shared.errors import BusError
from tests.deploy.bus_servers import Servers
from tests.deploy.manifests import RENDERED, load
from tests.kit.waiting import PATIENCE_SECONDS, until

SERVERS = 3


@pytest.mark.parametrize("overlay", RENDERED)
def test_the_server_accepts_its_configuration(overlay: str, tmp_path: Path) -> None:
    servers = Servers(load(overlay), tmp_path)
    tested = servers.check_configuration()
    assert tested.returncode == 0, tested.stderr
    assert "configuration file" in tested.stderr
    assert "is valid" in tested.stderr


def test_the_server_refuses_a_broken_configuration(tmp_path: Path) -> None:
    manifests = load("production")
    manifests.bus_files["nats.conf"] += "sync_intervall: always\n"
    servers = Servers(manifests, tmp_path)
    tested = servers.check_configuration()
    assert tested.returncode != 0
    assert "sync_intervall" in tested.stderr


@pytest.mark.parametrize(
    ("overlay", "copies"), [("local", 1), pytest.param("production", SERVERS, marks=pytest.mark.long)]
)
async def test_the_servers_are_one_bus(overlay: str, copies: int, tmp_path: Path) -> None:
    servers = Servers(load(overlay), tmp_path)
    access = servers.access(is_secure=overlay == "production")

    async def is_provisioned() -> bool:
        try:
            async with connect(access.for_role("setup"), name="setup", wait=PATIENCE_SECONDS) as bus:
                await provision(bus, replicas=copies)
                streams = await bus.js.streams_info()
        except (BusError, TimeoutError):
            return False
        return bool(streams) and all(stream.config.num_replicas == copies for stream in streams)

    with servers.running():
        assert await until(is_provisioned, bool)
        async with connect(access.for_role("gateway"), name="gateway", wait=PATIENCE_SECONDS) as gateway:
            assert (await gateway.js.stream_info("KV_fleet")).config.num_replicas == copies


async def test_a_user_comes_back_with_its_new_key_after_a_reload(tmp_path: Path) -> None:
    servers = Servers(load("local"), tmp_path)
    access = servers.access(is_secure=False)
    with servers.running():
        async with connect(access.for_role("setup"), name="setup", wait=PATIENCE_SECONDS) as setup:
            await provision(setup)
        async with connect(access.for_role("gateway"), name="gateway", wait=PATIENCE_SECONDS) as gateway:
            stolen = tmp_path / "stolen.nk"
            (servers.users / "gateway.nk").rename(stolen)
            servers.write_users()
            servers.reload()

            async def answers() -> bool:
                try:
                    await gateway.js.stream_info("KV_fleet")
                except (BusError, NatsError, TimeoutError):
                    return False
                return True

            async def is_refused() -> bool:
                try:
                    async with connect(replace(access, nkey_file=stolen), name="thief", wait=0.2):
                        return False
                except BusError:
                    return True

            assert await until(is_refused, bool)
            assert await until(answers, bool)


async def test_the_pre_stop_hook_puts_a_server_into_lame_duck_mode(tmp_path: Path) -> None:
    manifests = load("local")
    servers = Servers(manifests, tmp_path)
    (container,) = manifests.workload("nats").containers
    access = servers.access(is_secure=False)
    with servers.running():
        async with connect(access.for_role("setup"), name="setup", wait=PATIENCE_SECONDS):
            pass
        servers.run_inside(0, container["lifecycle"]["preStop"]["exec"]["command"])

        async def log() -> str:
            return servers.log(0)

        assert await until(log, lambda text: "Entering lame duck mode" in text)
