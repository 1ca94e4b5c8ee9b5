"""The user data of a GPU machine: by cloud-init's own schema, by systemd, by the firewall and by vLLM's own options."""

import json
import re
import shlex
import subprocess
import sys
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest

from deploy.machine.render import HERE, LIMIT_BYTES, render
from shared.config.load import load
from shared.config.sections import WakerSection
from shared.errors import Misconfigured
from tests.deploy.machine.machines import (
    CLASSES,
    ENGINE_UNIT,
    NFT,
    SPOT,
    VLLM_NAMES,
    WIREGUARD,
    settings,
    user_data,
    write_files,
    write_machine,
    write_program,
)
from tests.kit.debian import program, unpacked

SCHEMA = "usr/lib/python3/dist-packages/cloudinit/config/schemas/schema-cloud-config-v1.json"
IP = ("iproute2", "libbpf1", "libelf1", "libmnl0", "libbsd0", "libmd0", "libcap2", "libdb5.3")
PROBE = Path(__file__).with_name("firewall_probe.py")
SERVICE, BASTION, STRANGER = "10.0.8.5", "10.0.0.5", "10.0.99.9"
FOREIGN_UNITS = (
    *(
        f"{name}.target"
        for name in ("basic", "local-fs", "multi-user", "network-online", "shutdown", "sysinit", "timers")
    ),
    *(f"{name}.service" for name in ("nftables", "nvidia-fabricmanager", "nvidia-persistenced", "wg-quick@wg0")),
)
FOREIGN_PROGRAMS = ("opt/spotinference/bin/spotinference", "opt/vllm/bin/vllm", "usr/bin/nvidia-modprobe")
MORE = {
    "on its own network": "",
    "over WireGuard": WIREGUARD,
    "with a volume": 'volume = "/dev/nvme1n1"\n',
    "spot": SPOT,
    "all of it": f'volume = "/dev/nvme1n1"\n{SPOT}{WIREGUARD}',
}


def unit_files(root: Path) -> list[Path]:
    return sorted((root / "etc/systemd/system").iterdir())


