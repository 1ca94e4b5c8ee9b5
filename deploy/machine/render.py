"""Prints the cloud-init user data that makes one GPU machine: `python -m deploy.machine.render FILE`.

FILE has the machine's own values, as `example.toml` shows. Those of its class are in `classes/`, and what the machine
gets is in `root/`, at the place that it has there. A value is written `@{name}`.
"""

import hashlib
import ipaddress
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import msgspec

from shared.config.values import Section
from shared.errors import Misconfigured
from shared.messages.codec import Unreadable, decode_text, decode_toml
from shared.version import VERSION

HERE = Path(__file__).parent
REQUIREMENTS = HERE.parents[1] / "requirements"
PORT = 8000
UID = 7000
"""Of the user that the engine runs as, fixed because the firewall names it by number."""
LIMIT_BYTES = 16384
"""Of user data on EC2."""
PACKAGES = ("curl", "g++", "gcc", "libc6-dev", "nftables", "openssl", "python3-dev", "python3-venv")
"""Triton and torch, in the engine, compile at run time: that takes gcc, g++ and Python's headers. CUDA's own compiler
is not needed, as `spotinference-engine.service` and the classes keep to kernels that vLLM brings."""
OPTIONAL = {
    "dead-man": "spotinference-dead-man.timer",
    "spot-watch": "spotinference-spot-watch.service",
    "wg0": "wg-quick@wg0.service",
}
"""Parts of the names of files that only some machines get, and the unit that they are for."""
_VALUE = re.compile(r"@\{(\w+)\}")
_COMMENT = re.compile(r"(?m)^[ \t]*#(?!!).*\n")
"""A line that is one. They are left out, since user data has a limit."""
_LINE = re.compile(r"[^\s\"'\\$`%]+")
"""A value that means the same to systemd, to a shell and in TOML."""

T = TypeVar("T", bound=Section)
Word = Annotated[str, msgspec.Meta(pattern=rf"^{_LINE.pattern}$")]


class MachineClass(Section, frozen=True, kw_only=True):
    """What machines with the same GPUs and the same model have in common."""

    model: Annotated[str, msgspec.Meta(pattern=r"^[\w.-]+/[\w.-]+$")]
    """Its name at Hugging Face, which is also `served_as` in the configuration of the services."""
    gpus: Annotated[int, msgspec.Meta(ge=1, le=16)]
    gpu_memory_utilization: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    max_model_len: Annotated[int, msgspec.Meta(ge=1)]
    max_num_seqs: Annotated[int, msgspec.Meta(ge=1)]
    tool_call_parser: Word
    arguments: tuple[Word, ...] = ()
    """Further arguments of `vllm serve`, which the class needs on its GPUs."""


class WireGuard(Section, frozen=True, kw_only=True):
    """The machine's end of a tunnel to the services' network."""

    address: Word
    peer_key: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9+/]{43}=$")]
    peer_endpoint: Word
    peer_addresses: tuple[Word, ...]


class Spot(Section, frozen=True, kw_only=True):
    """What a spot machine of EC2 needs to report that it is taken back."""

    machine: Annotated[str, msgspec.Meta(pattern=r"^[\w.-]+$")]
    bus_url: Word
    package_sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    private_ca: bool = False


class Machine(Section, frozen=True, kw_only=True):
    """One machine."""

    class_name: Annotated[str, msgspec.Meta(pattern=r"^[\w-]+$")] = msgspec.field(name="class")
    provider: Literal["ec2", "hyperstack"]
    address: Word
    sources: tuple[Word, ...]
    bastions: tuple[Word, ...]
    revision: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{40}$")]
    artifacts_url: Annotated[str, msgspec.Meta(pattern=rf"^https://{_LINE.pattern}$")]
    driver_packages: tuple[Word, ...] = ()
    volume: Annotated[str, msgspec.Meta(pattern=r"^/dev/[\w/.-]+$")] | None = None
    wireguard: WireGuard | None = None
    spot: Spot | None = None


def render(path: Path) -> str:
    """Return the user data of the machine that the file describes.

    Raises:
        Misconfigured: names the file, the place in it and the reason.
    """
    machine = _read(path, Machine)
    machine_class = _read(HERE / "classes" / f"{machine.class_name}.toml", MachineClass)
    for place, fault in _faults(machine):
        raise Misconfigured(f"{path}: {place} {fault}")
    text = _user_data(_files(machine, _values(machine, machine_class)))
    if len(text.encode()) > LIMIT_BYTES:
        raise Misconfigured(f"{path}: {len(text.encode())} bytes of user data, and EC2 takes {LIMIT_BYTES}")
    return text


def _read(path: Path, kind: type[T]) -> T:
    try:
        return decode_toml(path.read_bytes(), kind, _refuse)
    except OSError as error:
        raise Misconfigured(f"{path}: cannot be read: {error.strerror}") from error
    except Unreadable as error:
        raise Misconfigured(f"{path}: {error}") from error


def _refuse(kind: type[Any], value: object) -> NoReturn:
    raise NotImplementedError(kind, value)


