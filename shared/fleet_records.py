"""Which records of the fleet may be believed: the bus carries them, the configuration says where requests may go."""

from collections.abc import Callable
from urllib.parse import urlsplit

from shared.config.fleet import Machine
from shared.config.sections import Config
from shared.messages.codec import Unreadable
from shared.messages.waker import MachineRecord

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def record_check(config: Config) -> Callable[[str, MachineRecord], None]:
    """What a view of the fleet asks of each record before it takes it over: `Unreadable` with the reason."""
    machines = config.machines

    def check(key: str, record: MachineRecord) -> None:
        machine = machines.get(key)
        if machine is None:
            raise Unreadable("no [[machine]] has this id")
        check_machine(key, record)
        if record.tier != machine.tier:
            raise Unreadable(f"its tier is {machine.tier!r}, not {record.tier!r}")
        if record.endpoint is not None and not is_assigned(machine, record.endpoint):
            expected = machine.endpoint or "an address of this host"
            raise Unreadable(f"its endpoint is {expected}, not {record.endpoint!r}")

    return check


def check_machine(key: str, record: MachineRecord) -> None:
    """Raise `Unreadable` for a record that stands under another machine's key: it would be shown as that one's."""
    if record.machine != key:
        raise Unreadable(f"it is of another machine, {record.machine!r}")


def is_assigned(machine: Machine, endpoint: str) -> bool:
    """Whether the configuration gives the machine this endpoint; that of a `process` machine has a port of its own."""
    if machine.endpoint is not None:
        return endpoint == machine.endpoint.rstrip("/")
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    if host not in LOOPBACK or port is None:
        return False
    shown = f"[{host}]" if ":" in host else host
    return endpoint == f"http://{shown}:{port}"