@pytest.fixture(params=MORE)
def document(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    return user_data(write_machine(tmp_path, more=MORE[request.param]))


def test_user_data_conforms_to_cloud_inits_schema(tmp_path: Path) -> None:
    schema = unpacked("cloud-init") / SCHEMA
    known = {key for part in json.loads(schema.read_text())["$defs"].values() for key in part.get("properties", {})}
    files = []
    for number, (of_class, more) in enumerate(product(CLASSES, MORE.values())):
        document = user_data(path := write_machine(tmp_path, of_class=of_class, more=more))
        assert set(document) - known == set(), "cloud-init's schema lets unknown keys at the top pass"
        files.append(tmp_path / f"{number}.yaml")
        files[-1].write_text(text := render(path), "utf-8")
        assert len(text.encode()) <= LIMIT_BYTES
    check = [str(Path(sys.executable).with_name("check-jsonschema")), "--schemafile", str(schema)]
    result = subprocess.run([*check, *map(str, files)], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_the_machine_can_compile_what_triton_generates() -> None:
    """Triton calls a C compiler with Python's headers when a process first launches a kernel."""
    assert re.search(r"(?m)^triton==", (HERE.parents[1] / "requirements" / "engine.txt").read_text("utf-8"))
    files = {file["path"]: file["content"] for file in user_data(HERE / "example.toml")["write_files"]}
    packages = re.search(r'(?m)^PACKAGES="(.*)"$', files["/etc/spotinference/machine.env"])
    assert packages is not None
    assert {"g++", "gcc", "libc6-dev", "python3-dev"} <= set(packages[1].split())


def test_the_example_can_be_rendered() -> None:
    assert user_data(HERE / "example.toml")["runcmd"] == [["/usr/local/lib/spotinference/provision"]]


def test_user_data_has_no_secret_and_no_value_left_open(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    assert "@{" not in text
    assert "PrivateKey" not in text
    assert re.search(r"API_KEY=(?!%s)", text) is None


def test_units_are_valid(document: dict[str, Any], tmp_path: Path) -> None:
    root = write_files(document, tmp_path / "root")
    for name in FOREIGN_PROGRAMS:
        write_program(root / name)
    (root / "usr/lib/systemd/system").mkdir(parents=True)
    for name in FOREIGN_UNITS:
        what = "[Service]\nExecStart=/opt/vllm/bin/vllm\n" if name.endswith(".service") else "[Unit]\n"
        (root / "usr/lib/systemd/system" / name).write_text(what)
    units = [path.name for path in unit_files(root)]
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"--root={root}", *units], check=False, capture_output=True, text=True
    )
    assert result.stdout + result.stderr == "", "it exits with 0 on an unknown setting"
    assert result.returncode == 0


def test_units_are_hardened(document: dict[str, Any], tmp_path: Path) -> None:
    services = [path for path in unit_files(write_files(document, tmp_path)) if path.suffix == ".service"]
    for path in services:
        limit = 40 if path.stem == "spotinference-engine" else 25
        words = ["systemd-analyze", "security", "--offline=yes", f"--threshold={limit}", "--no-pager", str(path)]
        result = subprocess.run(words, check=False, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout


def test_every_unit_that_starts_with_the_system_is_enabled(document: dict[str, Any], tmp_path: Path) -> None:
    root = write_files(document, tmp_path)
    enabled = re.search(r'^UNITS="(.*)"$', (root / "etc/spotinference/machine.env").read_text(), re.MULTILINE)
    assert enabled is not None
    installable = {path.name for path in unit_files(root) if "WantedBy" in settings(path)}
    assert installable == {unit for unit in enabled[1].split() if not unit.startswith("wg-quick")}
    if (root / "etc/wireguard/wg0.conf").exists():
        assert "wg-quick@wg0.service" in enabled[1].split()


def test_only_a_machine_that_may_stop_itself_has_the_dead_mans_timer(tmp_path: Path) -> None:
    on_ec2 = {file["path"] for file in user_data(write_machine(tmp_path))["write_files"]}
    elsewhere = {file["path"] for file in user_data(write_machine(tmp_path, provider="hyperstack"))["write_files"]}
    assert {Path(path).name for path in on_ec2 - elsewhere} == {
        "dead-man",
        "spotinference-dead-man.service",
        "spotinference-dead-man.timer",
    }


def test_a_spot_machine_reports_its_notice_with_its_own_key(tmp_path: Path) -> None:
    root = write_files(user_data(write_machine(tmp_path, more=SPOT)), tmp_path)
    unit = settings(root / "etc/systemd/system/spotinference-spot-watch.service")
    assert shlex.split(unit["ExecStart"][0])[1:3] == ["spot-watch", "h100x2-1"]
    bus = load(root / "etc/spotinference/spot-watch.toml").bus
    assert (bus.url, bus.ca_file) == ("tls://nats.internal:4222", Path("/etc/spotinference/nats-ca.pem"))
    name = unit["LoadCredential"][0].partition(":")[0]
    assert bus.nkey_file == Path("/run/credentials/spotinference-spot-watch.service") / name
    assert bus.nkey_file.stem == "h100x2-1", "the user's name is that of the file"


def test_the_dead_mans_timer_begins_after_the_longest_wake(tmp_path: Path) -> None:
    root = write_files(user_data(write_machine(tmp_path)), tmp_path)
    minutes = settings(root / "etc/systemd/system/spotinference-dead-man.timer")["OnBootSec"][0]
    waker = WakerSection()
    longest = max(600.0, waker.booting_limit, waker.reaching_limit + waker.loading_limit)
    assert int(minutes.removesuffix("min")) * 60 > longest


def test_the_firewall_is_accepted_by_nft_and_drops_by_default(document: dict[str, Any], tmp_path: Path) -> None:
    root = write_files(document, tmp_path)
    path = root / "etc/nftables.conf"
    result = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", *program("nft", *NFT), "-c", "-f", str(path)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.stderr == ""
    assert result.returncode == 0
    rules = path.read_text()
    assert rules.count("policy drop;") == 2
    opened = set(re.findall(r"dport (\d+) ", rules))
    assert opened - {"51820"} == {"8000", "22", "68", "546"}
    assert ("51820" in opened) == (root / "etc/wireguard/wg0.conf").exists()
    for line in re.findall(r".*dport (?:8000|22) .*", rules):
        assert " saddr " in line, "nobody else reaches the engine or SSH"


def test_the_engine_may_use_the_gpus(tmp_path: Path) -> None:
    """ProtectClock allows the clock's device, and with that no other."""
    root = write_files(user_data(write_machine(tmp_path)), tmp_path)
    assert set(settings(root / ENGINE_UNIT)).isdisjoint(
        {"PrivateDevices", "ProtectClock", "DevicePolicy", "DeviceAllow"}
    )


def test_the_services_alone_reach_the_engine_and_are_counted(tmp_path: Path) -> None:
    root = write_files(user_data(write_machine(tmp_path)), tmp_path)
    programs = (" ".join(program("nft", *NFT)), " ".join(program("ip", *IP)))
    probe = [sys.executable, str(PROBE), str(root / "etc/nftables.conf"), *programs, SERVICE, BASTION, STRANGER]
    unshare = ["unshare", "--user", "--map-root-user", "--net"]
    result = subprocess.run([*unshare, *probe], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"source": SERVICE, "ports": [8000], "counted": True},
        {"source": BASTION, "ports": [22], "counted": False},
        {"source": STRANGER, "ports": [], "counted": False},
    ]


@pytest.mark.parametrize("of_class", CLASSES)
def test_the_engine_is_started_as_its_version_understands(of_class: str, tmp_path: Path) -> None:
    root = write_files(user_data(write_machine(tmp_path, of_class=of_class)), tmp_path)
    unit = settings(root / ENGINE_UNIT)
    words = shlex.split(unit["ExecStart"][0])
    variables = {word.partition("=")[0] for line in unit["Environment"] for word in line.split()}
    known = set(VLLM_NAMES.read_text("utf-8").split())
    used = {word for word in words if word.startswith("--")} | {v for v in variables if v.startswith("VLLM_")}
    assert used - known == set()
    assert f"tool-call-parser={dict(pairwise(words))['--tool-call-parser']}" in known


@pytest.mark.parametrize("of_class", CLASSES)
def test_the_engine_needs_no_compiler_of_cuda_and_keeps_what_it_compiles(of_class: str, tmp_path: Path) -> None:
    """By vLLM 0.32's choice of kernels: these are what would call nvcc at the first start of a class."""
    unit = settings(write_files(user_data(write_machine(tmp_path, of_class=of_class)), tmp_path / "root") / ENGINE_UNIT)
    environment = dict(word.split("=", 1) for line in unit["Environment"] for word in line.split())
    assert environment["CUDA_HOME"] == "/nonexistent", "has_flashinfer() is false then"
    assert (environment["VLLM_USE_FLASHINFER_SAMPLER"], environment["VLLM_USE_DEEP_GEMM"]) == ("0", "0")
    options = dict(pairwise(shlex.split(unit["ExecStart"][0])))
    assert options.get("--gdn-prefill-backend") == ("triton" if of_class == "qwen3-coder-h100x2" else None)
    assert options.get("--linear-backend") == ("marlin" if of_class == "70b-a100x2" else None)
    caches = [value for name, value in environment.items() if name == "HOME" or "CACHE" in name]
    assert len(caches) == 3
    assert all(Path(path).is_relative_to(unit["ReadWritePaths"][0]) for path in caches)


def test_the_engine_is_closed_but_for_its_private_address_and_key(document: dict[str, Any], tmp_path: Path) -> None:
    root = write_files(document, tmp_path)
    unit = settings(root / ENGINE_UNIT)
    words = shlex.split(unit["ExecStart"][0])
    options = dict(pairwise(words))
    assert options["--host"] == "10.0.4.11"
    assert options["--tensor-parallel-size"] == "2"
    assert "--api-key" not in words, "the key is on no command line"
    assert unit["EnvironmentFile"] == ["/etc/spotinference/engine-key.env"]
    environment = {word for line in unit["Environment"] for word in line.split()}
    assert {"HF_HUB_OFFLINE=1", "VLLM_NO_USAGE_STATS=1", "DO_NOT_TRACK=1"} <= environment
    assert not any("DEV_MODE" in word for word in (*environment, *words))
    assert "--enable-sleep-mode" not in words
    waits = next(word for word in environment if word.startswith("VLLM_ENGINE_READY_TIMEOUT_S="))
    assert int(waits.partition("=")[2]) < WakerSection().loading_limit


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ("spare = 1\n", "unknown field `spare`"),
        ('volume = "nvme1n1"\n', "volume"),
        (SPOT.replace("0" * 64, "0"), "package_sha256"),
        (WIREGUARD.replace("10.0.4.11/32", "10.99.0.11/32"), "address must be the one in [wireguard], 10.99.0.11/32"),
        (
            WIREGUARD.replace("10.99.0.1/32", "10.99.0.1/16"),
            "wireguard.peer_addresses must be an IP address or network",
        ),
    ],
)
def test_a_wrong_value_is_named(more: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"machine\.toml: ") as raised:
        render(write_machine(tmp_path, more=more))
    assert fault in str(raised.value)