def _faults(machine: Machine) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the addresses: the key, and the reason."""
    for place, text in (("address", machine.address), *_networks(machine)):
        try:
            ipaddress.ip_address(text) if place == "address" else ipaddress.ip_network(text)
        except ValueError as error:
            yield place, f"must be an IP address{'' if place == 'address' else ' or network'}: {error}"
    if not machine.sources:
        yield "sources", "must name the gateways, the waker and the meter: without them nobody reaches the engine"
    if machine.spot and machine.provider != "ec2":
        yield "spot", "needs provider ec2: no other one gives notice"
    if machine.wireguard and machine.wireguard.address.partition("/")[0] != machine.address:
        yield "address", f"must be the one in [wireguard], {machine.wireguard.address}"


def _networks(machine: Machine) -> Iterator[tuple[str, str]]:
    yield from (("sources", source) for source in machine.sources)
    yield from (("bastions", bastion) for bastion in machine.bastions)
    if machine.wireguard:
        yield from (("wireguard.peer_addresses", network) for network in machine.wireguard.peer_addresses)


def _units(machine: Machine) -> list[str]:
    """Return what starts with the system."""
    units = ["spotinference-weights.service", "spotinference-engine.service"]
    if machine.wireguard:
        units.append("wg-quick@wg0.service")
    if machine.provider == "ec2":  # elsewhere a machine that powers itself off is billed on
        units.append("spotinference-dead-man.timer")
    if machine.spot:
        units.append("spotinference-spot-watch.service")
    return units


def _values(machine: Machine, machine_class: MachineClass) -> dict[str, str]:
    wireguard, spot = machine.wireguard, machine.spot
    values = msgspec.structs.asdict(machine_class) | {
        "arguments": " ".join(machine_class.arguments),
        "address": machine.address,
        "port": PORT,
        "uid": UID,
        "revision": machine.revision,
        "model_dir": f"/srv/models/{machine_class.model.partition('/')[2]}",
        "artifacts_url": machine.artifacts_url,
        "volume": machine.volume or "",
        "engine_sha256": _sha256_of("engine.txt"),
        "command_venv": "/opt/spotinference" if spot else "",
        "command_sha256": _sha256_of("setup.txt") if spot else "",
        "package": f"spotinference-{VERSION}-py3-none-any.whl" if spot else "",
        "package_sha256": spot.package_sha256 if spot else "",
        "spot_machine": spot.machine if spot else "",
        "bus_url": spot.bus_url if spot else "",
        "bus_ca": 'ca_file = "/etc/spotinference/nats-ca.pem"\n' if spot and spot.private_ca else "",
        "packages": " ".join((*PACKAGES, *(["wireguard-tools"] if wireguard else []), *machine.driver_packages)),
        "units": " ".join(_units(machine)),
        "network_unit": "wg-quick@wg0.service" if wireguard else "",
        "engine_rules": _rules(machine.sources, f"tcp dport {PORT} counter name engine accept", bool(wireguard)),
        "access_rules": _rules(machine.bastions, "tcp dport 22 accept", tunnelled=False)
        + ("\n        udp dport 51820 accept" if wireguard else ""),
        "wireguard_key": "/etc/wireguard/private.key" if wireguard else "",
        "wireguard_address": wireguard.address if wireguard else "",
        "peer_key": wireguard.peer_key if wireguard else "",
        "peer_endpoint": wireguard.peer_endpoint if wireguard else "",
        "peer_addresses": ", ".join(wireguard.peer_addresses) if wireguard else "",
    }
    return {name: str(value) for name, value in values.items()}


def _sha256_of(requirements: str) -> str:
    return hashlib.sha256((REQUIREMENTS / requirements).read_bytes()).hexdigest()


def _rules(networks: tuple[str, ...], verdict: str, tunnelled: bool) -> str:
    """Return the firewall's rules for these networks, one for IPv4 and one for IPv6."""
    rules = []
    for family, version in (("ip", 4), ("ip6", 6)):
        of_version = [text for text in networks if ipaddress.ip_network(text).version == version]
        if of_version:
            by_tunnel = 'iifname "wg0" ' if tunnelled else ""
            rules.append(f"        {by_tunnel}{family} saddr {{ {', '.join(of_version)} }} {verdict}")
    return "\n".join(rules)


def _files(machine: Machine, values: dict[str, str]) -> dict[PurePosixPath, str]:
    """Return what the machine's files contain, by their path on it."""
    units = _units(machine)
    files = {}
    for source in sorted(path for path in (HERE / "root").rglob("*") if path.is_file()):
        path = PurePosixPath("/") / source.relative_to(HERE / "root")
        needed_by = next((unit for name, unit in OPTIONAL.items() if name in path.name), None)
        if needed_by is None or needed_by in units:
            text = _COMMENT.sub("", decode_text(source.read_bytes()))
            files[path] = _VALUE.sub(lambda name: values[name[1]], text)
    return files


def _user_data(files: dict[PurePosixPath, str]) -> str:
    lines = [
        "#cloud-config",
        "users:",
        "- default",
        "- name: vllm",
        f'  uid: "{UID}"',
        "  system: true",
        "  no_create_home: true",
        "  homedir: /srv/cache",
        "  shell: /usr/sbin/nologin",
        "  groups: [video, render]",
    ]
    lines.append("write_files:")
    for path, content in files.items():
        mode = "0755" if "/lib/" in str(path) else "0600" if path.parent.name == "wireguard" else "0644"
        lines += [f"- path: {path}", f'  permissions: "{mode}"', "  content: |"]
        lines += [f"   {line}" if line else "" for line in content.splitlines()]
    lines += ["runcmd:", "- [/usr/local/lib/spotinference/provision]"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the user data, or say what is wrong with the file."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m deploy.machine.render FILE")
    try:
        sys.stdout.write(render(Path(sys.argv[1])))
    except Misconfigured as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
