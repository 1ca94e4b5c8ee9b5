"""What runs the suite on one host without a cluster: the systemd unit, the compose file and its configuration."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from shared.config.load import load
from shared.units import MINUTE_S
from tests.deploy.machine.machines import write_program
from tests.docs.pages import page
from tests.kit.nats_server import nats_binary

DOCKER = Path("deploy/docker")
UNIT = Path("deploy/systemd/spotinference.service")
EXPOSURE = 30
"""Tenths on systemd's scale from 0 to 10; without any hardening a service has 96."""
LAST_SECONDS = 10
SERVICES = ("gateway", "site", "waker", "meter", "billing")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    read: dict[str, Any] = YAML(typ="safe").load(DOCKER / "compose.yaml")
    return read


def test_systemd_reports_nothing_about_the_unit(tmp_path: Path) -> None:
    """It warns of unknown keys and exits with 0."""
    assert _verify(UNIT.read_text(encoding="utf-8"), tmp_path) == ""


def test_a_wrong_key_in_the_unit_is_reported(tmp_path: Path) -> None:
    wrong = UNIT.read_text(encoding="utf-8").replace("ProtectHome", "ProtectHomes")
    assert "ProtectHomes" in _verify(wrong, tmp_path)


def test_the_unit_is_hardened() -> None:
    done = _run("systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE}", UNIT)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize("has_gpus", [False, True])
def test_the_drop_in_and_nothing_else_opens_the_gpus_to_the_unit(tmp_path: Path, *, has_gpus: bool) -> None:
    units = tmp_path / "etc/systemd/system"
    ignored = None if has_gpus else shutil.ignore_patterns("*.d")
    shutil.copytree(UNIT.parent, units, ignore=ignored)
    (units / UNIT.name).write_text(_runnable(UNIT.read_text(encoding="utf-8")), encoding="utf-8")
    words = ("systemd-analyze", f"--root={tmp_path}", "--no-pager")
    done = _run(*words, "security", "--offline=yes", "--json=short", f"--threshold={EXPOSURE}", UNIT.name)
    assert done.returncode == 0, done.stdout
    seen = {row["json_field"]: row["description"] for row in json.loads(done.stdout)}
    assert ("Service has no device ACL" in seen["DeviceAllow"]) is has_gpus
    assert ("has no access to hardware devices" in seen["PrivateDevices"]) is not has_gpus
    write_program(tmp_path / "bin/true")
    write_program(tmp_path / "bin/kill")
    write_program(tmp_path / "usr/bin/nvidia-modprobe")
    foreign = ("sysinit.target", "basic.target", "shutdown.target", "multi-user.target", "network-online.target")
    for name in foreign:
        (units / name).write_text("[Unit]\n", encoding="utf-8")
    verified = _run(*words, "verify", "--man=no", UNIT.name)
    assert verified.stdout + verified.stderr == ""


def test_the_compose_file_follows_its_schema() -> None:
    check = Path(sys.executable).parent / "check-jsonschema"
    done = _run(check, "--builtin-schema", "vendor.compose-spec", DOCKER / "compose.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("service", ["setup", *SERVICES])
def test_each_service_is_confined(compose: dict[str, Any], service: str) -> None:
    container = compose["services"][service]
    assert container["user"] == "65532:65532"
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in container["security_opt"]
    keys = [volume for volume in container["volumes"] if ".nk" in volume]
    assert keys == [f"./users/{service}.nk:/etc/spotinference/bus/{service}.nk:ro"], "its own key and no other's"


@pytest.mark.parametrize("service", ["setup", *SERVICES])
def test_each_image_is_a_target_of_the_recipe(compose: dict[str, Any], service: str) -> None:
    targets = re.findall(r"^FROM \S+ AS (\S+)$", (DOCKER / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    image = compose["services"][service]["image"].split("/")[-1].split(":")[0]
    assert image == service
    assert image in targets


def test_each_volume_belongs_to_the_user_who_writes_it(compose: dict[str, Any]) -> None:
    """A new volume takes its owner from the image's folder, and is root's where the image has none."""
    of_image = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    for name, container in compose["services"].items():
        for volume, _, path in (text.partition(":") for text in container["volumes"] if not text.startswith(".")):
            if f" --chown=65532:65532 /data {path}\n" in of_image and "spotinference/" in container["image"]:
                continue
            owner = compose["services"][f"{volume}-volume"]
            assert owner["entrypoint"] == ["chown", "65532:65532", path]
            assert owner["volumes"] == [f"{volume}:{path}"]
            if name != f"{volume}-volume":
                assert container["depends_on"][f"{volume}-volume"] == {"condition": "service_completed_successfully"}


def test_ports_and_graces_equal_those_of_the_configuration(compose: dict[str, Any]) -> None:
    config = load(DOCKER / "spotinference.toml")
    grace = config.gateway.drain_delay + config.gateway.drain_grace + LAST_SECONDS
    assert compose["services"]["gateway"]["stop_grace_period"] == f"{grace:g}s"
    assert compose["services"]["gateway"]["ports"] == [f"{config.gateway.port}:{config.gateway.port}"]
    for name in ("site", "waker", "meter", "billing"):
        section = getattr(config, name)
        assert compose["services"][name]["stop_grace_period"] == f"{section.drain_s + LAST_SECONDS:g}s"
    for name in SERVICES:
        probe = compose["services"][name]["healthcheck"]["test"][-1]
        assert f"127.0.0.1:{getattr(config, name).metrics_port}/livez" in probe
    assert config.bus.urls == ("nats://nats:4222",)


def test_the_guide_makes_a_bus_that_its_user_alone_can_read_even_under_a_strict_umask(
    compose: dict[str, Any], tmp_path: Path
) -> None:
    binary = nats_binary()
    assert binary is not None
    for name in ("nats.conf", "spotinference.toml"):  # as `git clone` leaves them
        (tmp_path / name).write_bytes((DOCKER / name).read_bytes())
        (tmp_path / name).chmod(0o600)
    (block,) = [text for text in page("docs/howto/run-on-one-host.md").blocks("sh") if "nats-config" in text]
    commands = block.replace("cd deploy/docker", f'cd "{tmp_path}"').replace(
        "../../.venv/bin/spotinference", f"{sys.executable} -m spotinference"
    )
    own = 'chown() { test "$1 $2" = "-R 65532" && shift 2 && printf "%s\\n" "$@" >>owned; }'  # not everybody may
    done = _run("bash", "-ec", f"umask 077\n{own}\n{commands}")
    assert done.returncode == 0, done.stderr
    owned = {tmp_path / name for name in (tmp_path / "owned").read_text("utf-8").split()}
    volumes = [volume for container in compose["services"].values() for volume in container["volumes"]]
    for file in {tmp_path / volume.partition(":")[0] for volume in volumes if volume.startswith("./")}:
        is_for_all = bool(file.stat().st_mode & 0o004)
        assert is_for_all or owned & {file, *file.parents}, f"{file.name} cannot be read in its container"
        assert not (is_for_all and file.suffix == ".nk")
    checked = _run(binary, "-t", "-c", tmp_path / "nats.conf")
    assert checked.returncode == 0, checked.stderr


def _verify(unit: str, folder: Path) -> str:
    """What systemd says of the unit, with programs that exist here in place of the installed ones."""
    here = folder / UNIT.name
    here.write_text(_runnable(unit), encoding="utf-8")
    return _run("systemd-analyze", "verify", "--man=no", here).stderr.strip()


def _runnable(unit: str) -> str:
    return re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", unit)


def _run(*command: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=MINUTE_S)
