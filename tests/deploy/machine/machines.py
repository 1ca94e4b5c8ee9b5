"""Machines whose user data the tests render, and what cloud-init would make of it."""

import shlex
import stat
from pathlib import Path
from typing import Any

import yaml

from deploy.machine.render import HERE, render

NFT = (
    "nftables",
    "libnftables1",
    "libnftnl11",
    "libmnl0",
    "libjansson4",
    "libedit2",
    "libbsd0",
    "libmd0",
    "libxtables12",
)
VLLM_NAMES = Path(__file__).with_name("vllm-0.32.0.txt")
"""Its options, environment variables and tool parsers, as `make check-vllm` compares them with vLLM itself."""
ENGINE_UNIT = "etc/systemd/system/spotinference-engine.service"
CLASSES = sorted(path.stem for path in (HERE / "classes").glob("*.toml"))
VALUES = f"""
address = "10.0.4.11"
sources = ["10.0.8.0/22", "fd00:8::/64"]
bastions = ["10.0.0.5"]
revision = "{"0" * 40}"
artifacts_url = "https://artifacts.example.com"
"""
WIREGUARD = f"""
[wireguard]
address = "10.0.4.11/32"
peer_key = "{"A" * 43}="
peer_endpoint = "198.51.100.7:51820"
peer_addresses = ["10.99.0.1/32", "10.0.8.0/22"]
"""
SPOT = f"""
[spot]
machine = "h100x2-1"
bus_url = "tls://nats.internal:4222"
private_ca = true
package_sha256 = "{"0" * 64}"
"""


def write_machine(folder: Path, *, of_class: str = CLASSES[0], provider: str = "ec2", more: str = "") -> Path:
    path = folder / "machine.toml"
    path.write_text(f'class = "{of_class}"\nprovider = "{provider}"\n{VALUES}{more}', "utf-8")
    return path


def user_data(path: Path) -> dict[str, Any]:
    text = render(path)
    assert text.startswith("#cloud-config\n")
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def write_files(document: dict[str, Any], root: Path) -> Path:
    """Write what cloud-init writes, below `root`."""
    for file in document["write_files"]:
        path = root / file["path"].lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file["content"], "utf-8")
        path.chmod(int(file["permissions"], 8))
    return root


def write_program(path: Path, script: str = "") -> None:
    """A program that runs the script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{script}\n", "utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def settings(unit: Path) -> dict[str, list[str]]:
    """Return the values of each setting of a unit."""
    return settings_of(unit.read_text("utf-8"))


def settings_of(unit: str) -> dict[str, list[str]]:
    """Return the values of each setting of a unit's text."""
    lines = unit.replace("\\\n", " ").splitlines()
    values: dict[str, list[str]] = {}
    for line in lines:
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            values.setdefault(name, []).append(value)
    return values


def engine_words(path: Path) -> list[str]:
    """Return the command line of the engine on the machine that the file describes."""
    unit = next(file["content"] for file in user_data(path)["write_files"] if file["path"] == f"/{ENGINE_UNIT}")
    return shlex.split(settings_of(unit)["ExecStart"][0])
